"""The one clock of a lease: CLOCK_BOOTTIME in whole microseconds.

Wall time jumps and CLOCK_MONOTONIC stands still in suspend; a lease must do neither.
"""

from __future__ import annotations

import time


def now_us() -> int:
    """Microseconds since boot, suspend included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000
