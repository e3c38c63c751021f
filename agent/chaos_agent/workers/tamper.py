"""Bytes in packets are replaced by others, and the checksums are right again.

What is not hurt goes on as it was: what does not hold the bytes, fragments, and whatever
is not TCP or UDP. Bytes that stand in two packets are not found.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from chaos_agent.linux.nfqueue import Queue

_TCP, _UDP = 6, 17
_CHECKSUM_AT = {_TCP: 16, _UDP: 6}
_FRAGMENT = 0x3FFF  # IPv4's offset, and the flag that says that more follow
_IPV6_HEADER = 40
_OPTIONS = (0, 60)  # of IPv6 that may stand before TCP and UDP: hop-by-hop, destination
_FITS = 1280  # bytes that every link takes; what grows beyond could be dropped for its size


async def serve(arguments: dict[str, Any], tell: Callable[[str], object]) -> None:
    """Answer for what comes by ``queue`` until killed; ``find`` and ``replace`` are hexadecimal."""
    find, replace = (bytes.fromhex(arguments[name]) for name in ("find", "replace"))
    queue = Queue(arguments["queue"])
    tell("")
    for number, packet in queue.packets():
        queue.accept(number, tampered(packet, find, replace))


def tampered(packet: bytes, find: bytes, replace: bytes) -> bytes | None:
    """The packet with ``replace`` for each ``find`` in its payload; None to let it be."""
    try:
        return _tampered(packet, find, replace)
    except (IndexError, struct.error):  # whatever a raw socket may send
        return None


def _tampered(packet: bytes, find: bytes, replace: bytes) -> bytes | None:
    four = packet[0] >> 4 == 4
    if four:
        at, protocol, addresses = (packet[0] & 15) * 4, packet[9], packet[12:20]
        whole = _word(packet, 2) == len(packet) and not _word(packet, 6) & _FRAGMENT
    else:
        at, protocol, addresses = _IPV6_HEADER, packet[6], packet[8:40]
        whole = _word(packet, 4) + _IPV6_HEADER == len(packet)
        while protocol in _OPTIONS:
            protocol, at = packet[at], at + (packet[at + 1] + 1) * 8
    if not whole or protocol not in _CHECKSUM_AT:
        return None
    if protocol == _UDP and _word(packet, at + 4) != len(packet) - at:
        return None
    payload_at = at + ((packet[at + 12] >> 4) * 4 if protocol == _TCP else 8)
    payload = packet[payload_at:].replace(find, replace)
    size = payload_at + len(payload)
    if payload == packet[payload_at:] or size > max(len(packet), _FITS):
        return None
    segment = bytearray(packet[at:payload_at] + payload)
    if protocol == _UDP:
        struct.pack_into("!H", segment, 4, len(segment))
    check_at = _CHECKSUM_AT[protocol]
    if protocol == _TCP or _word(packet, at + check_at):  # UDP may do without
        pseudo = addresses + struct.pack("!II", len(segment), protocol)
        struct.pack_into("!H", segment, check_at, 0)
        found = checksum(pseudo + segment)
        struct.pack_into("!H", segment, check_at, found or (0xFFFF if protocol == _UDP else 0))
    header = bytearray(packet[:at])
    struct.pack_into("!H", header, 2 if four else 4, size - (0 if four else _IPV6_HEADER))
    if four:
        struct.pack_into("!H", header, 10, 0)
        struct.pack_into("!H", header, 10, checksum(bytes(header)))
    return bytes(header + segment)


def checksum(data: bytes) -> int:
    """RFC 1071: the complement of the sum of 16-bit words, which is a remainder by 0xffff."""
    return -int.from_bytes(data + bytes(len(data) % 2)) % 0xFFFF


def _word(packet: bytes, at: int) -> int:
    return int(struct.unpack_from("!H", packet, at)[0])
