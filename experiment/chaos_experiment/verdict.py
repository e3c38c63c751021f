"""What a run comes to: figures of its phases, the SLO table, the score. Pure.

A figure that was asked for and could not be measured is not held: what nobody saw is no
proof. The figures are those of the probes that the steady state names, since they say what
«well» means; of all probes when it names none; and of the worst one when they are several.
Those of the controller's site say nothing about this system's part in it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from chaos_core.errors import InvalidInput
from chaos_core.run import Phase
from chaos_core.units import Duration
from chaos_experiment.conditions import parse, show
from chaos_experiment.plan import Slo
from chaos_experiment.record import Check, PhaseSpan, Point, Record, SloRow, Span
from chaos_experiment.series import METRICS, Observation, Series

SECOND: Final = 1_000_000

# What each environment asks for unless the scenario says otherwise (REQUIREMENTS, E).
TARGETS: Final[Mapping[str, Slo]] = {
    name: Slo(
        mttr=Duration.parse(mttr),
        error_rate=errors,
        availability=available,
        latency_added=Duration.parse("500ms"),
        recovery=Duration.parse("10s"),
    )
    for name, mttr, errors, available in (
        ("development", "60s", 10.0, 90.0),
        ("staging", "45s", 5.0, 95.0),
        ("production", "30s", 1.0, 99.0),
    )
}

# The phases of a run that count as each of a report's.
_SPANS: Final[Mapping[Literal["baseline", "fault", "recovery"], tuple[Phase, ...]]] = {
    "baseline": (Phase.BASELINE,),
    "fault": (Phase.INJECT, Phase.OBSERVE),
    "recovery": (Phase.RECOVER, Phase.ABORT),
}


@dataclass(frozen=True, slots=True)
class Figures:
    """What SLO table, score and comparison are made of. None: not measured.

    ``error_rate`` is the share of looks that failed while faults were in force,
    ``availability`` the share that did not from T to the end of recovery, both in percent.
    ``latency_added`` is p99 during the faults minus p99 of the baseline, in µs: the tail is
    where a system that holds on average shows that it suffers. ``lost`` says that a probe had
    a latency before the faults and no answer at all during them.
    """

    mttr: float | None = None
    error_rate: float | None = None
    availability: float | None = None
    latency_added: float | None = None
    recovery: float | None = None
    detection: float | None = None
    p99: float | None = None
    lost: bool = False


def targets(asked: Slo, environment: str) -> Slo:
    """``asked``, and where it asks nothing the targets of ``environment`` if it has any."""
    usual = TARGETS.get(environment, Slo())
    return replace(
        usual,
        **{
            name: value
            for name in Slo.__dataclass_fields__
            if (value := getattr(asked, name)) is not None
        },
    )


def figures(record: Record) -> Figures:
    """The figures of a run, from its spans and times."""
    site = {probe.name for probe in record.probes if probe.site}
    own = [span for span in record.spans if span.probe not in site]
    named = _steady(record.checks) & {span.probe for span in own}
    seen = [s for s in own if s.count and (not named or s.probe in named)]
    by = {(span.probe, span.phase): span for span in seen}
    timed = {probe.name for probe in record.probes if probe.unit == "duration"}
    during = [span for span in seen if span.phase == "fault"]
    before = {s.probe: s.p99 for s in seen if s.phase == "baseline" and s.probe in timed}
    tails = {s.probe: s.p99 for s in during if s.probe in timed}
    added = [
        after - p99
        for probe, p99 in before.items()
        if p99 is not None and (after := tails.get(probe)) is not None
    ]
    after_t = [
        [by[probe, phase] for phase in ("fault", "recovery") if (probe, phase) in by]
        for probe in {span.probe for span in during}
    ]
    return Figures(
        mttr=record.mttr_us,
        error_rate=max((_failed([span]) for span in during), default=None),
        availability=min((100 - _failed(spans) for spans in after_t), default=None),
        latency_added=max(added, default=None),
        recovery=record.recovery_us,
        detection=record.detection_us,
        p99=max((p99 for p99 in tails.values() if p99 is not None), default=None),
        lost=any(p99 is None and before.get(probe) is not None for probe, p99 in tails.items()),
    )


def _steady(checks: Iterable[Check]) -> set[str]:
    """The probes that the steady state names."""
    return {_probe(check) for check in checks if check.phase in ("baseline", "recovery")} - {""}


def _probe(check: Check) -> str:
    try:
        return parse(check.condition).probe
    except InvalidInput:  # a record of another version may know conditions that we do not
        return ""


def _failed(spans: Sequence[Span]) -> float:
    return 100 * sum(span.failed for span in spans) / sum(span.count for span in spans)


# ── SLO table ─────────────────────────────────────────────────────────────────────────────


def slo_rows(slo: Slo, found: Figures) -> list[SloRow]:
    """Each target that was set beside what was measured."""
    rows: list[SloRow] = []
    if slo.mttr is not None:
        # What was felt only after the faults' end, if at all, was repaired with the recovery.
        unfelt = found.mttr is None and found.detection is None
        took = found.recovery if unfelt else found.mttr
        row = _at_most("MTTR", slo.mttr, took, "duration", "never repaired")
        rows.append(row.model_copy(update={"measured": "nothing to repair"}) if took == 0 else row)
    if slo.error_rate is not None:
        rows.append(_at_most("error rate", slo.error_rate, found.error_rate, "percent"))
    if slo.availability is not None:
        share = found.availability
        held = share is not None and share >= slo.availability
        measured = "not measured" if share is None else show(share, "percent")
        target = f"≥ {show(slo.availability, 'percent')}"
        rows.append(SloRow(name="availability", target=target, measured=measured, held=held))
    if slo.latency_added is not None:
        added = None if found.lost else found.latency_added
        nothing = "no answer at all" if found.lost else "not measured"
        rows.append(_at_most("latency added (p99)", slo.latency_added, added, "duration", nothing))
    if slo.recovery is not None:
        row = _at_most("recovery time", slo.recovery, found.recovery, "duration", "no recovery")
        rows.append(row)
    return rows


def _at_most(
    name: str,
    target: float,
    value: float | None,
    unit: str,
    nothing: str = "not measured",
) -> SloRow:
    """A row of a target that is an upper bound; ``nothing`` says why there is no value."""
    measured = nothing if value is None else show(value, unit)
    held = value is not None and value <= target
    # What was asked for is a round figure; what was measured has its digits.
    bound = re.sub(r"\.0+ ", " ", show(target, unit))
    return SloRow(name=name, target=f"≤ {bound}", measured=measured, held=held)


# ── score ─────────────────────────────────────────────────────────────────────────────────

FULL_RECOVERY: Final = 10 * SECOND  # as fast as E asks for: all points
NO_RECOVERY: Final = 300 * SECOND  # A's bound for a recovery without a hand: no points
LOW_AVAILABILITY: Final = 90.0  # what E asks of development: no points at or below
HIGH_LATENCY: Final = 500_000  # added, E's bound: no points
CAPS: Final[Mapping[str, float]] = {"failed": 70.0, "aborted": 40.0}


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the score: ``share`` (0–1) of ``weight`` points, and the figure behind it."""

    name: str
    weight: int
    share: float
    figure: str


def score(record: Record) -> float | None:
    """The resilience score, 0 to 100; None where there is nothing to judge by.

    ::

        score = 100 · Σ weight · share / Σ weight, of the parts that the run has

        continuity  40   (availability − 90 %) / 10 %                  from T to steady again
        recovery    30   1 at ≤ 10 s, 0 at ≥ 300 s, between by log(time)   0: no recovery
        latency     10   1 − added p99 / 500 ms                        0: no answer at all
        objectives  20   share of the checks during and after the faults, and of the SLO
                         rows, that held

    each share within 0 and 1. A run that failed has at most 70, an aborted one at most 40:
    what was cut short would otherwise look better than what was endured. Refused and
    interrupted runs, those that hurt nothing, and those in which no probe saw anything
    during the faults have none.
    """
    parts = score_parts(record)
    if not parts:
        return None
    whole = sum(part.weight for part in parts)
    points = 100 * math.fsum(part.weight * part.share for part in parts) / whole
    return round(min(points, CAPS.get(record.verdict or "", 100.0)), 1)


def score_parts(record: Record) -> list[Part]:
    """What the score is made of; nothing for a run that has none."""
    found = figures(record)
    judged = record.verdict in ("passed", "failed", "aborted") and record.injected_us is not None
    if not judged or found.availability is None:
        return []
    parts = [
        Part("continuity", 40, _between(found.availability, LOW_AVAILABILITY, 100.0),
             f"availability {show(found.availability, 'percent')}"),
        Part("recovery", 30, _recovered(found.recovery),
             "no recovery" if found.recovery is None else show(found.recovery, "duration")),
    ]  # fmt: skip
    if found.lost:
        parts.append(Part("latency", 10, 0.0, "no answer at all"))
    elif found.latency_added is not None:
        share = 1 - _between(found.latency_added, 0, HIGH_LATENCY)
        parts.append(Part("latency", 10, share, f"{show(found.latency_added, 'duration')} added"))
    held = [check.held == "yes" for check in record.checks if check.phase in ("during", "recovery")]
    held += [row.held for row in record.slo]
    if held:
        text = f"{sum(held)} of {len(held)} held"
        parts.append(Part("objectives", 20, sum(held) / len(held), text))
    return parts


def _between(value: float, low: float, high: float) -> float:
    return min(1.0, max(0.0, (value - low) / (high - low)))


def _recovered(time: float | None) -> float:
    if time is None:
        return 0.0
    shown = math.log(max(time, 1) / FULL_RECOVERY) / math.log(NO_RECOVERY / FULL_RECOVERY)
    return 1 - min(1.0, max(0.0, shown))


# ── figures of what was seen ──────────────────────────────────────────────────────────────


def spans(series: Series, phases: Sequence[PhaseSpan], *, began: int = 0) -> list[Span]:
    """Each probe's figures over baseline, fault and recovery; ``began`` is the experiment's
    beginning on the clock of ``series``. A phase in which a probe saw nothing has none."""
    found: list[Span] = []
    for probe in series.kept:
        for name, parts in _SPANS.items():
            mine = [phase for phase in phases if phase.phase in parts]
            rows = [
                row
                for phase in mine
                for row in series.between(probe, began + phase.start_us, began + phase.end_us)
            ]
            if rows:
                found.append(
                    Span(
                        probe=probe,
                        phase=name,
                        count=len(rows),
                        failed=sum(not row.ok for row in rows),
                        **_metrics(rows, "p50", "p95", "p99", "max", "mean"),
                    )
                )
    return found


def points(series: Series, probe: str, start: int, end: int) -> list[Point]:
    """What a probe saw in each second of [start, end); seconds without a look are left out.

    ``at_us`` counts from ``start``, the experiment's beginning.
    """
    seconds: dict[int, list[Observation]] = {}
    for row in series.between(probe, start, end):
        seconds.setdefault((row.at - start) // SECOND, []).append(row)
    return [
        Point(
            at_us=second * SECOND,
            count=len(rows),
            failed=sum(not row.ok for row in rows),
            last=METRICS["value"](rows),
            text=next((row.text for row in reversed(rows) if not row.ok), ""),
            **_metrics(rows, "p50", "p99", "max"),
        )
        for second, rows in seconds.items()
    ]


def _metrics(rows: Sequence[Observation], *names: str) -> dict[str, float | None]:
    of: Mapping[str, Callable[[Sequence[Observation]], float | None]] = METRICS
    return {name: of[name](rows) for name in names}
