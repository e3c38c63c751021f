"""From what an experiment's machine knows to its record. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from chaos_core.run import Phase
from chaos_core.units import Duration
from chaos_experiment import verdict
from chaos_experiment.machine import Experiment
from chaos_experiment.probes import Probe
from chaos_experiment.record import Check, PhaseSpan, ProbeRecord, Record

# As phases are called where conditions were judged in them.
_CALLED = {Phase.OBSERVE: "during", Phase.RECOVER: "recovery"}


def account(
    head: Record, machine: Experiment, probes: Mapping[str, Probe], started: int, now: int
) -> Record:
    """``head`` with all that was seen since ``started``; times on the machine's clock, in µs."""

    def at(moment: int | None) -> int | None:
        return None if moment is None else moment - started

    def between(start: int | None, end: int | None) -> int | None:
        return None if start is None or end is None else max(0, end - start)

    series = machine.series
    return head.model_copy(
        update={
            "injected_us": at(machine.injected_at),
            "probes": [
                ProbeRecord(
                    name=name,
                    kind=probe.kind,
                    unit=probe.unit,
                    points=verdict.points(series, name, started, now),
                )
                for name, probe in probes.items()
            ],
            "spans": verdict.spans(series, probes, _spans(machine, now)),
            "health": [(when - started, value) for when, value in machine.healths],
            "checks": [
                Check(
                    phase=_CALLED.get(judged.phase, judged.phase.value),
                    condition=judged.condition.text,
                    held=judged.reading.held.value,
                    measured=judged.reading.measured,
                )
                for judged in machine.judged
            ],
            "detection_us": between(machine.hurt_at, machine.detected_at),
            "recovery_us": between(machine.unhurt_at, machine.recovered_at),
            "mttr_us": between(machine.detected_at, machine.recovered_at),
            "total_us": between(machine.injected_at, machine.recovered_at),
            "verdict": machine.verdict.value if machine.verdict else None,
            "reason": machine.reason,
        }
    )


def _spans(machine: Experiment, now: int) -> dict[str, tuple[int, int]]:
    """The phases whose figures are compared: before, while it hurt, and after."""
    marks = {
        "baseline": (machine.baseline_at, machine.injected_at),
        "fault": (machine.hurt_at, machine.unhurt_at),
        "recovery": (machine.unhurt_at, machine.recovered_at),
    }
    return {name: (a, b or now) for name, (a, b) in marks.items() if a is not None}


def phase_spans(entered: list[tuple[str, int]], end: int) -> list[PhaseSpan]:
    """From when each phase was entered to when it was left."""
    ends = [at for _, at in entered[1:]] + [end]
    return [
        PhaseSpan(phase=phase, start_us=start, end_us=stop)
        for (phase, start), stop in zip(entered, ends, strict=True)
    ]


__all__ = ["Duration", "account", "phase_spans"]
