"""The record of an experiment: all that a report is made of. Its schema is stable.

Times in µs count from the beginning of the experiment; T, the start of injection, is
``injected_us``. What is None was not reached or not measured.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Verdict = Literal["passed", "failed", "aborted", "interrupted", "refused"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PhaseSpan(_Part):
    """A phase (``chaos_core.run.Phase``) from when to when."""

    phase: str
    start_us: int
    end_us: int


class Event(_Part):
    """A line of the timeline. ``what``: phase, fault, guard, probe, note, operator, verdict."""

    at_us: int
    what: str
    text: str
    node: str = ""


class FaultSpan(_Part):
    """A step of the timeline: its fault was in force from when to when."""

    step: int
    kind: str
    params: dict[str, object]
    nodes: list[str]
    start_us: int | None
    end_us: int | None
    verdict: str
    reason: str


class Point(_Part):
    """One second of one probe. Figures are in the probe's unit (µs where it is a duration)."""

    at_us: int
    count: int
    failed: int
    p50: float | None = None
    p99: float | None = None
    max: float | None = None
    last: float | None = None
    text: str = ""  # of the last failure


class ProbeRecord(_Part):
    """All that one probe saw, second by second."""

    name: str
    kind: str
    unit: Literal["duration", "percent", ""]
    points: list[Point]


class Check(_Part):
    """A condition judged over a phase: preflight, baseline, during, recovery or abort."""

    phase: str
    condition: str
    held: Literal["yes", "no", "unknown"]
    measured: str


class SloRow(_Part):
    """One target beside what was measured, both as people read them."""

    name: str
    target: str
    measured: str
    held: bool


class Span(_Part):
    """Figures of one probe over one phase: baseline, fault or recovery."""

    probe: str
    phase: Literal["baseline", "fault", "recovery"]
    count: int
    failed: int
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None
    mean: float | None = None


class Record(_Part):
    """One experiment, from its scenario to its verdict."""

    version: Literal[1] = 1
    id: str
    title: str
    hypothesis: str = ""
    tags: list[str] = []
    scenario: str = ""  # the file's name
    environment: str = ""
    level: str = ""
    params: dict[str, str] = {}
    actor: str = ""
    started: str  # RFC 3339, UTC
    finished: str = ""
    targets: dict[str, list[str]] = {}
    injected_us: int | None = None
    phases: list[PhaseSpan] = []
    events: list[Event] = []
    faults: list[FaultSpan] = []
    probes: list[ProbeRecord] = []
    spans: list[Span] = []
    health: list[tuple[int, float]] = []  # (at_us, 0 to 100), once a second
    checks: list[Check] = []
    slo: list[SloRow] = []
    detection_us: int | None = None  # from the first fault in force to the first bad condition
    recovery_us: int | None = None  # from the last fault's end until steady again
    mttr_us: int | None = None  # from the first bad condition until steady again
    total_us: int | None = None  # from T until steady again
    verdict: Verdict | None = None
    reason: str = ""
    score: float | None = None  # 0 to 100; None without probes
