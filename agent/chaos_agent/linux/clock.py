"""The wall clock: where it stands against CLOCK_BOOTTIME, and moving it by a step.

Both clocks run at one rate, whatever NTP does to it, and both go on in suspend. So
REALTIME − BOOTTIME is a constant of this boot that only a step of the wall clock changes,
by exactly that step: it says who has moved the clock and by how much, at any later time.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chaos_agent.linux import waiting
from chaos_agent.linux.boottime import boot_id, now_us
from chaos_agent.ownfiles import make_directory, open_own
from chaos_core.effects import ClockShift
from chaos_core.errors import Unsupported
from chaos_core.node import ClockFacts

_RUNTIME, _LOCK = Path("/run/chaos"), "keeper.lock"
_LOCK_PATIENCE_S = 0.5  # whoever holds it longer is stopped, and must not stop us
_SAMPLES = 5
_TRIES = 3
_NOISE_US = 5_000  # of a reading, on a machine that has other things to do as well
_ADJ_SETOFFSET, _ADJ_NANO = 0x0100, 0x2000  # linux/timex.h


class _Timex(ctypes.Structure):
    """struct __kernel_timex, linux/timex.h; ctypes pads as the kernel does by hand."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("_before", ctypes.c_longlong * 4),  # offset, freq, maxerror, esterror
        ("status", ctypes.c_int),
        ("_constants", ctypes.c_longlong * 3),  # constant, precision, tolerance
        ("seconds", ctypes.c_longlong),
        ("fraction", ctypes.c_longlong),  # ns with ADJ_NANO, never negative
        ("_after", ctypes.c_longlong * 20),  # all the rest of its 208 bytes, and more
    )


_libc = ctypes.CDLL(None, use_errno=True)


def facts() -> ClockFacts:
    """Where the wall clock stands, in this boot."""
    return ClockFacts(difference_us(), boot_id())


def difference_us() -> int:
    """CLOCK_REALTIME − CLOCK_BOOTTIME in µs, by the closest of a few readings."""
    readings = []
    for _ in range(_SAMPLES):
        before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        wall = time.clock_gettime_ns(time.CLOCK_REALTIME)
        after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        readings.append((after - before, wall - (before + after) // 2))
    return min(readings)[1] // 1_000


def steps(shift: ClockShift) -> int | None:
    """How many times the shift is in the clock: 0, or 1, to the nearest half, for others may
    correct the clock a little with or without it; or −1, exactly, if it was taken back
    twice. None when somebody else has set the clock. After a boot it is 0."""
    if boot_id() != shift.boot:
        return 0
    moved = difference_us() - shift.before
    half = abs(shift.offset) // 2
    near = {0: half, 1: half, -1: min(half, _NOISE_US)}
    return next((n for n, most in near.items() if abs(moved - n * shift.offset) < most), None)


def bring(shift: ClockShift, wanted: int) -> None:
    """Step the clock so that the shift is in it ``wanted`` times, unless it is another's by now.

    Relative, so that time goes on meanwhile; and safe to be done by several at once, the
    keeper and an undo timer, say. They take turns by a lock. One that was stopped with the
    lock in its hand does not keep the other from it; what it does when it goes on, after
    all is over, it sees at once and takes back.
    """
    with _turn():
        for _ in range(_TRIES):
            found = steps(shift)
            if found is None or found == wanted:
                return
            _step((wanted - found) * shift.offset)


@contextmanager
def _turn() -> Iterator[None]:
    """A record lock on the file that is there in any case; flock(2), by which the keeper holds
    it for as long as it lives, knows nothing of those."""
    make_directory(_RUNTIME, 0o755)
    descriptor = open_own(_RUNTIME / _LOCK, os.O_RDWR | os.O_CREAT)
    try:
        deadline = waiting.in_seconds(_LOCK_PATIENCE_S)
        while now_us() < deadline:
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waiting.pause(0.005)
        yield
    finally:
        os.close(descriptor)


def _step(microseconds: int) -> None:
    seconds, rest = divmod(microseconds, 1_000_000)
    _adjust(_Timex(modes=_ADJ_SETOFFSET | _ADJ_NANO, seconds=seconds, fraction=rest * 1_000))


def may_step() -> None:
    """Raise Unsupported unless the kernel lets us ask; nothing is changed."""
    _adjust(_Timex())


def _adjust(timex: _Timex) -> None:
    if _libc.clock_adjtime(time.CLOCK_REALTIME, ctypes.byref(timex)) < 0:
        why = os.strerror(ctypes.get_errno())
        raise Unsupported(f"the clock cannot be moved: {why}", hint="the keeper needs CAP_SYS_TIME")
