"""Virtual time: a heap of events, processes that pause and die, and a driver for coroutines.

Nothing here reads a clock. The product's coroutines run on it through the stand-in
for ``asyncio`` that ``outside.py`` gives them: they await ``Pause`` and nothing else.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Coroutine, Generator
from typing import Any

Call = Callable[[], None]


class Process:
    """Something that can be paused (SIGSTOP), killed and started again."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.life = 0  # counts deaths: what was scheduled for a former life never happens
        self.paused_until = 0
        self.tasks: list[Task] = []

    def die(self) -> None:
        self.alive = False
        self.life += 1
        self.paused_until = 0
        for task in self.tasks:
            task.coroutine.close()
        self.tasks.clear()


class Pause:
    """What a coroutine awaits to let ``span`` µs pass."""

    def __init__(self, span: int) -> None:
        self.span = span

    def __await__(self) -> Generator[int, None, None]:
        yield self.span


class Task:
    """A coroutine in a process. ``deadlines`` are its open ``asyncio.timeout`` blocks."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.coroutine = coroutine
        self.deadlines: list[Timeout] = []


class Timeout:
    """Stands in for ``asyncio.timeout`` inside a Task."""

    def __init__(self, loop: Loop, span: float) -> None:
        self.loop = loop
        self.at = loop.now + int(span * 1_000_000)
        self.expired = False

    async def __aenter__(self) -> None:
        assert self.loop.task is not None
        self.task = self.loop.task
        self.task.deadlines.append(self)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.task.deadlines.remove(self)
        if self.expired and kind is asyncio.CancelledError:
            raise TimeoutError


class Loop:
    """``now`` is real time in µs. ``around`` wraps each step of a process's code."""

    def __init__(self) -> None:
        self.now = 0
        self.events = 0
        self.task: Task | None = None
        self._heap: list[tuple[int, int, Process | None, int, Call]] = []
        self._count = 0

    def at(self, when: int, call: Call, process: Process | None = None) -> None:
        """Do this then, unless its process has died meanwhile; later if that is paused."""
        self._count += 1
        life = process.life if process else 0
        heapq.heappush(self._heap, (max(when, self.now), self._count, process, life, call))

    def awake(self, call: Call, process: Process) -> None:
        """Do this now, or when the process goes on."""
        if process.paused_until > self.now:
            self.at(process.paused_until, call, process)
        else:
            call()

    def run(self, until: int, after: Call) -> None:
        """Play every event up to ``until``, calling ``after`` behind each."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            when, _, process, life, call = heapq.heappop(heap)
            self.now = when
            if process is not None:
                if process.life != life:
                    continue
                if process.paused_until > when:
                    self.at(process.paused_until, call, process)  # in the order of being due
                    continue
            self.events += 1
            call()
            after()

    def spawn(
        self, process: Process, coroutine: Coroutine[Any, Any, Any], entering: Callable[[Call], Any]
    ) -> None:
        """Run a coroutine in a process; ``entering`` runs each of its steps."""
        task = Task(coroutine)
        process.tasks.append(task)
        self.step(process, task, entering, False)

    def step(
        self, process: Process, task: Task, entering: Callable[[Call], Any], late: bool
    ) -> None:
        """Run a task to its next Pause, and see that it goes on after that."""

        def go() -> None:
            span: int | None = None
            outer, self.task = self.task, task
            try:
                if late:
                    span = task.coroutine.throw(asyncio.CancelledError())
                else:
                    span = task.coroutine.send(None)
            except StopIteration:
                process.tasks.remove(task)
            finally:
                self.task = outer
            if span is not None:
                self._resume_after(process, task, entering, span)

        entering(go)

    def _resume_after(
        self, process: Process, task: Task, entering: Callable[[Call], Any], span: int
    ) -> None:
        when, late = self.now + span, False
        for timeout in task.deadlines:
            if timeout.at < when:
                when, late, timeout.expired = timeout.at, True, True
        self.at(when, lambda: self.step(process, task, entering, late), process)
