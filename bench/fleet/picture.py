"""Pictures for people: recorded pings as a timeline, and the spread of many figures. SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from chaos_lab.drill.measure import Reply

_WIDTH, _LEFT, _RIGHT, _TOP = 860, 110, 20, 46
_INK, _FAINT, _GOOD, _BAD, _EVENT = "#222", "#ccc", "#2a7", "#d43", "#06c"
_LOST_MS = 260.0  # where a ping without an answer is drawn
_STYLE = "font-family:system-ui,sans-serif;font-size:12px"


class _Canvas:
    """Shapes of one picture, whose x axis is seconds from ``first`` to ``last``."""

    def __init__(self, title: str, height: int, first: float, last: float) -> None:
        self.height, self.first, self.last = height, first, last
        self.parts = [
            f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
            self.text(_WIDTH / 2, 20, title, "middle", size=15),
        ]

    def x(self, seconds: float) -> float:
        return _LEFT + (seconds - self.first) / (self.last - self.first) * (_WIDTH - _LEFT - _RIGHT)

    @staticmethod
    def text(
        x: float, y: float, text: str, anchor: str = "start", color: str = _INK, size: int = 12
    ) -> str:
        where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
        return f'<text {where} fill="{color}" font-size="{size}">{escape(text)}</text>'

    @staticmethod
    def line(
        x1: float, y1: float, x2: float, y2: float, color: str = _FAINT, dash: str = ""
    ) -> str:
        where = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
        return f'<line {where} stroke="{color}" stroke-dasharray="{dash}"/>'

    @staticmethod
    def dot(x: float, y: float, color: str) -> str:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2" fill="{color}"/>'

    def axis(self, bottom: float) -> None:
        for second in range(round(self.first), round(self.last) + 1):
            x = self.x(second)
            self.parts.append(self.line(x, _TOP, x, bottom))
            self.parts.append(self.text(x, bottom + 16, f"{second} s", "middle"))

    def save(self, path: Path) -> None:
        box = f'viewBox="0 0 {_WIDTH} {self.height}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {box} style="{_STYLE}">'
        path.write_text("\n".join([head, *self.parts, "</svg>", ""]))


def timeline(
    path: Path,
    title: str,
    zero: float,
    wires: Mapping[str, Sequence[Reply]],
    events: Mapping[str, float],
    *,
    hit_ms: float,
    last: float,
) -> None:
    """Each node's round trips around ``zero`` (host's clock), and what happened when.

    ``events`` are seconds after ``zero``. A ping is drawn when it was sent; one that was
    never answered, at the top of its lane.
    """
    lane = 90
    bottom = _TOP + 18 * len(events) + lane * len(wires)
    canvas = _Canvas(title, bottom + 30, -2, last)
    canvas.axis(bottom)
    for number, (event, at) in enumerate(events.items()):
        x, y = canvas.x(at), _TOP + 18 * number + 12
        canvas.parts.append(canvas.line(x, y, x, bottom, _EVENT, "4 3"))
        side, anchor = (-4, "end") if at > last / 2 else (4, "start")
        canvas.parts.append(canvas.text(x + side, y, f"{event} ({at:.2f} s)", anchor, _EVENT))
    for number, (name, replies) in enumerate(wires.items()):
        base = bottom - lane * (len(wires) - 1 - number) - 8
        canvas.parts.append(canvas.line(_LEFT, base, _WIDTH - _RIGHT, base, _INK))
        canvas.parts.append(canvas.text(_LEFT - 8, base - 30, name, "end"))
        canvas.parts.append(canvas.text(_LEFT - 8, base, "0 ms", "end", "#888", 10))
        canvas.parts.append(canvas.text(_LEFT - 8, base - 55, "200 ms", "end", "#888", 10))
        for reply in {reply.seq: reply for reply in replies}.values():  # late is not lost
            rtt = _LOST_MS if reply.rtt is None else min(reply.rtt, _LOST_MS)
            sent = reply.at - (0 if reply.rtt is None else reply.rtt / 1000) - zero
            if -2 <= sent <= last:
                color = _BAD if rtt > hit_ms else _GOOD
                canvas.parts.append(canvas.dot(canvas.x(sent), base - rtt * 0.275, color))
    canvas.save(path)


def spread(
    path: Path, title: str, rows: Mapping[str, Sequence[float]], limits: Mapping[str, float]
) -> None:
    """Every figure as a dot in its row, in seconds, beside the limits that it must keep."""
    lane = 34
    bottom = _TOP + lane * len(rows) + 10
    canvas = _Canvas(title, bottom + 30, 0, 6)
    canvas.axis(bottom)
    for name, at in limits.items():
        x = canvas.x(at)
        canvas.parts.append(canvas.line(x, _TOP - 6, x, bottom, _BAD, "6 3"))
        canvas.parts.append(canvas.text(x, _TOP - 10, name, "middle", _BAD))
    for number, (name, values) in enumerate(rows.items()):
        y = _TOP + lane * number + 24
        canvas.parts.append(canvas.text(_LEFT - 8, y + 4, name, "end"))
        for position, value in enumerate(values):
            canvas.parts.append(canvas.dot(canvas.x(value), y + (position % 7 - 3) * 3, _GOOD))
    canvas.save(path)
