"""HTML in one file that loads nothing and needs no script: readable, printable, self-contained.

Wide or on a phone, light or dark as the reader's system says. Texts of others are texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final
from xml.etree.ElementTree import Element

from chaos_experiment.compare import Comparison
from chaos_experiment.record import Point, ProbeRecord, Record
from chaos_experiment.reports import _content as content
from chaos_experiment.reports import _svg as svg
from chaos_experiment.reports._markup import element, page
from chaos_experiment.reports._style import STYLE
from chaos_experiment.verdict import SECOND

SUFFIX = ".html"
_MARKS: Final = {"passed": "✓", "failed": "✗", "aborted": "■", "interrupted": "!", "refused": "⊘"}
_KNOWN: Final = frozenset(_MARKS)
_FIGURE: Final = re.compile(r"(T?[−+]|≤|≥|\d).{0,19}")  # not broken; a title may begin so too


def render(record: Record) -> str:
    """One run."""
    return page(f"{content.verdict(record)}: {record.title}", STYLE, _run(record, "h1"))


def render_suite(records: Sequence[Record], title: str) -> str:
    """Several runs: a scorecard, the recoveries beside one another, then each run."""
    found = content.summary(records)
    rows = content.scorecard(records)
    links: list[list[Cell]] = [
        [element("a", row[0], href=f"#run-{number}"), row[1], _badge(record), *row[3:]]
        for number, (row, record) in enumerate(zip(rows, records, strict=True))
    ]
    took = [
        (
            f"{record.id} {record.title}",
            float(record.recovery_us),
            content.seconds(record.recovery_us),
        )
        for record in records
        if record.recovery_us is not None
    ]
    compared = took if any(us for _, us, _ in took) else []  # nothing to see where all are 0
    body = [
        element("h1", title),
        element("p", found.verdicts, class_="lead"),
        _tiles([("Score", found.scores), ("Recovery", found.recoveries)]),
        *_table("Scorecard", content.SCORECARD, links),
        svg.bars("Recovery time of each run", compared) if compared else None,
        *_table("By tag", content.BY_TAG, content.by_tag(records)),
        *(
            element("section", _run(record, "h2"), id=f"run-{number}", class_="run")
            for number, record in enumerate(records)
        ),
    ]
    return page(title, STYLE, body)


def render_comparison(comparison: Comparison) -> str:
    """A run beside another one, or beside its own history."""
    record, latest = comparison.record, comparison.older[-1]
    rows = [
        (row.name, row.before, row.now, row.change, row.limit,
         element("span", "✗ worse" if row.worse else "✓", class_="bad" if row.worse else "good"))
        for row in comparison.rows
    ]  # fmt: skip
    word = "failed" if comparison.worse else "passed"
    body = [
        element("h1", record.title),
        _banner(word, "worse" if comparison.worse else "no worse", comparison.summary, ""),
        *_table("Figures", content.COMPARISON, rows),
        element("h2", f"Beside run {latest.id}"),
        *_overlays(record, latest),
        *_table("Older runs", content.SCORECARD, content.scorecard(comparison.older)),
        *_table("This run", content.SCORECARD, content.scorecard([record])),
    ]
    return page(f"Comparison: {record.title}", STYLE, body)


# ── one run ───────────────────────────────────────────────────────────────────────────────


def _run(record: Record, level: str) -> list[Element | None]:
    word = content.verdict(record)
    return [
        element(level, record.title),
        _banner(word, word, record.reason, content.decisive(record)),
        element("p", "Hypothesis: ", record.hypothesis, class_="lead")
        if record.hypothesis
        else None,
        _tiles(content.times(record)),
        *_table("Objectives", content.SLO, content.slo(record)),
        *_charts(record),
        *_table("Timeline", content.TIMELINE, content.timeline(record)),
        *_table("Faults", content.FAULTS, content.faults(record)),
        *_table("Figures", content.FIGURES, content.spans(record)),
        *_table("Checks", content.CHECKS, content.checks(record)),
        *_table("Score", content.SCORE, content.score_parts(record)),
        *_table("Run", (), content.facts(record)),
    ]


def _banner(kind: str, word: str, reason: str, sample: str) -> Element:
    kind = kind if kind in _KNOWN else "refused"
    return element(
        "div",
        element("p", element("strong", f"{_MARKS[kind]} {word.upper()}"), " ", reason),
        element("p", sample, class_="sample") if sample else None,
        class_=f"banner {kind}",
    )


def _badge(record: Record) -> Element:
    word = content.verdict(record)
    good = "good" if word == "passed" else "bad"
    return element("span", f"{_MARKS.get(word, '?')} {word}", class_=good)


def _tiles(rows: content.Rows) -> Element:
    return element(
        "dl",
        (element("div", element("dt", name), element("dd", value)) for name, value in rows),
        class_="tiles",
    )


Cell = Element | str


def _table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]]
) -> list[Element | None]:
    """A heading and a table, which scrolls by itself where the screen is narrower."""
    body = [element("tr", (_cell(cell) for cell in row)) for row in rows]
    if not body:
        return []
    head = element("thead", element("tr", (element("th", c, scope="col") for c in columns)))
    table = element("table", head if columns else None, element("tbody", body))
    return [element("h3", title), element("div", table, class_="scroll")]


def _cell(cell: Cell) -> Element:
    """Colours what is marked as held or not; the mark itself says it without colour."""
    style = None
    if isinstance(cell, str) and cell:
        style = {"✓": "good", "✗": "bad", "?": "bad"}.get(cell[0]) if cell[1:2] == " " else None
        style = "figure" if style is None and _FIGURE.fullmatch(cell) else style
    return element("td", cell, class_=style)


# ── charts ────────────────────────────────────────────────────────────────────────────────


def _charts(record: Record) -> list[Element | None]:
    frame = _frame(record)
    if frame is None:
        return []
    found: list[Element | None] = [element("h3", "Course"), svg.course(frame)]
    timed = [probe for probe in record.probes if probe.unit == "duration"]
    for probe in timed:
        lines = [
            svg.Line("p99", _values(probe, "p99"), "main"),
            svg.Line("p50", _values(probe, "p50"), "second"),
        ]
        found.append(svg.chart(frame, f"{probe.name}: latency", "duration", lines))
    errors = [
        svg.Line(probe.name, [(p.at_us, _failed(p)) for p in probe.points], style, filled=True)
        for probe, style in zip(record.probes, _styles(len(record.probes)), strict=True)
        if probe in timed or any(point.failed for point in probe.points)
    ]
    if errors:
        found.append(svg.chart(frame, "Error rate", "percent", errors, top=1.0))
    if record.health:
        line = svg.Line("health", list(record.health), "good")
        found.append(svg.chart(frame, "Health, 0 to 100", "", [line], top=100.0))
    for probe in record.probes:
        if probe not in timed and any(point.last is not None for point in probe.points):
            line = svg.Line(probe.name, _values(probe, "last"), "main")
            found.append(svg.chart(frame, f"{probe.name}: value", probe.unit, [line]))
    return found


def _overlays(record: Record, older: Record) -> list[Element | None]:
    """p99 of each probe that both runs have, both counted from T."""
    shift = (record.injected_us or 0) - (older.injected_us or 0)
    before = {probe.name: probe for probe in older.probes if probe.unit == "duration"}
    frame = _frame(record)
    if frame is None:
        return []
    found: list[Element | None] = []
    for probe in record.probes:
        if probe.name in before and probe.unit == "duration":
            old = [
                (at + shift, value)
                for at, value in _values(before[probe.name], "p99")
                if frame.start_us <= at + shift <= frame.end_us
            ]
            lines = [
                svg.Line(f"run {record.id}", _values(probe, "p99"), "main"),
                svg.Line(f"run {older.id}", old, "old"),
            ]
            found.append(svg.chart(frame, f"{probe.name}: p99", "duration", lines))
    return found


def _frame(record: Record) -> svg.Frame | None:
    """The time axis of a run; None of one that saw nothing and did nothing."""
    ends = [phase.end_us for phase in record.phases]
    ends += [probe.points[-1].at_us + SECOND for probe in record.probes if probe.points]
    if not ends or max(ends) <= 0:
        return None
    end = max(ends)
    phases = [svg.Stretch(p.phase, p.start_us, p.end_us) for p in record.phases]
    faults = [
        svg.Stretch(fault.kind, fault.start_us, end if fault.end_us is None else fault.end_us)
        for fault in record.faults
        if fault.start_us is not None
    ]
    marks = [svg.Stretch("guard", e.at_us, e.at_us) for e in record.events if e.what == "guard"]
    return svg.Frame(
        0,
        end,
        lambda at: content.clock(record, at),
        record.injected_us or 0,
        tuple(phases),
        tuple(faults),
        tuple(marks[:3]),
    )


def _values(probe: ProbeRecord, name: str) -> list[svg.Value]:
    return [(point.at_us, getattr(point, name)) for point in probe.points]


def _failed(point: Point) -> float:
    return 100 * point.failed / max(point.count, 1)


def _styles(count: int) -> list[str]:
    styles = ("bad", "second", "third", "old")
    return [styles[number % len(styles)] for number in range(count)]
