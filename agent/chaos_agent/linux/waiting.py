"""Short waits for the kernel or for another program, in which the keeper stays alive.

The keeper has one thread. Whoever waits in it for a lock, for systemd or for the end of a
process does so here, in slices, and between two slices ``meanwhile`` is called: the keeper
feeds its watchdog and tells the link that it lives. It must not touch a fault there, since
the one who waits is in the middle of one.
"""

from __future__ import annotations

import time
from collections.abc import Callable

SLICE_S = 0.1
"""The longest wait between two calls of ``meanwhile``, in seconds."""


def nothing() -> None:
    """Nobody else has anything to do."""


meanwhile: Callable[[], None] = nothing
"""Set by the keeper, for this process."""


def pause(seconds: float) -> None:
    """Wait that long, at most ``SLICE_S``."""
    meanwhile()
    time.sleep(min(seconds, SLICE_S))


def until(met: Callable[[], bool], patience_s: float, *, every_s: float = 0.002) -> bool:
    """Wait until ``met``, looking every so often; False when it was not in ``patience_s``."""
    deadline = time.monotonic() + patience_s
    while not met():
        if time.monotonic() > deadline:
            return False
        pause(every_s)
    return True
