"""Reads and writes in a separate thread, so that one that blocks does not delay a lease.

A write to a frozen, failing or throttled disk blocks in the kernel, and not even SIGKILL ends
that. Reading the command line of a process whose mmap lock is held blocks as well. The keeper
runs such calls here and stops waiting after a second.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

from chaos_agent.linux import waiting
from chaos_agent.linux.boottime import now_us

PATIENCE_S = 1.0
_WAIT_S = 0.05
_T = TypeVar("_T")


class Late(OSError):
    """The call has not returned in time. It is not cancelled, and may still complete."""


class Aside:
    """Runs calls one after the other in a thread, which starts with the first call.

    ``whom`` is what the caller waits for, for error messages.
    """

    def __init__(self, whom: str) -> None:
        self._whom = whom
        self._work: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def do(self, work: Callable[[], _T], patience_s: float = PATIENCE_S) -> _T:
        """What ``work`` returns or raises; it runs after all calls made before it.

        Raises Late after ``patience_s`` seconds.
        """
        future: Future[_T] = Future()
        self._work.put((future, work))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="aside", daemon=True)
            self._thread.start()
        deadline = waiting.in_seconds(patience_s)
        while True:
            try:
                return future.result(_WAIT_S)
            except TimeoutError:
                if future.done():  # it is the work's own
                    raise
            if now_us() > deadline:
                raise Late(
                    errno.ETIMEDOUT, f"{self._whom} has not answered within {patience_s:g} s"
                )
            waiting.meanwhile()

    def _run(self) -> None:
        while asked := self._work.get():
            future, work = asked
            try:
                future.set_result(work())
            except BaseException as error:  # it is told to who has asked
                future.set_exception(error)

    def close(self) -> None:
        """End the thread once all calls have returned."""
        self._work.put(None)
        self._thread = None
