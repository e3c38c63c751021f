"""The record of an experiment: all that a report is made of. Its schema is stable.

Times in µs count from the beginning of the experiment; T, the start of injection, is
``injected_us``. What is None was not reached or not measured.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from chaos_core.hits import Hits

Verdict = Literal["passed", "failed", "no_effect", "aborted", "interrupted", "refused"]

# Bounds that every program's numbers can hold exactly: a record may come from a file.
Us = Annotated[int, Field(ge=-(2**53), le=2**53)]
Figure = Annotated[float, Field(ge=-1e18, le=1e18)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PhaseSpan(_Part):
    """A phase (``chaos_core.run.Phase``) from when to when."""

    phase: str
    start_us: Us
    end_us: Us


class Event(_Part):
    """A line of the timeline. ``what``: phase, preflight, advice, fault, guard, probe, note,
    operator, verdict."""

    at_us: Us
    what: str
    text: str
    node: str = ""


class FaultSpan(_Part):
    """A step of the timeline: its fault was in force from when to when."""

    step: int
    kind: str
    params: dict[str, object]
    nodes: list[str]
    start_us: Us | None
    end_us: Us | None
    verdict: str
    reason: str
    hits: dict[str, Hits] = {}  # by node; without those on which it is not counted


class Point(_Part):
    """One second of one probe. Figures are in the probe's unit (µs where it is a duration)."""

    at_us: Us
    count: Us
    failed: Us
    p50: Figure | None = None
    p99: Figure | None = None
    max: Figure | None = None
    last: Figure | None = None
    text: str = ""  # of the last failure


class ProbeRecord(_Part):
    """All that one probe saw, second by second. ``site``: not the scenario's, but the
    controller's, which asks it of every experiment."""

    name: str
    kind: str
    unit: Literal["duration", "percent", ""]
    points: list[Point]
    site: bool = False


class Check(_Part):
    """A condition judged over a phase: preflight, advice, baseline, during, recovery or abort.

    ``name`` and ``why`` are of those that the controller's site asks.
    """

    phase: str
    condition: str
    held: Literal["yes", "no", "unknown"]
    measured: str
    name: str = ""
    why: str = ""


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
    count: Us
    failed: Us
    p50: Figure | None = None
    p95: Figure | None = None
    p99: Figure | None = None
    max: Figure | None = None
    mean: Figure | None = None


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
    injected_us: Us | None = None
    phases: list[PhaseSpan] = []
    events: list[Event] = []
    faults: list[FaultSpan] = []
    probes: list[ProbeRecord] = []
    spans: list[Span] = []
    health: list[tuple[Us, Figure]] = []  # (at_us, 0 to 100), once a second
    checks: list[Check] = []
    slo: list[SloRow] = []
    detection_us: Us | None = None  # from the first fault in force to the first bad condition
    recovery_us: Us | None = None  # from the last fault's end until steady again
    mttr_us: Us | None = None  # from the first bad condition until steady again
    total_us: Us | None = None  # from T until steady again
    verdict: Verdict | None = None
    reason: str = ""
    score: Figure | None = None  # 0 to 100; None without probes
