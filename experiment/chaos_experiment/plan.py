"""What a scenario comes to once its parameters and targets are settled. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chaos_core.units import Duration
from chaos_experiment.conditions import Condition


@dataclass(frozen=True, slots=True)
class Step:
    """One fault on some nodes. ``at`` counts from T, the start of injection.

    ``number`` counts from 1; ``where`` is its place in the file, like ``web.yaml:31``.
    """

    number: int
    at: Duration
    duration: Duration
    kind: str
    params: Mapping[str, Any]
    targets: tuple[str, ...]  # names of the scenario's targets
    note: str = ""
    where: str = ""

    @property
    def end(self) -> Duration:
        return Duration(self.at + self.duration)


@dataclass(frozen=True, slots=True)
class Note:
    """A line for the timeline, said at T + ``at``."""

    at: Duration
    text: str


@dataclass(frozen=True, slots=True)
class Slo:
    """Targets; what is None is not asked for. Shares are in percent."""

    mttr: Duration | None = None
    error_rate: float | None = None
    availability: float | None = None
    latency_added: Duration | None = None
    recovery: Duration | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """An experiment as the state machine runs it.

    ``preflight`` must hold or nothing begins; what is not so of ``advice`` is only said.
    ``steady_state`` must hold over the baseline and again after; ``during`` while faults are
    in force; a condition of ``abort_when`` that holds ends the run, and so does one that
    cannot be evaluated for ``grace``.
    """

    title: str
    steps: tuple[Step, ...]
    notes: tuple[Note, ...] = ()
    preflight: tuple[Condition, ...] = ()
    steady_state: tuple[Condition, ...] = ()
    during: tuple[Condition, ...] = ()
    abort_when: tuple[Condition, ...] = ()
    baseline: Duration = Duration.parse("30s")
    recovery_within: Duration = Duration.parse("60s")
    stable_for: Duration = Duration.parse("5s")  # steady as long counts as recovered
    grace: Duration = Duration.parse("5s")
    slo: Slo = field(default_factory=Slo)
    advice: tuple[Condition, ...] = ()
