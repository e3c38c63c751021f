"""Netlink without an event loop, and the kernel's errors as ours.

pyroute2 writes the messages of what changes anything, and reads those of filters, qdiscs and
sets. But each of its calls runs an event loop: 0.7 ms in a User-Mode Linux guest whose kernel
has answered after 0.04. A fault reads some forty times, so what only reads goes by a plain
socket; and what is read of thousands of links or routes is read here, by ``struct``.
"""

from __future__ import annotations

import functools
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from pyroute2.netlink.exceptions import NetlinkError

from chaos_agent.linux.refusal import refusal
from chaos_core.errors import ChaosError, Unsupported

__all__ = ["Connection", "NetlinkError", "attributes", "decoded", "kernel_call", "packed", "text"]

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")

REQUEST, DUMP = 0x1, 0x300  # linux/netlink.h
_ACK = 0x4  # NLM_F_ACK
MAX_MESSAGES: Final = 50_000  # of one dump: it takes 0.2 s
_ERROR, _DONE = 2, 3
_INTERRUPTED = 0x10
_TIMEOUT = 1.0  # seconds; the kernel answers at once
_BUFFER = 1 << 17  # a message of the kernel's own has 32 KiB at most
_TRIES = 10  # of a dump that a change has interrupted
_HEADER = struct.Struct("=IHHII")
_CODE = struct.Struct("=i")
_ATTRIBUTE = struct.Struct("=HH")


def kernel_call(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """A method of an adapter: what the kernel refuses is raised as ``refusal`` has it."""

    @functools.wraps(method)
    def wrapped(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        except NetlinkError as error:
            given = ", ".join(str(value) for value in (*args, *kwargs.values()))
            name = method.__name__.replace("_", " ")
            said = str(error.args[1]) if len(error.args) > 1 else ""
            raise refusal(name, error.code or 0, said, given) from error

    return wrapped


class Connection:
    """One netlink socket, for questions one after the other. Not thread-safe.

    Messages are whole, with their header of ``HEADER`` bytes, as pyroute2 reads them.
    """

    HEADER: Final = _HEADER.size

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        self._protocol = protocol
        self._sequence = 0
        self._open()

    def _open(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, self._protocol)
        self._socket.settimeout(_TIMEOUT)
        self._socket.bind((0, 0))

    def close(self) -> None:
        self._socket.close()

    def ask(self, kind: int, body: bytes) -> bytes:
        """The one message of an answer. Raises NetlinkError for what the kernel refuses."""
        self._send(kind, REQUEST, body)
        for what, message in self._receive():
            if what == _ERROR and (code := _code(message)):
                raise NetlinkError(code)
            return message
        raise ChaosError("the kernel does not answer over netlink")

    def tell(self, kind: int, body: bytes) -> None:
        """Have something done. Raises NetlinkError for what the kernel refuses."""
        self._send(kind, REQUEST | _ACK, body)
        for what, message in self._receive():
            if what == _ERROR:
                if code := _code(message):
                    raise NetlinkError(code)
                return

    def dump(self, kind: int, body: bytes, flags: int = DUMP) -> list[bytes]:
        """All messages of a listing. Raises NetlinkError, Unsupported when they are too many.

        A list that changed while it was read may lack what is there, so it is never returned:
        ChaosError after some tries.
        """
        for _ in range(_TRIES):
            found: list[bytes] = []
            interrupted = False
            self._send(kind, REQUEST | flags, body)
            for what, message in self._receive():
                if what in (_DONE, _ERROR):
                    if code := _code(message):
                        raise NetlinkError(code)
                    break
                interrupted = interrupted or bool(_HEADER.unpack_from(message)[2] & _INTERRUPTED)
                found.append(message)
                if len(found) > MAX_MESSAGES:
                    self.close()  # with what is left of the answer
                    self._open()
                    raise Unsupported(
                        f"the kernel lists more than {MAX_MESSAGES} entries, too many to read",
                        hint="name single addresses as peers, or the interface",
                    )
            if not interrupted:
                return found
        raise ChaosError(
            f"what the kernel lists kept changing while it was read, {_TRIES} times",
            hint="name single addresses as peers if it is the routes that change",
        )

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        size = _HEADER.size + len(body)
        self._socket.send(_HEADER.pack(size, kind, flags, self._sequence, 0) + body)

    def _receive(self) -> Iterator[tuple[int, bytes]]:
        """The answer's messages as (type, message), until the caller has enough."""
        while True:
            try:
                data = self._socket.recv(_BUFFER)
            except TimeoutError:
                raise ChaosError("the kernel does not answer over netlink") from None
            at = 0
            while at + _HEADER.size <= len(data):
                size, kind, _, sequence, _ = _HEADER.unpack_from(data, at)
                message = data[at : at + size]
                at += (size + 3) & ~3
                if sequence == self._sequence:
                    yield kind, message


def _code(message: bytes) -> int:
    """The errno that ends an answer; 0 for none."""
    return -int(_CODE.unpack_from(message.ljust(_HEADER.size + _CODE.size, b"\0"), _HEADER.size)[0])


def decoded(kind: type[Any], messages: Iterable[bytes]) -> list[Any]:
    """The messages as pyroute2's class for them reads them."""
    found = []
    for data in messages:
        message = kind(data)
        message.decode()
        found.append(message)
    return found


def attributes(data: bytes, at: int) -> dict[int, bytes]:
    """The attributes behind the first ``at`` bytes, by kind."""
    found = {}
    unpack = _ATTRIBUTE.unpack_from
    end = len(data) - 4
    while at <= end:
        size, kind = unpack(data, at)
        if size < 4:
            break
        found[kind & 0x3FFF] = data[at + 4 : at + size]
        at += (size + 3) & ~3
    return found


def packed(wanted: Iterable[tuple[int, bytes]]) -> bytes:
    """Attributes as they are sent."""
    return b"".join(
        _ATTRIBUTE.pack(4 + len(data), kind) + data + bytes(-len(data) % 4) for kind, data in wanted
    )


def text(data: bytes) -> str:
    """A string of the kernel's, which ends with a zero."""
    return data.rstrip(b"\0").decode(errors="replace")
