"""Sockets of this network namespace: connections as /proc/net lists them, and who opened one."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from chaos_agent.linux.cgroups import unified_id

_TABLES = ("/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6")
_ESTABLISHED = "01"  # tcp_states.h
_WAITING = ((socket.IPPROTO_TCP, 1 << 10), (socket.IPPROTO_UDP, 1 << 7))  # LISTEN, CLOSE


def connections_to(ports: Collection[int]) -> Iterator[tuple[str, str]]:
    """Open connections to one of these ports of this node, as (own address, other address)."""
    for table in map(Path, _TABLES):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            _, near, far, state, *_ = line.split()
            if state == _ESTABLISHED and int(near.partition(":")[2], 16) in ports:
                yield address(near), address(far)


def groups_at(port: int) -> frozenset[int]:
    """The cgroups (v2, by inode) that opened what waits at that port, TCP's and UDP's.

    Without the root, which is nobody's in particular, and is all that a kernel without v2 says.
    """
    from pyroute2 import DiagSocket
    from pyroute2.netlink.exceptions import NetlinkError

    found = set()
    with DiagSocket() as diag:
        diag.bind()
        for family in (socket.AF_INET, socket.AF_INET6):
            for protocol, states in _WAITING:
                with suppress(NetlinkError):  # a kernel that cannot tell of these
                    for message in diag.get_sock_stats(family, states, protocol):
                        if message["idiag_sport"] == port:
                            found.add(message.get_attr("INET_DIAG_CGROUP_ID") or 0)
    return frozenset(found - {0, unified_id("/")})


def address(text: str) -> str:
    """``0100007F:0016`` is 127.0.0.1: words of 32 bits in the machine's order."""
    data = bytes.fromhex(text.partition(":")[0])
    packed = b"".join(data[at : at + 4][::-1] for at in range(0, len(data), 4))
    found = ipaddress.ip_address(packed)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)
