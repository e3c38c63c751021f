"""TCP sockets of this network namespace: connections as /proc/net lists them, and who listens."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection, Iterator
from pathlib import Path

from chaos_core.errors import Unsupported

_TABLES = ("/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6")
_ESTABLISHED = "01"  # tcp_states.h
_LISTEN = 10


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
    from pyroute2 import DiagSocket, NetlinkError  # imported when first needed, for its size

    found = set()
    try:
        with DiagSocket() as diag:
            for family in (socket.AF_INET, socket.AF_INET6):
                for one in diag.get_sock_stats(family=family, states=1 << _LISTEN, extensions=0):
                    if one["idiag_sport"] == port:
                        found.add(one.get_attr("INET_DIAG_CGROUP_ID"))
    except (NetlinkError, OSError) as error:
        raise Unsupported(f"who listens at a port cannot be told: inet_diag: {error}") from None
    return frozenset(found - {None})


def address(text: str) -> str:
    """``0100007F:0016`` is 127.0.0.1: words of 32 bits in the machine's order."""
    data = bytes.fromhex(text.partition(":")[0])
    packed = b"".join(data[at : at + 4][::-1] for at in range(0, len(data), 4))
    found = ipaddress.ip_address(packed)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)
