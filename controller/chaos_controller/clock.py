"""The two clocks: one to decide by, one to show to people."""

from __future__ import annotations

import datetime as dt
import time


def now() -> int:
    """CLOCK_BOOTTIME in µs: never set back, and goes on in suspend. Every decision is by this."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000


def utc() -> dt.datetime:
    """Wall time, for what people read and for the expiry of tokens."""
    return dt.datetime.now(dt.UTC)


def rfc3339(moment: dt.datetime | None = None) -> str:
    """``2025-01-31T12:00:00.250Z``: sorts as text in the order of time."""
    return (moment or utc()).isoformat(timespec="milliseconds").replace("+00:00", "Z")
