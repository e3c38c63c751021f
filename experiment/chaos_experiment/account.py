"""From what an experiment's machine knows to its record. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from chaos_experiment import verdict
from chaos_experiment.load import Loaded
from chaos_experiment.machine import Experiment, Verdict
from chaos_experiment.record import Check, PhaseSpan, ProbeRecord, Record


def account(head: Record, machine: Experiment, loaded: Loaded, started: int, now: int) -> Record:
    """``head`` with all that was seen since ``started``, judged if the experiment is over.

    Both times are on the machine's clock, in µs. A target of the SLO that was missed fails
    what had passed.
    """

    def at(moment: int | None) -> int | None:
        return None if moment is None else moment - started

    series = machine.series
    seen = head.model_copy(
        update={
            "injected_us": at(machine.injected_at),
            "probes": [
                ProbeRecord(
                    name=name,
                    kind=probe.kind,
                    unit=probe.unit,
                    points=verdict.points(series, name, started, now),
                    site=name in loaded.site_probes,
                )
                for name, probe in loaded.all_probes.items()
            ],
            "spans": verdict.spans(series, head.phases, began=started),
            "health": [(when - started, value) for when, value in machine.healths],
            "checks": [
                Check(
                    phase=judged.part,
                    condition=judged.condition.text,
                    held=judged.reading.held.value,
                    measured=judged.reading.measured,
                    name=judged.condition.name,
                    why=judged.condition.why,
                )
                for judged in machine.judged
            ],
            "detection_us": _between(machine.hurt_at, machine.detected_at),
            "recovery_us": _between(machine.unhurt_at, machine.recovered_at),
            "mttr_us": _between(machine.detected_at, machine.recovered_at),
            "total_us": _between(machine.injected_at, machine.recovered_at),
        }
    )
    return _judged(seen, machine) if machine.verdict else seen


def _judged(seen: Record, machine: Experiment) -> Record:
    ended, reason = machine.verdict, machine.reason
    rows = []
    if machine.hurt_at is not None:
        asked = verdict.targets(machine.plan.slo, seen.environment)
        rows = verdict.slo_rows(asked, verdict.figures(seen))
    missed = [f"{row.name} {row.measured} (target {row.target})" for row in rows if not row.held]
    if ended is Verdict.PASSED and missed:
        ended, reason = Verdict.FAILED, f"SLO missed: {'; '.join(missed)}"
    judged = seen.model_copy(
        update={"slo": rows, "verdict": ended.value if ended else None, "reason": reason}
    )
    return judged.model_copy(update={"score": verdict.score(judged)})


def phase_spans(entered: Sequence[tuple[str, int]], end: int) -> list[PhaseSpan]:
    """From when each phase was entered to when it was left, the last at ``end``."""
    ends = [*(at for _, at in entered[1:]), end]
    return [
        PhaseSpan(phase=phase, start_us=start, end_us=stop)
        for (phase, start), stop in zip(entered, ends, strict=True)
    ]


def _between(start: int | None, end: int | None) -> int | None:
    return None if start is None or end is None else max(0, end - start)
