"""Whether conditions can go together: what can never hold is found before anything is hurt.

Only what is certain is refused: conditions on the same metric of the same probe, as
intervals. Lists, texts and ``!=`` are not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

from chaos_experiment.conditions import HEALTH, Condition
from chaos_experiment.series import SHARES


@dataclass(frozen=True, slots=True)
class Interval:
    """Values from ``low`` to ``high``; an open end is not of it."""

    low: float
    high: float
    low_open: bool = False
    high_open: bool = False

    def meet(self, other: Interval) -> Interval:
        low, low_open = max((self.low, self.low_open), (other.low, other.low_open))
        high, closed = min((self.high, not self.high_open), (other.high, not other.high_open))
        return Interval(low, high, low_open, not closed)

    @property
    def empty(self) -> bool:
        return self.low > self.high or (self.low == self.high and (self.low_open or self.high_open))

    @property
    def wide(self) -> bool:
        """More than a single value."""
        return self.low < self.high

    def inside(self, other: Interval) -> bool:
        return self.meet(other) == self


def interval(condition: Condition) -> Interval | None:
    """The values for which it holds; None where that is no interval."""
    if not condition.numbers or condition.negated:
        return None
    first = condition.numbers[0]
    whole = _whole(condition)
    match condition.op:
        case "<":
            found = Interval(-math.inf, first, high_open=True)
        case "<=":
            found = Interval(-math.inf, first)
        case ">":
            found = Interval(first, math.inf, low_open=True)
        case ">=":
            found = Interval(first, math.inf)
        case "==":
            found = Interval(first, first)
        case "between":
            found = Interval(first, condition.numbers[1])
        case _:
            return None
    return found.meet(whole)


def contradictions(
    required: Sequence[Condition], *, steady: bool, abort: Sequence[Condition] = ()
) -> Iterator[tuple[Condition, str]]:
    """Of ``required``, those that cannot hold together, or not without an abort; and why.

    What is steady must not be ground for an abort at all. What must hold under faults may
    be, in part: it is the looser of the two.
    """
    for one, other in combinations(required, 2):
        here, there = interval(one), interval(other)
        if _same(one, other) and here and there and here.meet(there).empty:
            yield other, f"never holds together with {one.text!r}"
    for one, ending in product(required, abort):
        here, there = interval(one), interval(ending)
        if not (_same(one, ending) and here and there):
            continue
        if here.inside(there):
            yield one, f"whenever it holds, the run is aborted by {ending.text!r}"
        elif steady and here.meet(there).wide:
            yield one, f"holds also where the run is aborted by {ending.text!r}"


def _same(one: Condition, other: Condition) -> bool:
    return (one.probe, one.metric) == (other.probe, other.metric)


def _whole(condition: Condition) -> Interval:
    if condition.metric in SHARES or (not condition.probe and condition.metric == HEALTH):
        return Interval(0, 100)
    if condition.unit == "duration":
        return Interval(0, math.inf)
    return Interval(-math.inf, math.inf)
