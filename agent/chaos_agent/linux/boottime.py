"""The one clock of a lease: CLOCK_BOOTTIME in whole microseconds; and which boot it counts from.

Wall time jumps and CLOCK_MONOTONIC stands still in suspend; a lease must do neither.
"""

from __future__ import annotations

import time
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def now_us() -> int:
    """Microseconds since boot, suspend included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000


def boot_id() -> str:
    """This boot's id, a UUID."""
    return _BOOT_ID.read_text().strip()
