"""A proxy for plain HTTP/1.1 that hurts some of the requests that pass it.

The traffic of a port is redirected here while the lease lives; what is not hurt goes on
to where it was going. What is not HTTP/1 (TLS, HTTP/2, an upgrade, anything else) is
relayed as it is. Requests and answers are read with h11, which is strict.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import h11

from chaos_agent.workers._redirected import EVERYWHERE, destination, sockets

_CHUNK = 64 * 1024
_CONNECTIONS = 512
_METHODS = (b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"OPTI", b"PATC", b"TRAC", b"CONN")


@dataclass(slots=True)
class Harm:
    """What is done to which requests. ``share`` is 0 to 1, ``delay`` in seconds; ``truncate``
    in bytes of body, −1 for none; ``limit`` requests in ``period`` seconds, 0 for none."""

    path: str = "*"
    method: str = "*"
    share: float = 1.0
    status: int = 0
    delay: float = 0.0
    truncate: int = -1
    limit: int = 0
    period: float = 1.0
    _passed: deque[float] = field(default_factory=deque)

    def meets(self, request: h11.Request) -> bool:
        """Whether this request is one of those, by what it asks for and by lot."""
        path = request.target.decode("latin-1").partition("?")[0]
        return (
            fnmatchcase(path, self.path)
            and self.method in ("*", request.method.decode())
            and random.random() < self.share  # noqa: S311 - no secret
        )

    def refuses(self) -> int:
        """The status that is answered in place of the service; 0 to let it answer."""
        if not self.limit:
            return self.status
        now = time.monotonic()
        while self._passed and self._passed[0] <= now - self.period:
            self._passed.popleft()
        if len(self._passed) >= self.limit:
            return 429
        self._passed.append(now)
        return 0


async def serve(arguments: dict[str, Any], tell: Callable[[str], object]) -> None:
    """Listen on ``port`` of all addresses, and proxy until killed."""
    harm = Harm(**arguments["harm"])
    turns = asyncio.Semaphore(_CONNECTIONS)
    taken: set[asyncio.Task[None] | None] = set()  # asyncio's own hold on them is a weak one

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.add(task := asyncio.current_task())
        try:
            async with turns:
                with suppress(OSError, h11.ProtocolError):
                    await _Connection(reader, writer, harm).run()
        finally:
            taken.discard(task)
            writer.close()

    servers = [
        await asyncio.start_server(take, sock=one)
        for one in sockets(int(arguments["port"]), EVERYWHERE)
    ]
    tell("")
    await asyncio.gather(*(server.serve_forever() for server in servers))


class _Connection:
    """One client and, for each of its requests, the service it wanted."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, harm: Harm
    ) -> None:
        self._reader, self._writer, self._harm = reader, writer, harm

    async def run(self) -> None:
        raw = self._writer.get_extra_info("socket")
        there = destination(raw)
        if there[1] == raw.getsockname()[1]:
            return  # nobody redirected it: it was meant for this port, and nobody is there
        first = await self._reader.read(_CHUNK)
        if not first:
            return
        service = await asyncio.open_connection(*there)
        try:
            if first.startswith(_METHODS) and b"\r\nupgrade:" not in first.lower():
                await self._requests(first, *service)
            else:
                await self._relay(first, *service)
        finally:
            service[1].close()

    async def _relay(
        self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(first)
        await asyncio.gather(_copy(self._reader, writer), _copy(reader, self._writer))

    async def _requests(
        self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        here, there = h11.Connection(h11.SERVER), h11.Connection(h11.CLIENT)
        here.receive_data(first)
        while True:
            request = await _event(here, self._reader)
            if not isinstance(request, h11.Request):
                return
            hit = self._harm.meets(request)
            if hit and self._harm.delay:
                await asyncio.sleep(self._harm.delay)
            status = self._harm.refuses() if hit else 0
            if status:
                await self._refuse(here, status)
                return
            if here.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                self._writer.write(here.send(go_on) or b"")
                kept = [pair for pair in request.headers if pair[0] != b"expect"]
                request = h11.Request(method=request.method, target=request.target, headers=kept)
            writer.write(there.send(request) or b"")
            while not isinstance(part := await _event(here, self._reader), h11.EndOfMessage):
                if not isinstance(part, h11.Data):
                    return
                writer.write(there.send(part) or b"")
                await writer.drain()
            writer.write(there.send(part) or b"")
            most = self._harm.truncate if hit else -1
            if not await self._answer(here, there, reader, most):
                return
            if here.our_state is not h11.DONE or there.our_state is not h11.DONE:
                return  # one of them wants no further request on this connection
            here.start_next_cycle()
            there.start_next_cycle()

    async def _answer(
        self, here: h11.Connection, there: h11.Connection, reader: asyncio.StreamReader, most: int
    ) -> bool:
        """Pass the answer on, ``most`` bytes of its body if that is not −1. False: it is cut."""
        left = most
        while not isinstance(part := await _event(there, reader), h11.EndOfMessage):
            if isinstance(part, h11.ConnectionClosed):
                return False
            if isinstance(part, h11.Data) and most >= 0:
                part = h11.Data(data=bytes(part.data)[:left])
                left -= len(part.data)
            self._writer.write(here.send(part) or b"")
            await self._writer.drain()
            if isinstance(part, h11.Data) and most >= 0 and left <= 0:
                return False  # the connection is closed in the middle of the body
        self._writer.write(here.send(part) or b"")
        await self._writer.drain()
        return True

    async def _refuse(self, here: h11.Connection, status: int) -> None:
        head = [("Connection", "close"), ("Content-Length", "0")]
        if status == 429:
            head.append(("Retry-After", str(max(1, round(self._harm.period)))))
        for part in (h11.Response(status_code=status, headers=head), h11.EndOfMessage()):
            self._writer.write(here.send(part) or b"")
        await self._writer.drain()


async def _event(side: h11.Connection, reader: asyncio.StreamReader) -> Any:
    """The next event of one side. A peer that is not HTTP is one that has gone."""
    while (event := side.next_event()) is h11.NEED_DATA:
        side.receive_data(await reader.read(_CHUNK))
    return event


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    with suppress(OSError):
        writer.write_eof()
