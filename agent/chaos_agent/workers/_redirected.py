"""Sockets for what a rule of ours redirects to a port of this node."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

Address = tuple[str, int]

EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - what others send here is redirected as well
HERE = ("127.0.0.1", "::1")
_SO_ORIGINAL_DST = 80  # netfilter_ipv4.h, and the same number in netfilter_ipv6/ip6_tables.h


def sockets(
    port: int, hosts: tuple[str, str], kind: socket.SocketKind = socket.SOCK_STREAM
) -> Iterator[socket.socket]:
    """One bound to that port for each family that the node has. Raises OSError if it is taken."""
    for family, host in zip((socket.AF_INET, socket.AF_INET6), hosts, strict=True):
        try:
            one = socket.socket(family, kind)
        except OSError:
            continue  # a host without IPv6
        if kind == socket.SOCK_STREAM:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.setblocking(False)
        one.bind((host, port))
        yield one


def destination(client: socket.socket) -> Address:
    """Where a TCP client was going before it was redirected."""
    if client.family == socket.AF_INET:
        data = client.getsockopt(socket.SOL_IP, _SO_ORIGINAL_DST, 16)
        return socket.inet_ntoa(data[4:8]), struct.unpack("!H", data[2:4])[0]
    data = client.getsockopt(socket.IPPROTO_IPV6, _SO_ORIGINAL_DST, 28)
    return socket.inet_ntop(socket.AF_INET6, data[8:24]), struct.unpack("!H", data[2:4])[0]
