"""What the kinds share that read ``/proc`` of the machine that they are on."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import ClassVar, Final

from pydantic import Field

from chaos_experiment.probes import Context, Look, Place, Probe, Seen

# What a first look waits, so that a share of CPU is of some time: the kernel counts in ticks.
_FIRST_S: Final = 0.25


class OnNode(Probe):
    """A kind that tells of the machine which looks, so that a node must be named.

    Looks are made in a thread of the probe's own, one at a time: where a file system hangs, the
    looks after it time out, and nobody else's.
    """

    place: ClassVar[Place] = Place.NODE

    look_from: str = Field(alias="from", max_length=32, description="a target whose nodes look")

    def hosts(self) -> tuple[str, ...]:
        return ()

    @abstractmethod
    def begin(self) -> Callable[[], Seen]:
        """What looks. Both block, and are called in the same thread."""

    @property
    @abstractmethod
    def over_time(self) -> bool:
        """Whether a look tells of the time since the one before it."""

    async def measure(self, context: Context) -> Seen:
        async with self.session(context) as look:
            return await look()

    @asynccontextmanager
    async def session(self, context: Context) -> AsyncIterator[Look]:
        del context
        loop = asyncio.get_running_loop()
        thread = ThreadPoolExecutor(1, thread_name_prefix=self.kind)
        try:
            look = await loop.run_in_executor(thread, self.begin)
            ready = time.monotonic() + (_FIRST_S if self.over_time else 0)

            def wait_and_look() -> Seen:
                time.sleep(max(0.0, ready - time.monotonic()))
                return look()

            async def looking() -> Seen:
                return await loop.run_in_executor(thread, wait_and_look)

            yield looking
        finally:
            thread.shutdown(wait=False, cancel_futures=True)
