"""An experiment from preflight to verdict, without clock, socket or thread.

Events go in with the time, instructions come out; what probes see is put into ``series``.
A step is one fault on some nodes, which ``chaos_core.run`` takes from apply to clean: this
machine says when each begins, and ends them all when they hurt too much.

::

    PREFLIGHT → BASELINE → INJECT → OBSERVE → RECOVER → VERDICT
                             └─────────┴─▶ ABORT ─┘ (a breach)  └▶ CLEAN (an operator)

Leases are not this module's business: the faults of an experiment whose controller dies are
ended by the nodes themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from chaos_core.run import Phase
from chaos_core.run import Verdict as RunVerdict
from chaos_core.units import Duration
from chaos_experiment.conditions import Condition, Held, Reading
from chaos_experiment.guard import Guard
from chaos_experiment.plan import Plan, Step
from chaos_experiment.probes import Mode
from chaos_experiment.series import Series

# The guard looks this often; recovery is found in steps of a tenth of a second.
LOOK_EVERY: Final = Duration.parse("1s")
FINE: Final = Duration.parse("100ms")

_MARKS: Final = {Held.YES: "✓", Held.NO: "✗", Held.UNKNOWN: "?"}

# Which probes look in which phase.
WATCHED: Final = {
    Phase.PREFLIGHT: frozenset({Mode.START, Mode.EDGE, Mode.CONTINUOUS}),
    Phase.BASELINE: frozenset({Mode.START, Mode.EDGE, Mode.CONTINUOUS}),
    Phase.INJECT: frozenset({Mode.CONTINUOUS, Mode.DURING}),
    Phase.OBSERVE: frozenset({Mode.CONTINUOUS, Mode.DURING}),
    Phase.ABORT: frozenset({Mode.CONTINUOUS, Mode.DURING}),
    Phase.RECOVER: frozenset({Mode.END, Mode.EDGE, Mode.CONTINUOUS}),
}


class Verdict(StrEnum):
    """How an experiment ended."""

    PASSED = "passed"  # the system held, and was well again in time
    FAILED = "failed"  # it did not, or a fault was not what was asked for
    NO_EFFECT = "no_effect"  # a fault hit nothing of what there was: nothing is proven
    ABORTED = "aborted"  # by an abort condition or an operator
    INTERRUPTED = "interrupted"  # its controller died; the leases ended it
    REFUSED = "refused"  # nothing was hurt


# ── events ────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Begin:
    """The nodes are there and the envelope allows it; look whether the system is well."""


@dataclass(frozen=True, slots=True)
class InForce:
    """A step's fault was read back from every node's kernel."""

    step: int


@dataclass(frozen=True, slots=True)
class Over:
    """A step is over: as ``chaos_core.run`` says."""

    step: int
    verdict: RunVerdict
    reason: str


@dataclass(frozen=True, slots=True)
class Abort:
    """An operator ends everything."""

    reason: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = Begin | InForce | Over | Abort | Tick

# ── instructions ──────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Start:
    """Begin a step: inject its fault."""

    step: Step


@dataclass(frozen=True, slots=True)
class End:
    """End every fault of this experiment now."""

    reason: str


@dataclass(frozen=True, slots=True)
class Entered:
    """The experiment is in a new phase; ``text`` says why, for people."""

    phase: Phase
    text: str


@dataclass(frozen=True, slots=True)
class Said:
    """A line for the timeline: ``what`` as in ``record.Event``."""

    what: str
    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The experiment is over."""

    verdict: Verdict
    reason: str


Instruction = Start | End | Entered | Said | Finished


@dataclass(frozen=True, slots=True)
class Judged:
    """A condition judged, as part of what: see ``record.Check``."""

    part: str
    condition: Condition
    reading: Reading


@dataclass(slots=True)
class Experiment:
    """One experiment. ``settle`` is how late an answer may still come in: the longest time-out
    of its probes; a span is judged only when it is that old.
    """

    plan: Plan
    settle: Duration = Duration.parse("2s")
    series: Series = field(default_factory=Series)
    phase: Phase = Phase.PREFLIGHT
    verdict: Verdict | None = None
    reason: str = ""
    since: int = 0  # when the phase was entered
    baseline_at: int | None = None
    injected_at: int | None = None  # T
    hurt_at: int | None = None  # the first fault in force
    unhurt_at: int | None = None  # the last fault's end
    detected_at: int | None = None  # the first condition that was no longer so
    recovered_at: int | None = None
    healths: list[tuple[int, float]] = field(default_factory=list)
    judged: list[Judged] = field(default_factory=list)
    _begun: bool = False
    _guard: Guard = field(init=False)
    _waiting: list[Step] = field(init=False)
    _running: set[int] = field(default_factory=set)
    _notes: int = 0
    _failure: tuple[Verdict, str] | None = None
    _by_operator: bool = False
    _looked_at: int = 0
    _candidate: int = 0
    _out: list[Instruction] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._guard = Guard(self.plan.abort_when, self.plan.grace)
        self._waiting = sorted(self.plan.steps, key=lambda step: (step.at, step.number))

    @property
    def over(self) -> bool:
        return self.verdict is not None

    def health(self, now: int) -> float | None:
        """0 to 100: the share of the steady state's conditions that hold; None without any."""
        conditions = [each for each in self.plan.steady_state if each.probe]
        if not conditions:
            return None
        held = [each.read(self.series, now).held is Held.YES for each in conditions]
        return 100 * sum(held) / len(held)

    def step(self, event: Event, now: int) -> tuple[Instruction, ...]:
        """Take one event at ``now`` (µs) and say what to do. After the end nothing happens."""
        if self.over:
            return ()
        self._out = []
        match event:
            case Begin() if not self._begun:
                self._begun = True
                self._enter(Phase.PREFLIGHT, "looking whether the system is well", now)
            case InForce(number) if number in self._running:
                self._in_force(now)
            case Over(number, verdict, reason) if number in self._running:
                self._step_over(number, verdict, reason, now)
            case Abort(reason):
                self._aborted(reason, now)
            case _:
                pass
        if self._begun:
            self._advance(now)
        return tuple(self._out)

    # ── transitions ───────────────────────────────────────────────────────────────────────

    def _enter(self, phase: Phase, text: str, now: int) -> None:
        self.phase, self.since = phase, now
        self._out.append(Entered(phase, text))

    def _advance(self, now: int) -> None:
        """What follows from the time and from what was seen."""
        if self.phase is Phase.PREFLIGHT and now - self.since >= self._warm_up():
            self._end_preflight(now)
        if self.phase in (Phase.BASELINE, Phase.RECOVER):
            self._note_health(now)
        if self.phase is Phase.BASELINE and now - self.since >= self.plan.baseline:
            self._end_baseline(now)
        if self.phase in (Phase.INJECT, Phase.OBSERVE):
            self._look(now)
        if self.phase in (Phase.INJECT, Phase.OBSERVE):
            self._say_notes(now)
            self._start_due(now)
            if not self._waiting and not self._running:
                self._recover("every fault is over", now)
        if self.phase is Phase.ABORT and not self._running:
            if self._by_operator:
                self._finish(Phase.CLEAN, now)
            else:
                self._recover("every fault is gone", now)
        if self.phase is Phase.RECOVER:
            self._await_recovery(now)

    def _warm_up(self) -> int:
        """Until the windows of all that is judged are full."""
        plan = self.plan
        asked = (*plan.preflight, *plan.advice, *plan.steady_state, *plan.abort_when)
        return max((each.over + self.settle for each in asked), default=0)

    def _end_preflight(self, now: int) -> None:
        start, end = self.since, now - self.settle
        asked = [each for each in self.plan.preflight if each.probe]
        before = len(self.judged)
        bad = self._judge(asked, "preflight", start, end)
        self._judge(self.plan.advice, "advice", start, end)
        for judged in self.judged[before:]:
            line = f"{_MARKS[judged.reading.held]} {judged.condition.told(judged.reading.measured)}"
            self._out.append(Said(judged.part, line))
        if bad:
            self._refuse(f"preflight: {bad}", now)
            return
        self.baseline_at = now
        text = f"taking the baseline for {self.plan.baseline}"
        self._enter(Phase.BASELINE, text, now)

    def _end_baseline(self, now: int) -> None:
        start = self.since
        asked = [*self.plan.steady_state, *(e for e in self.plan.preflight if not e.probe)]
        bad = self._judge(asked, "baseline", start, now)
        if bad:
            self._refuse(f"not well before anything was hurt: {bad}", now)
            return
        health = self.health(now)
        for condition in self.plan.abort_when:
            reading = condition.read(self.series, now, health)
            if reading.held is Held.YES:
                self._refuse(f"would be aborted at once: {condition.told(reading.measured)}", now)
                return
        self.injected_at = now
        self._enter(Phase.INJECT, "the system is well; injecting", now)

    def _say_notes(self, now: int) -> None:
        due = sorted(self.plan.notes, key=lambda note: note.at)[self._notes :]
        for note in due:
            if now - (self.injected_at or 0) >= note.at:
                self._notes += 1
                self._out.append(Said("note", note.text))

    def _start_due(self, now: int) -> None:
        while self._waiting and now - (self.injected_at or 0) >= self._waiting[0].at:
            step = self._waiting.pop(0)
            self._running.add(step.number)
            self._out.append(Start(step))

    def _in_force(self, now: int) -> None:
        if self.hurt_at is None:
            self.hurt_at = now
        if self.phase is Phase.INJECT:
            self._enter(Phase.OBSERVE, "in force, read back from the kernel", now)

    def _step_over(self, number: int, verdict: RunVerdict, reason: str, now: int) -> None:
        self._running.discard(number)
        self.unhurt_at = now
        if verdict is RunVerdict.HELD or self._failure is not None:
            return
        refused = verdict is RunVerdict.REFUSED and self.hurt_at is None and not self._running
        ended = {
            RunVerdict.ABORTED: Verdict.ABORTED,
            RunVerdict.INTERRUPTED: Verdict.INTERRUPTED,
            RunVerdict.NO_EFFECT: Verdict.NO_EFFECT,
        }
        as_whole = Verdict.REFUSED if refused else ended.get(verdict, Verdict.FAILED)
        self._fail(as_whole, f"step {number}: {reason}", now)

    def _fail(self, verdict: Verdict, reason: str, now: int) -> None:
        """Remember the first failure and end what is in force."""
        self._failure = self._failure or (verdict, reason)
        self._waiting.clear()
        if self.phase in (Phase.INJECT, Phase.OBSERVE):
            self._enter(Phase.ABORT, reason, now)
            self._out.append(End(reason))

    def _aborted(self, reason: str, now: int) -> None:
        self._by_operator = True
        self._begun = True
        self._failure = (Verdict.ABORTED, reason)
        self._waiting.clear()
        if self.phase is not Phase.ABORT:
            self._enter(Phase.ABORT, reason, now)
            self._out.append(End(reason))

    def _refuse(self, reason: str, now: int) -> None:
        self._failure = (Verdict.REFUSED, reason)
        self._finish(Phase.VERDICT, now)

    # ── what is seen ──────────────────────────────────────────────────────────────────────

    def _look(self, now: int) -> None:
        """Once a second: health, the guard, and whether the fault is felt."""
        if now - self._looked_at < LOOK_EVERY:
            return
        self._looked_at = now
        health = self._note_health(now)
        if self.detected_at is None and self.hurt_at is not None:
            self._detect(now)
        breach = self._guard.watch(self.series, now, health)
        if breach is not None:
            self._out.append(Said("guard", str(breach)))
            self._fail(Verdict.ABORTED, f"abort condition: {breach}", now)

    def _detect(self, now: int) -> None:
        for condition in (*self.plan.steady_state, *self.plan.during):
            reading = condition.read(self.series, now, self.health(now))
            if reading.held is Held.NO:
                self.detected_at = now
                text = f"felt: no longer {condition.text} ({reading.measured})"
                self._out.append(Said("probe", text))
                return

    def _recover(self, text: str, now: int) -> None:
        if self.hurt_at is None and self._failure is not None:
            self._finish(Phase.VERDICT, now)
            return
        self.unhurt_at = self.unhurt_at or now
        self._candidate = self.unhurt_at
        self._enter(Phase.RECOVER, text, now)

    def _await_recovery(self, now: int) -> None:
        """The first moment from which the steady state holds for ``stable_for``."""
        steady, stable = self.plan.steady_state, self.plan.stable_for
        if not steady:
            self._conclude(now)
            return
        latest = (self.unhurt_at or now) + self.plan.recovery_within
        while self._candidate + stable + self.settle <= now and self._candidate <= latest:
            end = self._candidate + stable
            if all(self._steady(each, self._candidate, end) for each in steady):
                self.recovered_at = self._candidate
                self._judge(steady, "recovery", self._candidate, end)
                took = Duration(self._candidate - (self.unhurt_at or 0))
                self._out.append(Said("probe", f"steady again after {took.seconds:.1f} s"))
                self._conclude(now)
                return
            self._candidate += FINE
        if self._candidate > latest:
            bad = self._judge(steady, "recovery", latest, latest + stable)
            late = f"not steady again within {self.plan.recovery_within}: {bad}"
            self._failure = self._failure or (Verdict.FAILED, late)
            self._conclude(now)

    def _note_health(self, now: int) -> float | None:
        """Keep the health of this second."""
        health = self.health(now)
        if health is not None and (not self.healths or now - self.healths[-1][0] >= LOOK_EVERY):
            self.healths.append((now, health))
        return health

    def _steady(self, condition: Condition, start: int, end: int) -> bool:
        if not condition.probe:
            return True
        return condition.over_span(self.series, start, end).held is Held.YES

    def _conclude(self, now: int) -> None:
        """Judge what had to hold while it hurt, and finish."""
        if self.hurt_at is not None:
            end = max(self.unhurt_at or now, self.hurt_at + 1)
            bad = self._judge(self.plan.during, "during", self.hurt_at, end)
            if bad and self._failure is None:
                self._failure = (Verdict.FAILED, f"while it hurt: {bad}")
        self._finish(Phase.VERDICT, now)

    def _judge(
        self,
        conditions: tuple[Condition, ...] | list[Condition],
        part: str,
        start: int,
        end: int,
    ) -> str:
        """Judge each over a span and keep that; which are not so, for people."""
        lowest = min((value for at, value in self.healths if start <= at < end), default=None)
        health = self.health(end) if lowest is None else lowest
        bad = []
        for condition in conditions:
            reading = condition.over_span(self.series, start, end, health)
            self.judged.append(Judged(part, condition, reading))
            if reading.held is not Held.YES:
                bad.append(condition.told(reading.measured))
        return "; ".join(bad)

    def _finish(self, final: Phase, now: int) -> None:
        verdict, reason = self._failure or (Verdict.PASSED, "it held, and is steady again")
        for condition, reading in self._guard.last.items():
            self.judged.append(Judged("abort", condition, reading))
        self._enter(final, reason, now)
        self.verdict, self.reason = verdict, reason
        self._out.append(Finished(verdict, reason))
