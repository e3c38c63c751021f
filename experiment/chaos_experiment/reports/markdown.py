"""Markdown, for pull requests and wikis. Texts of others are escaped: no markup of theirs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from chaos_core.text import printable
from chaos_experiment.compare import Comparison
from chaos_experiment.record import Point, Record
from chaos_experiment.reports import _content as content

SUFFIX = ".md"
_MAX_TEXT = 4000
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&$])")
_BARS = "▁▂▃▄▅▆▇█"
_COLUMNS = 60
_MARKS = {"passed": "✅", "failed": "❌", "aborted": "🛑", "interrupted": "⚠️", "refused": "⛔"}


def render(record: Record) -> str:
    """One run."""
    return "\n".join(_run(record, "#")) + "\n"


def render_suite(records: Sequence[Record], title: str) -> str:
    """Several runs: a scorecard, then each."""
    found = content.summary(records)
    lines = [f"# {text(title)}", "", *_list(found.verdicts, f"score: {found.scores}",
             f"recovery: {found.recoveries}"), ""]  # fmt: skip
    lines += _table("Scorecard", content.SCORECARD, content.scorecard(records), "##")
    lines += _table("By tag", content.BY_TAG, content.by_tag(records), "##")
    for record in records:
        lines += _run(record, "##")
    return "\n".join(lines) + "\n"


def render_comparison(comparison: Comparison) -> str:
    """A run beside another one, or beside its own history."""
    title = f"# Run {text(comparison.record.id)} beside {len(comparison.older)} older"
    rows = [
        (row.name, row.before, row.now, row.change, row.limit, "✗ worse" if row.worse else "✓")
        for row in comparison.rows
    ]
    lines = [title, "", f"**{text(comparison.summary)}**", ""]
    lines += _table("", content.COMPARISON, rows, "")
    lines += ["## Runs", "", *_list(*(f"{r.id}, {r.started}: {r.title}" for r in comparison.older))]
    return "\n".join(lines) + "\n"


def _run(record: Record, level: str) -> list[str]:
    word = content.verdict(record)
    lines = [f"{level} {text(record.title)}", ""]
    lines += [f"**{_MARKS.get(word, '')} {word.upper()}** — {text(record.reason)}  "]
    sample = content.decisive(record)
    lines += [text(sample), ""] if sample else [""]
    lines += [f"> {text(record.hypothesis)}", ""] if record.hypothesis else []
    times = content.times(record)
    lines += _table("", [name for name, _ in times], [tuple(value for _, value in times)], "")
    sub = f"{level}#"
    lines += _table("Objectives", content.SLO, content.slo(record), sub)
    lines += _course(record, sub)
    lines += _table("Score", content.SCORE, content.score_parts(record), sub)
    lines += _table("Timeline", content.TIMELINE, content.timeline(record), sub)
    lines += _table("Faults", content.FAULTS, content.faults(record), sub)
    lines += _table("Figures", content.FIGURES, content.spans(record), sub)
    lines += _table("Checks", content.CHECKS, content.checks(record), sub)
    return [
        *lines,
        f"{sub} Run",
        "",
        *_list(*(": ".join(row) for row in content.facts(record))),
        "",
    ]


def text(given: str) -> str:
    """One line, in which nothing is markup."""
    return _SPECIAL.sub(r"\\\1", printable(given, _MAX_TEXT))


def _list(*texts: str) -> list[str]:
    return [f"- {text(each)}" for each in texts]


def _table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], level: str
) -> list[str]:
    lines = [f"| {' | '.join(map(text, row))} |" for row in rows]
    if not lines:
        return []
    head = [f"{level} {title}", ""] if title else []
    return [*head, f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *lines, ""]


# ── the course of a run in block elements ─────────────────────────────────────────────────


def _course(record: Record, level: str) -> list[str]:
    """p99 and failures of each probe that takes time, over the run, above its fault windows."""
    probes = [p for p in record.probes if p.unit == "duration" and p.points]
    end = max((p.points[-1].at_us + 1_000_000 for p in probes), default=0)
    if not end:
        return []
    rows: list[tuple[str, str, str]] = []
    for probe in probes:
        name = printable(probe.name, 32).replace("`", "'")
        p99s = [(point.at_us, point.p99) for point in probe.points]
        lost = [(point.at_us, _failed(point)) for point in probe.points]
        rows += [_bars(f"{name} p99", p99s, end, "duration")]
        rows += [_bars(f"{name} errors", lost, end, "percent")]
    cells = ["█" if _hurt(record, column, end) else "·" for column in range(_COLUMNS)]
    rows.append(("fault", "".join(cells), ""))
    width = max(len(name) for name, _, _ in rows)
    lines = [f"{name:{width}}  {bars}  {scale}".rstrip() for name, bars, scale in rows]
    return [f"{level} Course", "", "```text", *lines, "```", ""]


def _failed(point: Point) -> float:
    return 100 * point.failed / max(point.count, 1)


def _bars(
    name: str, values: Iterable[tuple[int, float | None]], end: int, unit: str
) -> tuple[str, str, str]:
    """The highest value of each column; a blank where there is none."""
    columns: list[float | None] = [None] * _COLUMNS
    for at, value in values:
        column = min(_COLUMNS - 1, max(0, at * _COLUMNS // end))
        if value is not None:
            columns[column] = max(value, columns[column] or 0.0)
    seen = [value for value in columns if value is not None]
    top = max(seen, default=0.0)
    bars = "".join(
        " " if value is None else _BARS[min(7, int(8 * value / top)) if top else 0]
        for value in columns
    )
    return name, bars, f"at most {content.number(top if seen else None, unit)}"


def _hurt(record: Record, column: int, end: int) -> bool:
    start, stop = column * end / _COLUMNS, (column + 1) * end / _COLUMNS
    return any(
        fault.start_us is not None
        and fault.start_us < stop
        and (fault.end_us is None or fault.end_us > start)
        for fault in record.faults
    )
