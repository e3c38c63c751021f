"""What happened in a run, line by line, for those who watch it and for the store.

A watcher reads a run's list by index, so a slow one delays nobody; a watcher of
all runs has a bounded queue and is told when it was too slow.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager

from chaos_controller.fleet import Pulse
from chaos_core.errors import ChaosError
from chaos_core.log import Log
from chaos_proto.v1 import chaos_pb2 as pb

_FEED = 1024
_FOREVER_S = 3600.0


class Timeline:
    """The events of one run since ``started`` (µs), the last of which carries the verdict."""

    def __init__(self, run: str, started: int) -> None:
        self.run = run
        self.started = started
        self.events: list[pb.RunEvent] = []
        self._pulse = Pulse()

    def add(self, event: pb.RunEvent) -> None:
        self.events.append(event)
        self._pulse.beat()

    async def follow(self) -> AsyncIterator[pb.RunEvent]:
        """From the beginning to the verdict."""
        place = 0
        while True:
            while place < len(self.events):
                event = self.events[place]
                place += 1
                yield event
                if event.verdict:
                    return
            await self._pulse.wait(_FOREVER_S)


class Feed:
    """The events of all runs, from now on."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[pb.RunEvent]] = set()

    def publish(self, event: pb.RunEvent) -> None:
        for queue in self._queues:
            if not queue.full():
                queue.put_nowait(event)

    @contextmanager
    def subscribe(self) -> Iterator[asyncio.Queue[pb.RunEvent]]:
        """A queue of what happens from here on; full means that the reader was too slow."""
        queue: asyncio.Queue[pb.RunEvent] = asyncio.Queue(_FEED)
        self._queues.add(queue)
        try:
            yield queue
        finally:
            self._queues.discard(queue)


# Hands a write over to a Recorder.
Later = Callable[[Callable[[], Awaitable[None]]], None]


class Recorder:
    """Writes to the store in order, behind the back of what must not wait for a disk."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._jobs: asyncio.Queue[Callable[[], Awaitable[None]]] = asyncio.Queue()

    def later(self, job: Callable[[], Awaitable[None]]) -> None:
        self._jobs.put_nowait(job)

    async def flush(self) -> None:
        """Wait until all that was handed over so far has been written."""
        await self._jobs.join()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            job = await self._jobs.get()
            try:
                await job()
            except ChaosError as error:
                self._log.error("an event was not written", why=error.what)
            finally:
                self._jobs.task_done()
