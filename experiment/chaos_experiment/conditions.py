"""Conditions on what probes see: ``shop.p99 > 150ms over 10s for 3s``.

::

    [not] PROBE.METRIC OP VALUE [over WINDOW] [for DURATION]
    [not] health OP VALUE …

``OP`` is one of ``< <= > >= == !=``, ``in``, ``between A and B``, and for what a probe saw as
text ``contains`` and ``matches``. ``over`` is the sliding window that the figure is made of
(5 s unless said); ``for`` is how long without a break it must be so (at once unless said), as
in Prometheus' alerts. What has no value, like no alert, is neither above nor below one: so
``not incidents.value <= P3`` says that none so bad is active, and holds where there is none. Pure.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from chaos_core.errors import InvalidInput
from chaos_core.units import Duration
from chaos_experiment.series import METRICS, SHARES, Observation, Series

DEFAULT_WINDOW: Final = Duration.parse("5s")
HEALTH: Final = "health"
TEXT: Final = "text"

_SHAPE: Final = re.compile(
    r"\s*(?P<negated>not\s+)?(?:(?P<probe>[a-z][a-z0-9_-]{0,31})\.)?(?P<metric>[a-z][a-z0-9_]*)\s*"
    r"(?P<op><=|>=|==|!=|<|>|\bin\b|\bbetween\b|\bcontains\b|\bmatches\b)\s*"
    r"(?P<value>.+?)"
    r"(?:\s+over\s+(?P<over>\S+))?(?:\s+for\s+(?P<hold>\S+))?\s*\Z"
)
_ORDER: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_EXAMPLE: Final = "write it like `shop.p99 > 150ms over 10s for 3s`"
_MAX_PATTERN: Final = 256


class Held(Enum):
    """Whether a condition is so. UNKNOWN: nothing was seen that could tell."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


_OPPOSITE: Final = {Held.YES: Held.NO, Held.NO: Held.YES, Held.UNKNOWN: Held.UNKNOWN}


@dataclass(frozen=True, slots=True)
class Reading:
    """A condition at one moment: whether it was so, and the figure that says it, for people."""

    held: Held
    measured: str


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition. ``probe`` is empty for ``health``; numbers are in the metric's unit.

    ``name`` and ``why`` are for people; a scenario's conditions have none.
    """

    text: str
    probe: str
    metric: str
    op: str
    numbers: tuple[float, ...] = ()
    words: tuple[str, ...] = ()
    unit: str = ""  # duration, percent, or nothing
    over: Duration = DEFAULT_WINDOW
    hold: Duration = Duration(0)
    name: str = ""
    why: str = ""
    negated: bool = False

    def told(self, measured: str) -> str:
        """The condition beside what was measured, for people."""
        named = f"{self.name}: " if self.name else ""
        return f"{named}{self.text} ({measured}){f': {self.why}' if self.why else ''}"

    def read(self, series: Series, now: int, health: float | None = None) -> Reading:
        """As it is at ``now``, over its window."""
        return self.over_span(series, now - self.over, now, health)

    def over_span(
        self, series: Series, start: int, end: int, health: float | None = None
    ) -> Reading:
        """The same over a span of one's own, such as the baseline or a fault's time."""
        reading = self._over_span(series, start, end, health)
        return Reading(_OPPOSITE[reading.held], reading.measured) if self.negated else reading

    def _over_span(self, series: Series, start: int, end: int, health: float | None) -> Reading:
        if not self.probe:
            return self._judge(health, known=health is not None)
        rows = series.between(self.probe, start, end)
        if self.metric == TEXT:
            return self._judge_text(rows[-1].text) if rows else Reading(Held.UNKNOWN, "no data")
        seen = bool(rows) and (self.metric in SHARES or any(row.ok for row in rows))
        why = _why(rows)
        return self._judge(METRICS[self.metric](rows) if seen else None, known=seen, why=why)

    def _judge(self, value: float | None, *, known: bool, why: str = "") -> Reading:
        if not known:
            return Reading(Held.UNKNOWN, f"no data{why}")
        if value is None:
            return Reading(Held.NO, "none")
        if self.op == "between":
            held = self.numbers[0] <= value <= self.numbers[1]
        elif self.op == "in":
            held = value in self.numbers
        else:
            held = _ORDER[self.op](value, self.numbers[0])
        return Reading(Held.YES if held else Held.NO, show(value, self.unit))

    def _judge_text(self, text: str) -> Reading:
        match self.op:
            case "==" | "in":
                held = text in self.words
            case "!=":
                held = text not in self.words
            case "contains":
                held = self.words[0] in text
            case _:
                held = re.search(self.words[0], text) is not None
        return Reading(Held.YES if held else Held.NO, repr(text[:60]))


def parse(text: str) -> Condition:
    """Read one condition. Raises InvalidInput saying what is wrong with it."""
    match = _SHAPE.match(text)
    if match is None:
        raise InvalidInput(f"{text!r} is not a condition", hint=_EXAMPLE)
    probe, metric, op = match["probe"] or "", match["metric"], match["op"]
    negated = match["negated"] is not None
    if not probe and metric != HEALTH:
        raise InvalidInput(f"{text!r} names no probe", hint=_EXAMPLE)
    if probe and metric != TEXT and metric not in METRICS:
        known = ", ".join((*METRICS, TEXT))
        raise InvalidInput(f"{text!r}: unknown metric {metric!r}", hint=f"one of: {known}")
    over = _duration(match["over"], text) or DEFAULT_WINDOW
    hold = _duration(match["hold"], text) or Duration(0)
    if metric == TEXT:
        words = _words(match["value"], op, text)
        return Condition(
            text, probe, metric, op, words=words, over=over, hold=hold, negated=negated
        )
    if op in ("contains", "matches"):
        raise InvalidInput(f"{text!r}: {metric} is a number; {op} is for text")
    numbers, unit = _numbers(match["value"], op, text)
    if metric in SHARES and unit != "percent":
        raise InvalidInput(f"{text!r}: {metric} is a share", hint="write it like 0.5%")
    condition = Condition(
        text, probe, metric, op, numbers, unit=unit, over=over, hold=hold, negated=negated
    )
    _check_possible(condition)
    return condition


def show(value: float, unit: str) -> str:
    """A figure with its unit, as short as it can be read."""
    if unit == "duration" and not value:
        return "0 s"
    if unit == "duration":
        return f"{value / 1_000_000:.2f} s" if value >= 1_000_000 else f"{value / 1000:.1f} ms"
    return f"{value:.4g} %" if unit == "percent" else f"{value:.6g}"


def _check_possible(condition: Condition) -> None:
    """Raise InvalidInput for what can never be so, or always is."""
    if condition.op == "between" and condition.numbers[0] > condition.numbers[1]:
        raise InvalidInput(f"{condition.text!r}: nothing is between these two")
    share = condition.metric in SHARES or not condition.probe
    edge = condition.numbers[0]
    above = share and (edge > 100 or (edge == 100 and condition.op == ">"))
    below = (share or condition.unit == "duration") and edge <= 0 and condition.op == "<"
    if above or below:
        raise InvalidInput(
            f"{condition.text!r} can never tell anything",
            hint="shares and health are 0 to 100, and no time is negative",
        )


def _numbers(text: str, op: str, whole: str) -> tuple[tuple[float, ...], str]:
    if op == "between":
        parts = re.split(r"\s+and\s+", text)
        if len(parts) != 2:
            raise InvalidInput(f"{whole!r}: between takes two values", hint="between 1 and 3")
    elif op == "in":
        parts = [part.strip() for part in text.strip("[]()").split(",")]
    else:
        parts = [text]
    read = [_number(part, whole) for part in parts]
    units = {unit for _, unit in read}
    if len(units) != 1:
        raise InvalidInput(f"{whole!r}: values of different units")
    return tuple(number for number, _ in read), units.pop()


def _number(text: str, whole: str) -> tuple[float, str]:
    text = text.strip()
    severity = re.fullmatch(r"P([0-4])", text)
    if severity:
        return float(severity[1]), ""
    if text in ("true", "false"):
        return float(text == "true"), ""
    if text.endswith("%"):
        text, unit = text[:-1].rstrip(), "percent"
    else:
        unit = ""
    try:
        if re.fullmatch(r"[-+]?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?", text):
            return float(text), unit
        return float(Duration.parse(text)), "duration"
    except InvalidInput:
        raise InvalidInput(
            f"{whole!r}: {text!r} is no value", hint="like 0.5%, 150ms, 42, P2 or true"
        ) from None


def _words(text: str, op: str, whole: str) -> tuple[str, ...]:
    if op not in ("==", "!=", "in", "contains", "matches"):
        raise InvalidInput(f"{whole!r}: {op} is for numbers", hint="==, !=, in, contains, matches")
    parts = text.strip("[]()").split(",") if op == "in" else [text]
    words = tuple(part.strip().strip("'\"") for part in parts)
    if op == "matches":
        if len(words[0]) > _MAX_PATTERN:
            raise InvalidInput(f"{whole!r}: a pattern of more than {_MAX_PATTERN} characters")
        try:
            re.compile(words[0])
        except re.error as error:
            raise InvalidInput(f"{whole!r}: not a regular expression: {error}") from None
    return words


def _duration(text: str | None, whole: str) -> Duration | None:
    if text is None:
        return None
    try:
        return Duration.parse(text)
    except InvalidInput as error:
        raise InvalidInput(f"{whole!r}: {error.what}", hint="over 10s for 3s") from None


def _why(rows: Sequence[Observation]) -> str:
    """The last failure's text, for where every observation failed."""
    texts = [row.text for row in rows if row.text]
    return f": {texts[-1][:60]}" if texts else ""
