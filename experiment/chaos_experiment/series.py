"""What probes saw, and figures over a window of it.

Pure: times are arguments, in µs on one clock. A figure is None where nothing was seen
that it could be made of; whoever judges decides what that means (``conditions``).
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

# As many observations of one probe are kept: 15 minutes of 100 a second.
MAX_KEPT: Final = 90_000


@dataclass(frozen=True, slots=True)
class Observation:
    """One measurement. ``value`` is in the probe's unit: µs where that is a duration.

    ``at`` is when the measurement was *due* to begin, whatever became of those before it: a
    probe must not leave out what a slow system made wait (coordinated omission). ``ok`` without
    a value says that there is nothing to see, like no alert; ``text`` is what was seen or why
    it failed.
    """

    probe: str
    at: int
    ok: bool
    value: float | None = None
    text: str = ""


@dataclass(slots=True)
class Series:
    """The observations of some probes, each probe's sorted by time."""

    kept: dict[str, list[Observation]] = field(default_factory=dict)

    def add(self, seen: Observation) -> None:
        """Keep it in its place: answers arrive in another order than they were due."""
        rows = self.kept.setdefault(seen.probe, [])
        rows.insert(bisect_right(rows, seen.at, key=_at), seen)
        if len(rows) > MAX_KEPT:
            del rows[: len(rows) - MAX_KEPT]

    def between(self, probe: str, start: int, end: int) -> Sequence[Observation]:
        """Those due in [start, end)."""
        rows = self.kept.get(probe, [])
        return rows[bisect_left(rows, start, key=_at) : bisect_left(rows, end, key=_at)]


def _at(seen: Observation) -> int:
    return seen.at


def percentile(values: Iterable[float], share: float) -> float:
    """The nearest-rank percentile: the smallest value with ``share`` (0–1) of all at or below.

    As HdrHistogram counts, so that figures compare with wrk2's. Raises ValueError on none.
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _rank(share: float) -> Callable[[Sequence[Observation]], float | None]:
    def of(rows: Sequence[Observation]) -> float | None:
        values = _values(rows)
        return percentile(values, share) if values else None

    return of


def _values(rows: Sequence[Observation]) -> list[float]:
    return [row.value for row in rows if row.ok and row.value is not None]


def _error_rate(rows: Sequence[Observation]) -> float | None:
    return 100 * sum(not row.ok for row in rows) / len(rows) if rows else None


def _availability(rows: Sequence[Observation]) -> float | None:
    return 100 * sum(row.ok for row in rows) / len(rows) if rows else None


def _last(rows: Sequence[Observation]) -> float | None:
    seen = [row for row in rows if row.ok]
    return seen[-1].value if seen else None


def _of_values(
    what: Callable[[list[float]], float],
) -> Callable[[Sequence[Observation]], float | None]:
    def of(rows: Sequence[Observation]) -> float | None:
        values = _values(rows)
        return what(values) if values else None

    return of


# What can be asked of a probe's window. Shares are in percent; the rest is in its unit.
METRICS: Final[Mapping[str, Callable[[Sequence[Observation]], float | None]]] = {
    "error_rate": _error_rate,
    "availability": _availability,
    "value": _last,
    "min": _of_values(min),
    "max": _of_values(max),
    "mean": _of_values(lambda values: math.fsum(values) / len(values)),
    "p50": _rank(0.5),
    "p90": _rank(0.9),
    "p95": _rank(0.95),
    "p99": _rank(0.99),
    "p999": _rank(0.999),
}
SHARES: Final = frozenset({"error_rate", "availability"})
