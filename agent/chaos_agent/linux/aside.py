"""Reads and writes in a thread of their own: what holds one up holds up no lease.

A write to a disk that is frozen, failing or throttled waits in the kernel, and nothing ends that
wait, not even SIGKILL. So does who reads the command line of a process whose memory is locked.
The keeper asks for such things here, and goes on when there is no answer in time.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

from chaos_agent.linux import waiting

PATIENCE_S = 1.0
_WAIT_S = 0.05
_T = TypeVar("_T")


class Late(OSError):
    """What was asked for is not done yet. It still will be, once that is possible."""


class Aside:
    """Does one thing after the other, in a thread that begins with the first.

    ``whom`` is who answers, for people.
    """

    def __init__(self, whom: str) -> None:
        self._whom = whom
        self._work: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def do(self, work: Callable[[], _T], patience_s: float = PATIENCE_S) -> _T:
        """What ``work`` returns or raises, once all that was asked for before is done.

        Raises Late when there is no answer in time.
        """
        future: Future[_T] = Future()
        self._work.put((future, work))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="aside", daemon=True)
            self._thread.start()
        deadline = time.monotonic() + patience_s
        while True:
            try:
                return future.result(_WAIT_S)
            except TimeoutError:
                if future.done():  # it is the work's own
                    raise
            if time.monotonic() > deadline:
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
        """End the thread, when all is done."""
        self._work.put(None)
        self._thread = None
