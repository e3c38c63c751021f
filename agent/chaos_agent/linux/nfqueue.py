"""Packets that a rule hands to a process (NFQUEUE): the kernel waits for a verdict on each.

The few messages of linux/netfilter/nfnetlink_queue.h that this takes. The bindings on PyPI
are built against libnetfilter_queue's headers and cannot set a queue to fail open.

The kernel cuts what is to be segmented, and completes checksums that a device would have
computed, before it hands a packet out: ``NFQA_CFG_F_GSO`` is not set. A process that is
stopped holds up ``_MOST`` packets, and those after them pass as they are.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

from chaos_core.errors import Unsupported

_NETLINK_NETFILTER = 12
_PACKET, _VERDICT, _CONFIG = (3 << 8 | kind for kind in range(3))  # NFNL_SUBSYS_QUEUE
_REQUEST, _ACK = 1, 4
_ERROR = 2  # NLMSG_ERROR, also the acknowledgement
_CFG_CMD, _CFG_PARAMS, _CFG_MAXLEN, _CFG_MASK, _CFG_FLAGS = range(1, 6)
_PACKET_HDR, _VERDICT_HDR, _PAYLOAD = 1, 2, 10
_BIND, _COPY_PACKET, _FAIL_OPEN, _ACCEPT = 1, 2, 1, 1
_WHOLE = 0xFFFF
_MOST = 4096  # packets that wait for a verdict: a TCP window at its largest
_WAITING = 16 * 2**20  # bytes of them
_SO_RCVBUFFORCE = 33
_BUFFER = 2**17
_HEAD, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=HH")
_OURS = struct.Struct("!BBH")  # struct nfgenmsg: family, version, queue


class Queue:
    """One queue of this network namespace, by its number; gone when it is closed.

    Raises Unsupported when it cannot be had: it takes CAP_NET_ADMIN, and one queue is
    one process's.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _WAITING)
            self._socket.bind((0, 0))
            self._send(
                _CONFIG,
                _REQUEST | _ACK,
                (_CFG_CMD, struct.pack("!BBH", _BIND, 0, socket.AF_UNSPEC)),
                (_CFG_PARAMS, struct.pack("!IB", _WHOLE, _COPY_PACKET)),
                (_CFG_MAXLEN, struct.pack("!I", _MOST)),
                (_CFG_MASK, struct.pack("!I", _FAIL_OPEN)),
                (_CFG_FLAGS, struct.pack("!I", _FAIL_OPEN)),
            )
            answer = self._socket.recv(_BUFFER)
            problem = -struct.unpack_from("=i", answer, _HEAD.size)[0]
            if problem:
                raise OSError(problem, os.strerror(problem))
        except OSError as error:
            self.close()
            raise Unsupported(f"queue {number} cannot be had: {error.strerror}") from None

    def packets(self) -> Iterator[tuple[int, bytes]]:
        """Packets as they come, from their IP header on, with the numbers for a verdict."""
        while True:
            try:
                data = self._socket.recv(_BUFFER)  # one message each
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # too many at once: those passed as they were
                    raise
                continue
            _, kind, *_ = _HEAD.unpack_from(data)
            if kind == _PACKET:
                found = dict(_attributes(data, _HEAD.size + _OURS.size))
                yield struct.unpack_from("!I", found[_PACKET_HDR])[0], found[_PAYLOAD]

    def accept(self, packet: int, changed: bytes | None = None) -> None:
        """Let a packet go on, as it is or ``changed``."""
        parts = [(_VERDICT_HDR, struct.pack("!II", _ACCEPT, packet))]
        if changed is not None:
            parts.append((_PAYLOAD, changed))
        self._send(_VERDICT, _REQUEST, *parts)

    def _send(self, kind: int, flags: int, *attributes: tuple[int, bytes]) -> None:
        body = _OURS.pack(socket.AF_UNSPEC, 0, self._number)
        for name, value in attributes:
            size = _ATTRIBUTE.size + len(value)
            body += _ATTRIBUTE.pack(size, name) + value + bytes(-size % 4)
        self._socket.send(_HEAD.pack(_HEAD.size + len(body), kind, flags, 0, 0) + body)

    def close(self) -> None:
        self._socket.close()


def _attributes(data: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    while at + _ATTRIBUTE.size <= len(data):
        size, name = _ATTRIBUTE.unpack_from(data, at)
        yield name, data[at + _ATTRIBUTE.size : at + size]
        at += max(size + -size % 4, _ATTRIBUTE.size)
