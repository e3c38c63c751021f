"""Short waits for the kernel or for another program, in which the keeper stays alive.

The keeper has one thread. Code that waits for a lock, for systemd or for the end of a process
waits here, in slices, and calls ``meanwhile`` between two of them: the keeper feeds its watchdog
and sends a heartbeat if one is due. ``meanwhile`` must not touch a fault, since the caller
is in the middle of work on one.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from chaos_agent.linux.boottime import now_us

SLICE_S = 0.1
"""The longest wait between two calls of ``meanwhile``, in seconds."""


def nothing() -> None:
    """Nobody else has anything to do."""


meanwhile: Callable[[], None] = nothing
"""Set by the keeper, for this process."""


def in_seconds(seconds: float) -> int:
    """The moment of CLOCK_BOOTTIME, in µs, until which to wait: leases run on that clock."""
    return now_us() + int(seconds * 1_000_000)


def pause(seconds: float) -> None:
    """Wait that long, at most ``SLICE_S``."""
    meanwhile()
    time.sleep(min(seconds, SLICE_S))


def until(met: Callable[[], bool], patience_s: float, *, every_s: float = 0.002) -> bool:
    """Wait until ``met``, looking every so often; False when it was not in ``patience_s``."""
    deadline = in_seconds(patience_s)
    while not met():
        if now_us() > deadline:
            return False
        pause(every_s)
    return True
