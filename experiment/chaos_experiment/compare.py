"""A run beside another one, or beside its own history: what became worse. Pure.

A figure is worse when it exceeds

    median + max(3 · MAD, 20 % of the median, what cannot be told apart)

of the older runs (MAD: the median distance from the median; 0 for a single run). Shares and
the score, where more is better, are judged by what they lack to 100. A run that never
recovered is worse than any that did. What was measured in neither or only in one is shown,
and is no regression.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from chaos_core.errors import InvalidInput
from chaos_experiment.conditions import show
from chaos_experiment.record import Record
from chaos_experiment.verdict import SECOND, figures

SPREADS: Final = 3.0
SHARE: Final = 0.2


@dataclass(frozen=True, slots=True)
class Quantity:
    """A figure that runs are compared by. ``apart`` is the least difference that tells."""

    name: str
    unit: str  # duration, percent, or nothing
    apart: float
    of: Callable[[Record], float | None]
    more_is_better: bool = False  # and 100 is the most

    def badness(self, value: float) -> float:
        return 100 - value if self.more_is_better else value


@dataclass(frozen=True, slots=True)
class Row:
    """One quantity: before (the median of several), now, the worst that is no regression."""

    name: str
    before: str
    now: str
    change: str
    limit: str
    worse: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """``record`` beside ``older`` runs."""

    record: Record
    older: tuple[Record, ...]
    rows: tuple[Row, ...]

    @property
    def worse(self) -> tuple[str, ...]:
        """The names of what became worse."""
        return tuple(row.name for row in self.rows if row.worse)

    @property
    def summary(self) -> str:
        of = f"run {self.older[0].id}" if len(self.older) == 1 else f"{len(self.older)} older runs"
        return f"worse than {of}: {', '.join(self.worse)}" if self.worse else f"no worse than {of}"


def _recovery(record: Record) -> float | None:
    """Never recovered is longer than anything; nothing to recover from is no figure."""
    if record.recovery_us is None and record.verdict in ("failed", "aborted"):
        return None if record.injected_us is None else math.inf
    return record.recovery_us


def _p99(record: Record) -> float | None:
    found = figures(record)
    return math.inf if found.lost else found.p99


QUANTITIES: Final = (
    Quantity("recovery time", "duration", SECOND, _recovery),
    Quantity("time to repair", "duration", SECOND, lambda record: record.mttr_us),
    Quantity("p99 while hurt", "duration", 1_000, _p99),
    Quantity("latency added (p99)", "duration", 1_000, lambda r: figures(r).latency_added),
    Quantity("error rate", "percent", 0.1, lambda record: figures(record).error_rate),
    Quantity("availability", "percent", 0.1, lambda r: figures(r).availability, True),
    Quantity("score", "", 1.0, lambda record: record.score, True),
)


def compare(record: Record, older: Iterable[Record]) -> Comparison:
    """``record`` beside ``older`` ones. Raises InvalidInput when there are none."""
    runs = tuple(older)
    if not runs:
        raise InvalidInput(
            f"nothing to compare run {record.id} with",
            hint="passed runs of the same scenario, environment and level count",
        )
    return Comparison(record, runs, tuple(_row(each, record, runs) for each in QUANTITIES))


def comparable(record: Record, others: Iterable[Record]) -> list[Record]:
    """The history of ``record``: earlier passed runs of the same scenario as it was run.

    Only those that passed, or a regression would be the norm once it has been seen often.
    """
    return sorted(
        (
            other
            for other in others
            if other.verdict == "passed"
            and other.started < record.started
            and other.id != record.id
            and (other.scenario or other.title, other.environment, other.level)
            == (record.scenario or record.title, record.environment, record.level)
        ),
        key=lambda other: other.started,
    )


def limit(values: Sequence[float], apart: float) -> float:
    """The highest value that is no regression from ``values``, where less is better."""
    middle = median(values)
    spread = median(abs(value - middle) for value in values)
    return middle + max(SPREADS * spread, SHARE * abs(middle), apart)


def _row(quantity: Quantity, record: Record, older: Sequence[Record]) -> Row:
    found = [quantity.of(each) for each in older]
    values = [value for value in found if value is not None and math.isfinite(value)]
    now = quantity.of(record)
    if not values:
        before = _shown(next((value for value in found if value is not None), None), quantity)
        return Row(quantity.name, before, _shown(now, quantity), "–", "–", worse=False)
    middle = median(values)
    bound = limit([quantity.badness(value) for value in values], quantity.apart)
    if quantity.more_is_better:
        edge = f"≥ {_shown(max(0.0, quantity.badness(bound)), quantity)}"
    else:
        edge = f"≤ {_shown(bound, quantity)}"
    before = _shown(middle, quantity)
    if len(values) > 1:
        low, high = _shown(min(values), quantity), _shown(max(values), quantity)
        before += f" ({low} – {high})"
    return Row(
        quantity.name,
        before,
        _shown(now, quantity),
        _change(quantity, middle, now),
        edge,
        worse=now is not None and quantity.badness(now) > bound,
    )


def _change(quantity: Quantity, before: float, now: float | None) -> str:
    if now is None or not math.isfinite(now):
        return "–"
    less = now - before
    text = f"{'−' if less < 0 else '+'}{show(abs(less), quantity.unit)}"
    if quantity.unit == "duration" and before > 0:
        text += f" ({100 * less / before:+.0f} %)"
    return text.replace("-", "−")


def _shown(value: float | None, quantity: Quantity) -> str:
    if value is None:
        return "not measured"
    if not math.isfinite(value):
        return "never"
    return show(value, quantity.unit)
