"""TCP connections of this network namespace, as /proc/net lists them."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator
from pathlib import Path

_TABLES = ("/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6")
_ESTABLISHED = "01"  # tcp_states.h


def connections_to(ports: Collection[int]) -> Iterator[tuple[str, str]]:
    """Open connections to one of these ports of this node, as (own address, other address)."""
    for table in map(Path, _TABLES):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            _, near, far, state, *_ = line.split()
            if state == _ESTABLISHED and int(near.partition(":")[2], 16) in ports:
                yield address(near), address(far)


def address(text: str) -> str:
    """``0100007F:0016`` is 127.0.0.1: words of 32 bits in the machine's order."""
    data = bytes.fromhex(text.partition(":")[0])
    packed = b"".join(data[at : at + 4][::-1] for at in range(0, len(data), 4))
    found = ipaddress.ip_address(packed)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)
