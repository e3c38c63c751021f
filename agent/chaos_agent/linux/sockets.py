"""TCP sockets of this network namespace: connections as /proc/net lists them, and who listens."""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from chaos_core.errors import Unsupported

_TABLES = ("/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6")
_ESTABLISHED = "01"  # tcp_states.h
_CONNECTED, _LISTEN = 1, 10
# linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h: struct inet_diag_req_v2 and inet_diag_msg
_SOCK_DIAG, _BY_FAMILY = 4, 20
_ASKED = struct.Struct("=BBBxI48x")
_PORT_AT, _OWNER_AT, _ATTRIBUTES_AT = 4, 64, 72
_BYTECODE, _CGROUP_ID = 1, 21
_D_COND, _ANY_PORT = 8, -1


def connections_to(ports: Collection[int]) -> Iterator[tuple[str, str]]:
    """Open connections to one of these ports of this node, as (own address, other address)."""
    for table in map(Path, _TABLES):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            _, near, far, state, *_ = line.split()
            if state == _ESTABLISHED and int(near.partition(":")[2], 16) in ports:
                yield address(near), address(far)


def listeners(port: int) -> frozenset[int]:
    """The cgroups of v2, by inode, of the sockets that listen at this port of this node.

    The kernel's own list of sockets tells it to everybody; whose descriptors they are takes
    the right to trace their processes. Raises Unsupported where there is no such list.
    """
    try:
        found = {one.group for one in listening() if one.port == port}
    except Unsupported as error:
        raise Unsupported(f"who listens at a port cannot be told: {error.what}") from None
    return frozenset(found - {0})


@dataclass(frozen=True, slots=True)
class Tcp:
    """A TCP socket here. ``group`` is the cgroup of v2 that it was made in, 0 if unknown."""

    port: int
    uid: int
    inode: int
    group: int


def listening() -> list[Tcp]:
    """Those that listen. Raises Unsupported when this kernel does not list sockets."""
    return _sockets(_LISTEN)


def connected(host: str) -> list[Tcp]:
    """Those of open connections to ``host`` (mapped, too). Raises Unsupported likewise."""
    packed = ipaddress.ip_address(host).packed
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    bits = len(packed) * 8
    condition = struct.pack("=BBxxi", family, bits, _ANY_PORT) + packed
    length = 4 + len(condition)
    return _sockets(_CONNECTED, struct.pack("=BBH", _D_COND, length, length + 4) + condition)


def _sockets(state: int, condition: bytes = b"") -> list[Tcp]:
    """TCP sockets in a state, of both families, by the kernel's filter ``condition``."""
    # Imported when first needed, for its size.
    from chaos_agent.linux.netlink import Connection, NetlinkError, attributes, packed

    found = []
    asked = packed([(_BYTECODE, condition)]) if condition else b""
    try:
        with closing(Connection(_SOCK_DIAG)) as connection:
            for family in (socket.AF_INET, socket.AF_INET6):
                head = _ASKED.pack(family, socket.IPPROTO_TCP, 0, 1 << state)
                for message in connection.dump(_BY_FAMILY, head + asked):
                    data = message[Connection.HEADER :]
                    (port,) = struct.unpack_from("!H", data, _PORT_AT)
                    uid, inode = struct.unpack_from("=II", data, _OWNER_AT)
                    group = attributes(data, _ATTRIBUTES_AT).get(_CGROUP_ID, b"")
                    found.append(Tcp(port, uid, inode, int.from_bytes(group, sys.byteorder)))
    except (NetlinkError, OSError) as error:
        raise Unsupported(f"sockets cannot be listed ({error})", hint="modprobe tcp_diag") from None
    return found


def address(text: str) -> str:
    """``0100007F:0016`` is 127.0.0.1: words of 32 bits in the machine's order."""
    data = bytes.fromhex(text.partition(":")[0])
    packed = b"".join(data[at : at + 4][::-1] for at in range(0, len(data), 4))
    found = ipaddress.ip_address(packed)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)
