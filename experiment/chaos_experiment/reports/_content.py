"""What a report says, as rows of texts; the formats lay it out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from chaos_experiment.conditions import show
from chaos_experiment.record import Check, Record
from chaos_experiment.verdict import CAPS, SECOND, figures
from chaos_experiment.verdict import score_parts as score_of

NONE = "–"
HELD = {"yes": "✓ held", "no": "✗ not held", "unknown": "? no data"}

Rows = list[tuple[str, ...]]


def seconds(us: float | None, nothing: str = NONE) -> str:
    """A span of time; from two minutes on with minutes."""
    if us is None:
        return nothing
    if us < 120 * SECOND:
        return show(us, "duration")
    minutes, rest = divmod(round(us / SECOND), 60)
    return f"{minutes} min {rest:02} s"


def number(value: float | None, unit: str) -> str:
    """A figure of a probe; four digits tell enough of what has no unit."""
    if value is None:
        return NONE
    return show(value, unit) if unit or abs(value) >= 1000 else f"{value:.4g}"


def score(value: float | None) -> str:
    return "no score" if value is None else f"{value:.1f} of 100"


def clock(record: Record, at_us: int) -> str:
    """``T+1:05``, ``T−0:30``; from the beginning (``0:12``) when nothing was injected."""
    base = record.injected_us
    off = math.floor((at_us - (base or 0)) / SECOND)
    text = f"{abs(off) // 60}:{abs(off) % 60:02}"
    return text if base is None else f"T{'−' if off < 0 else '+'}{text}"


def verdict(record: Record) -> str:
    return record.verdict or "running"


def holds(check: Check) -> bool:
    """Whether a check speaks for the system: an abort condition does by not being so, and
    advice never speaks against it."""
    if check.phase == "advice":
        return True
    return check.held == ("no" if check.phase == "abort" else "yes")


def judged(check: Check) -> str:
    if check.phase == "abort" and check.held == "yes":
        return "✗ aborted"
    return "✓ not reached" if check.phase == "abort" and check.held == "no" else HELD[check.held]


def decisive(record: Record) -> str:
    """The sample that decided the verdict, in a sentence; empty when none did.

    Of an abort its condition (none when an operator did it); of a failure the first check that
    did not hold, else the first such target of the SLO table; of what passed the worst second
    while it was hurt.
    """
    guard = next((event for event in record.events if event.what == "guard"), None)
    if record.verdict == "aborted":
        wanted = [c for c in record.checks if c.phase == "abort" and not holds(c)]
        if not wanted:
            return f"Decided at {clock(record, guard.at_us)}: {guard.text}" if guard else ""
    elif record.verdict == "passed":
        return _worst_second(record)
    else:
        wanted = [c for c in record.checks if not holds(c)]
    if wanted:
        check = wanted[0]
        when = f" at {clock(record, guard.at_us)}" if check.phase == "abort" and guard else ""
        return f"Decided by {condition(check)}: {check.measured} ({check.phase}{when})"
    rows = [row for row in record.slo if not row.held]
    return f"Decided by {rows[0].name} {rows[0].target}: {rows[0].measured}" if rows else ""


def _worst_second(record: Record) -> str:
    """Of the probes that take time, the slowest second while faults were in force."""
    spans = [f for f in record.faults if f.start_us is not None and f.end_us is not None]
    worst = max(
        (
            (point.p99, probe.name, point.at_us)
            for probe in record.probes
            if probe.unit == "duration"
            for point in probe.points
            if point.p99 is not None
            and any((f.start_us or 0) <= point.at_us < (f.end_us or 0) for f in spans)
        ),
        default=None,
    )
    if worst is None:
        return ""
    p99, name, at = worst
    return f"Worst second: {name}.p99 {seconds(p99)} at {clock(record, at)}"


def facts(record: Record) -> Rows:
    """Where the run comes from."""
    parts = [
        ("Run", record.id),
        ("Scenario", " · ".join(filter(None, (record.scenario, record.level)))),
        ("Environment", record.environment),
        ("Parameters", ", ".join(f"{key}={value}" for key, value in record.params.items())),
        ("Targets", "; ".join(f"{k}: {', '.join(v)}" for k, v in record.targets.items())),
        ("Tags", ", ".join(record.tags)),
        ("Started", f"{record.started} by {record.actor}" if record.actor else record.started),
        ("Finished", record.finished),
    ]
    return [(name, value) for name, value in parts if value]


def times(record: Record) -> Rows:
    """The three times of a drill, and the score."""
    bad = "nothing to detect" if record.injected_us is not None else NONE
    return [
        ("Detection", seconds(record.detection_us, bad)),
        ("Recovery", seconds(record.recovery_us)),
        ("Time to repair", seconds(record.mttr_us)),
        ("Total", seconds(record.total_us)),
        ("Score", score(record.score)),
    ]


TIMELINE = ("time", "event", "response")


def timeline(record: Record) -> Rows:
    """``T+m:ss``, what was done, and what was seen of it."""
    done = ("created", "phase", "fault", "note", "operator")
    rows: Rows = []
    for event in record.events:
        text = f"{event.node}: {event.text}" if event.node else event.text
        text = text if event.what in ("phase", "probe") else f"{event.what}: {text}"
        time = clock(record, event.at_us)
        rows.append((time, text, "") if event.what in done else (time, "", text))
    return rows


NOT_COUNTED = "not counted"
FAULTS = ("step", "fault", "nodes", "from", "to", "hit", "in force")


def faults(record: Record) -> Rows:
    rows: Rows = []
    for fault in record.faults:
        params = " ".join(f"{key}={_value(value)}" for key, value in fault.params.items())
        start = NONE if fault.start_us is None else clock(record, fault.start_us)
        end = NONE if fault.end_us is None else clock(record, fault.end_us)
        why = f"{fault.verdict}: {fault.reason}" if fault.reason else fault.verdict
        nodes = ", ".join(fault.nodes)
        hits = ", ".join(f"{node}: {hits}" for node, hits in fault.hits.items()) or NOT_COUNTED
        rows.append((str(fault.step), f"{fault.kind} {params}", nodes, start, end, hits, why))
    return rows


def _value(value: object) -> str:
    """A parameter as one writes it."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


FIGURES = ("probe", "phase", "looks", "failed", "p50", "p95", "p99", "max")


def spans(record: Record) -> Rows:
    units = {probe.name: probe.unit for probe in record.probes}
    rows: Rows = []
    for span in record.spans:
        unit = units.get(span.probe, "")
        values = [number(value, unit) for value in (span.p50, span.p95, span.p99, span.max)]
        share = f"{span.failed} ({100 * span.failed / max(span.count, 1):.2g} %)"
        rows.append((span.probe, span.phase, str(span.count), share, *values))
    return rows


SLO = ("objective", "target", "measured", "")


def slo(record: Record) -> Rows:
    return [
        (row.name, row.target, row.measured, "✓ held" if row.held else "✗ not held")
        for row in record.slo
    ]


SCORE = ("part of the score", "figure", "points")


def score_parts(record: Record) -> Rows:
    """What the score is made of, in points of the whole, and what capped it."""
    parts = score_of(record)
    whole = sum(part.weight for part in parts)
    rows: Rows = [
        (
            part.name,
            part.figure,
            f"{100 * part.weight * part.share / whole:.1f} of {100 * part.weight / whole:.0f}",
        )
        for part in parts
    ]
    cap = CAPS.get(record.verdict or "")
    if cap and rows:
        rows.append(("cap", f"verdict: {record.verdict}", f"at most {cap:g}"))
    return rows


CHECKS = ("phase", "condition", "measured", "")


def checks(record: Record) -> Rows:
    return [(c.phase, condition(c), c.measured, judged(c)) for c in record.checks]


def condition(check: Check) -> str:
    """With its name and its reason, if it has them."""
    named = f"{check.name}: " if check.name else ""
    return f"{named}{check.condition}{f' – {check.why}' if check.why else ''}"


# ── suites ────────────────────────────────────────────────────────────────────────────────

SCORECARD = ("run", "title", "verdict", "score", "detected", "recovered", "available", "p99 added")


@dataclass(frozen=True, slots=True)
class Summary:
    """Several runs in a few figures."""

    verdicts: str
    scores: str
    recoveries: str


def scorecard(records: Iterable[Record]) -> Rows:
    rows: Rows = []
    for record in records:
        found = figures(record)
        rows.append(
            (
                record.id,
                f"{record.title} · {record.level}" if record.level else record.title,
                verdict(record),
                NONE if record.score is None else f"{record.score:.1f}",
                seconds(record.detection_us),
                seconds(record.recovery_us),
                number(found.availability, "percent"),
                seconds(found.latency_added),
            )
        )
    return rows


def summary(records: Sequence[Record]) -> Summary:
    words = [verdict(record) for record in records]
    counts = [f"{words.count(word)} {word}" for word in dict.fromkeys(words)]
    scores = [record.score for record in records if record.score is not None]
    took = sorted((r.recovery_us, r.id) for r in records if r.recovery_us is not None)
    return Summary(
        f"{len(records)} runs: {', '.join(counts)}" if records else "no runs",
        f"{fmean(scores):.1f} of 100 on average, {min(scores):.1f} at the lowest "
        f"({len(scores)} of {len(records)} runs have a score)"
        if scores
        else "no run has a score",
        f"average {seconds(fmean(us for us, _ in took))}, fastest {seconds(took[0][0])} "
        f"({took[0][1]}), slowest {seconds(took[-1][0])} ({took[-1][1]})"
        if took
        else "no run recovered from anything",
    )


BY_TAG = ("tag", "runs", "passed", "average score", "average recovery")


def by_tag(records: Sequence[Record]) -> Rows:
    """The scorecard by what was tested, as the scenarios' tags say it."""
    rows: Rows = []
    for tag in sorted({tag for record in records for tag in record.tags}):
        mine = [record for record in records if tag in record.tags]
        scores = [record.score for record in mine if record.score is not None]
        took = [record.recovery_us for record in mine if record.recovery_us is not None]
        rows.append(
            (
                tag,
                str(len(mine)),
                str(sum(record.verdict == "passed" for record in mine)),
                f"{fmean(scores):.1f}" if scores else NONE,
                seconds(fmean(took) if took else None),
            )
        )
    return rows


# ── comparisons ───────────────────────────────────────────────────────────────────────────

COMPARISON = ("figure", "before", "now", "change", "limit", "")
