"""Charts as inline SVG, styled by the page's classes so that they follow light and dark.

Each is drawn twice, for a wide and for a narrow screen: text in a picture that is scaled
down to a phone cannot be read. Lines differ by dashes and width, not by colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final
from xml.etree.ElementTree import Element

from chaos_core.text import printable
from chaos_experiment.reports._markup import element

WIDE: Final = 860
NARROW: Final = 360
_LEFT, _RIGHT, _TOP, _BOTTOM, _HEIGHT = 52.0, 10.0, 20.0, 24.0, 190.0
_LANE = 20.0
_CHARACTER = 6.3  # width of one at the charts' font size, on average
_STEPS_S: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
_SECOND: Final = 1_000_000

Value = tuple[int, float | None]  # (at_us, value); None: nothing was seen, the line breaks


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart; ``style`` is its class: main, second, third, bad or old."""

    name: str
    values: Sequence[Value]
    style: str = "main"
    filled: bool = False


@dataclass(frozen=True, slots=True)
class Stretch:
    """Something from when to when, with a name."""

    name: str
    start_us: int
    end_us: int


@dataclass(frozen=True, slots=True)
class Frame:
    """What the charts of a run share: the time axis, and what happened along it."""

    start_us: int
    end_us: int
    clock: Callable[[int], str]  # the text of a moment
    zero_us: int = 0  # what the ticks count from
    phases: tuple[Stretch, ...] = ()
    faults: tuple[Stretch, ...] = ()
    marks: tuple[Stretch, ...] = ()  # moments that somebody stepped in


def chart(frame: Frame, title: str, unit: str, lines: Sequence[Line], top: float = 0.0) -> Element:
    """Lines over time. ``unit`` is duration (µs), percent or nothing; ``top`` the least height."""
    seen = [value for line in lines for _, value in line.values if value is not None]
    highest = max([*seen, top]) or 1.0
    lowest = min([*seen, 0.0])
    size, name = _scale(highest, unit)
    legend = [
        element("span", _sample(line), line.name, class_="key") for line in lines if line.values
    ]
    if frame.faults:
        legend.append(element("span", _swatch(), "fault in force", class_="key"))
    caption = f"{title} ({name})" if name else title

    def draw(width: int) -> Element:
        plot = _Plot(frame, width, lowest / size, highest / size)
        body = [*plot.background(), *plot.values(), *plot.times()]
        for line in lines:
            body += plot.line(line, size)
        return plot.picture(caption, [*body, *plot.marks()])

    return _figure(caption, legend, draw)


def course(frame: Frame) -> Element:
    """Phases and faults as bars, a lane each."""
    lanes = 1 + len(frame.faults)

    def draw(width: int) -> Element:
        plot = _Plot(frame, width, 0, 1, height=_TOP + lanes * _LANE + _BOTTOM, left=10.0)
        body = plot.times()
        for lane, part in [(0, p) for p in frame.phases] + list(enumerate(frame.faults, 1)):
            body += plot.bar(part, lane)
        return plot.picture("Phases and faults", [*body, *plot.marks(_TOP - 4)])

    return _figure("Phases and faults", [], draw)


def bars(title: str, rows: Sequence[tuple[str, float, str]]) -> Element:
    """A bar for each (name, value, value as people read it), beside one another."""
    highest = max((value for _, value, _ in rows), default=0) or 1

    def draw(width: int) -> Element:
        parts: list[Element] = []
        for number, (name, value, text) in enumerate(rows):
            y = number * 36.0
            length = max(1.0, value / highest * (width - 90))
            shown = printable(name, int(width / _CHARACTER))
            parts.append(element("text", shown, x=0, y=y + 12, class_="label"))
            parts.append(element("rect", x=0, y=y + 17, width=length, height=12, class_="amount"))
            parts.append(element("text", text, x=length + 6, y=y + 27))
        return _picture(title, width, 36.0 * len(rows) + 4, parts)

    return _figure(title, [], draw)


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round values (1, 2 or 5 of a power of ten) from at or below ``low`` to at or above
    ``high``, about ``count`` of them."""
    span = max(high - low, abs(high) * 1e-9, 1e-12)
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(power * s for s in (1, 2, 5, 10, 20) if span / (power * s) <= count)
    first, last = math.floor(low / step), math.ceil(high / step)
    last = max(last, first + 1)
    return [step * number for number in range(first, last + 1)]


def thin(values: Sequence[Value], columns: int) -> list[Value]:
    """At most ``columns`` values: of each column the highest, so that no peak is left out."""
    if len(values) <= columns:
        return list(values)
    start, span = values[0][0], max(1, values[-1][0] - values[0][0])
    kept: dict[int, Value] = {}
    for at, value in values:
        column = (at - start) * (columns - 1) // span
        old = kept.get(column)
        if old is None or old[1] is None or (value is not None and value > old[1]):
            kept[column] = (at, value)
    return list(kept.values())


def runs(values: Sequence[Value]) -> list[list[tuple[int, float]]]:
    """The stretches without a break: none where nothing was seen, or not for long.

    Each ends with its last value once more, a usual gap later: so long it is of.
    """
    gaps = sorted(b[0] - a[0] for a, b in pairwise(values))
    usual = gaps[len(gaps) // 2] if gaps else _SECOND
    found: list[list[tuple[int, float]]] = [[]]
    for at, value in values:
        if value is None or (found[-1] and at - found[-1][-1][0] > 2.5 * usual):
            found.append([])
        if value is not None:
            found[-1].append((at, value))
    return [[*part, (part[-1][0] + usual, part[-1][1])] for part in found if part]


class _Plot:
    """One picture: from times and values to places in it."""

    def __init__(
        self,
        frame: Frame,
        width: int,
        low: float,
        high: float,
        *,
        height: float = _HEIGHT,
        left: float = _LEFT,
    ) -> None:
        self.frame, self.width, self.height, self.left = frame, width, height, left
        self.right, self.bottom = width - _RIGHT, height - _BOTTOM
        self.ticks = ticks(low, high, 4)
        self.low, self.high = self.ticks[0], self.ticks[-1]
        self.span = max(1, frame.end_us - frame.start_us)

    def x(self, at_us: float) -> float:
        inside = min(max(at_us, self.frame.start_us), self.frame.end_us)
        return self.left + (inside - self.frame.start_us) / self.span * (self.right - self.left)

    def y(self, value: float) -> float:
        return self.bottom - (value - self.low) / (self.high - self.low) * (self.bottom - _TOP)

    def background(self) -> list[Element]:
        """Fault windows, and where phases begin, with their names where there is room."""
        parts = [
            element("rect", x=self.x(f.start_us), y=_TOP, height=self.bottom - _TOP, class_="fault",
                    width=max(1.0, self.x(f.end_us) - self.x(f.start_us)))
            for f in self.frame.faults
        ]  # fmt: skip
        for phase in self.frame.phases:
            x, end = self.x(phase.start_us), self.x(phase.end_us)
            parts.append(_line(x, _TOP - 14, x, self.bottom, "phase"))
            if end - x > _CHARACTER * len(phase.name) + 8:
                parts.append(element("text", phase.name, x=x + 4, y=_TOP - 6, class_="label"))
        return parts

    def values(self) -> list[Element]:
        parts: list[Element] = []
        step = self.ticks[1] - self.ticks[0]
        digits = max(0, -math.floor(math.log10(step)))
        for tick in self.ticks:
            y = self.y(tick)
            parts.append(_line(self.left, y, self.right, y, "grid"))
            usual = abs(tick) < 1e6 and digits < 6
            text = f"{tick:.{digits}f}" if usual else f"{tick:.4g}"
            parts.append(element("text", text, x=self.left - 6, y=y + 4, text_anchor="end"))
        return parts

    def times(self) -> list[Element]:
        """Ticks of the time axis at round moments from T."""
        room = max(2, int((self.right - self.left) / 80))
        step = next(
            (s for s in _STEPS_S if self.span / (s * _SECOND) <= room),
            3600 * math.ceil(self.span / (3600 * _SECOND * room)),
        )
        step *= _SECOND
        zero = self.frame.zero_us
        parts: list[Element] = []
        for number in range(
            math.ceil((self.frame.start_us - zero) / step),
            math.floor((self.frame.end_us - zero) / step) + 1,
        ):
            at = zero + number * step
            x = self.x(at)
            near = (x - self.left < 20 and "start") or (self.right - x < 20 and "end") or "middle"
            parts.append(_line(x, self.bottom, x, self.bottom + 4, "axis"))
            text = self.frame.clock(at)
            parts.append(element("text", text, x=x, y=self.bottom + 17, text_anchor=near))
        parts.append(_line(self.left, self.bottom, self.right, self.bottom, "axis"))
        return parts

    def line(self, line: Line, size: float) -> list[Element]:
        """Steps: a figure is of the time from its moment to the next one's, not before it."""
        parts: list[Element] = []
        base = self.y(max(0.0, self.low))
        for stretch in runs(thin(line.values, int(self.right - self.left))):
            steps = [(self.x(at), self.y(value / size)) for at, value in stretch]
            (x, y), (end, _) = steps[0], steps[-1]
            path = f"{x:.1f} {y:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in steps[1:])
            if line.filled:
                parts.append(
                    _path(f"M{x:.1f} {base:.1f}L{path}L{end:.1f} {base:.1f}Z", f"area {line.style}")
                )
            parts.append(_path(f"M{path}", f"line {line.style}"))
        return parts

    def marks(self, y: float = _TOP + 11) -> list[Element]:
        """Where somebody stepped in, with names at ``y``."""
        parts: list[Element] = []
        for mark in self.frame.marks:
            x = self.x(mark.start_us)
            side, anchor = (-4, "end") if x > self.width / 2 else (4, "start")
            parts.append(_line(x, _TOP - 14, x, self.bottom, "mark"))
            text = element("text", mark.name, x=x + side, y=y, class_="mark")
            text.set("text-anchor", anchor)
            parts.append(text)
        return parts

    def bar(self, part: Stretch, lane: int) -> list[Element]:
        """A stretch in its lane, its name in it if there is room, else beside it."""
        x, y = self.x(part.start_us), _TOP + lane * _LANE
        width = max(2.0, self.x(part.end_us) - x)
        room = _CHARACTER * len(part.name) + 8
        inside, after = width >= room, self.right - x - width >= room
        where, anchor = (x + 4, "start") if inside else (x + width + 4, "start")
        if not inside and not after:
            where, anchor = x - 4, "end"
        kind = "bar phase" if lane == 0 else "bar fault"
        made = [element("rect", x=x, y=y, width=width, height=_LANE - 4, class_=kind)]
        if (lane and not inside) or inside:
            made.append(
                element("text", part.name, x=where, y=y + 12, text_anchor=anchor, class_="label")
            )
        return made

    def picture(self, title: str, parts: Iterable[Element]) -> Element:
        return _picture(title, self.width, self.height, parts)


def _scale(highest: float, unit: str) -> tuple[float, str]:
    """By what values are divided, and what they are in then."""
    if unit == "duration":
        return (1e6, "s") if highest >= 2e6 else (1e3, "ms") if highest >= 2e3 else (1.0, "µs")
    return 1.0, "%" if unit == "percent" else ""


def _figure(title: str, legend: Sequence[Element], draw: Callable[[int], Element]) -> Element:
    wide, narrow = draw(WIDE), draw(NARROW)
    wide.set("class", "wide")
    narrow.set("class", "narrow")
    return element("figure", element("figcaption", element("b", title), " ", legend), wide, narrow)


def _picture(title: str, width: int, height: float, parts: Iterable[Element]) -> Element:
    made = element("svg", parts, role="img", aria_label=title)
    made.set("viewBox", f"0 0 {width} {height:.0f}")  # ours, and the only name in camel case
    return made


def _sample(line: Line) -> Element:
    """A piece of the line for the legend."""
    made = element("svg", _path("M0 6L26 6", f"line {line.style}"), width=26, height=12)
    made.set("aria-hidden", "true")
    return made


def _swatch() -> Element:
    """A piece of a fault window for the legend."""
    box = element("rect", x=1, y=1, width=24, height=10, class_="fault")
    made = element("svg", box, width=26, height=12)
    made.set("aria-hidden", "true")
    return made


def _path(path: str, style: str) -> Element:
    made = element("path", class_=printable(style, 64))
    made.set("d", path)  # of our own making, and longer than a text may be
    return made


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> Element:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=style)
