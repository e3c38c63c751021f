"""A run from preflight to verdict, without clock, socket or thread.

Events go in with the time, instructions come out. The shell around it (the
controller's ``runs.py``) sends what is told, and tells what was answered.

::

    PREFLIGHT → BASELINE → INJECT → OBSERVE → RECOVER → VERDICT
         └──────────┴─────────┴────────┴──────────┴──▶ ABORT → CLEAN

Leases are not this module's business: a run whose controller dies is ended by
the nodes themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from chaos_core.hits import Hits
from chaos_core.lease import ABORT_BOUND
from chaos_core.units import Duration


class Phase(StrEnum):
    """Where a run is. ``VERDICT`` and ``CLEAN`` are final."""

    PREFLIGHT = "preflight"
    BASELINE = "baseline"
    INJECT = "inject"
    OBSERVE = "observe"
    RECOVER = "recover"
    VERDICT = "verdict"
    ABORT = "abort"
    CLEAN = "clean"


class Verdict(StrEnum):
    """How a run ended."""

    HELD = "held"  # in force on every node for as long as asked, reverted, read back clean
    NO_EFFECT = "no_effect"  # in force and clean after, but it hit nothing of what there was
    FAILED = "failed"  # not in force, disturbed, or not clean after
    REFUSED = "refused"  # a node refused it; nothing was done there
    ABORTED = "aborted"  # by an operator or an abort condition
    INTERRUPTED = "interrupted"  # its controller died; the leases ended it


class NodePhase(StrEnum):
    """One node's share of a run."""

    WAITING = "waiting"
    SENT = "sent"
    IN_FORCE = "in_force"
    ENDED = "ended"


# How long an agent may take to report a fault in force (a holder fills memory) and to end it.
INJECT_BUDGET = Duration.parse("15s")
RECOVER_BUDGET = Duration.parse("10s")
REBOOTED = "rebooted"  # why a fault has ended that took its node down, when that is back


@dataclass(slots=True)
class Node:
    """What the run knows of one of its nodes."""

    name: str
    fault: str
    phase: NodePhase = NodePhase.WAITING
    reason: str = ""
    detail: str = ""
    clean: bool | None = None  # None: not confirmed
    hits: Hits | None = None  # None: not counted


# ── events ────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Start:
    """Preflight passed; begin."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A node refused the fault, with the error's code and text."""

    fault: str
    code: str
    text: str


@dataclass(frozen=True, slots=True)
class InForce:
    """A node read its fault back from the kernel."""

    fault: str


@dataclass(frozen=True, slots=True)
class Ended:
    """A node's fault is over: why, and whether the node equals its snapshot."""

    fault: str
    reason: str
    clean: bool
    detail: str = ""
    hits: Hits | None = None


@dataclass(frozen=True, slots=True)
class Silent:
    """A node was last heard before its lease ended: its fault is over, how is not known."""

    fault: str


@dataclass(frozen=True, slots=True)
class Down:
    """A node has gone away, as its fault was to make it."""

    fault: str


@dataclass(frozen=True, slots=True)
class Abort:
    """An operator or an abort condition ends the run."""

    reason: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = Start | Refusal | InForce | Ended | Silent | Down | Abort | Tick

# ── instructions ──────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Apply:
    """Send the fault to its node."""

    node: str
    fault: str


@dataclass(frozen=True, slots=True)
class Revert:
    """Tell the node to end the fault now."""

    node: str
    fault: str
    reason: str


@dataclass(frozen=True, slots=True)
class Entered:
    """The run is in a new phase; ``text`` says why, for people."""

    phase: Phase
    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The run is over."""

    verdict: Verdict
    reason: str


Instruction = Apply | Revert | Entered | Finished


@dataclass(slots=True)
class Run:
    """One fault on some nodes for ``duration``. ``nodes`` maps fault ids to nodes.

    With ``returns`` the fault takes its node down. Then it is in force when the node goes away,
    and has held when the node ends it as ``REBOOTED`` within the duration.
    """

    duration: Duration
    nodes: dict[str, Node]
    returns: bool = False
    phase: Phase = Phase.PREFLIGHT
    verdict: Verdict | None = None
    reason: str = ""
    since: int = 0  # when the phase was entered
    _failure: tuple[Verdict, str] | None = None
    _out: list[Instruction] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return self.verdict is not None

    @property
    def may_hold(self) -> bool:
        """Whether grants may name this run: never once it is being ended."""
        return self.phase in (Phase.INJECT, Phase.OBSERVE)

    def step(self, event: Event, now: int) -> tuple[Instruction, ...]:
        """Take one event at ``now`` (µs) and say what to do. After the end nothing happens."""
        if self.over:
            return ()
        self._out = []
        match event:
            case Start() if self.phase is Phase.PREFLIGHT:
                self._start(now)
            case Refusal(fault, code, text):
                self._refused(fault, code, text, now)
            case InForce(fault):
                self._in_force(fault)
            case Down(fault) if self.returns:
                self._in_force(fault)
            case Ended():
                self._ended(event, now)
            case Silent(fault):
                self._silent(fault, now)
            case Abort(reason):
                self._abort(reason, now)
            case _:
                pass
        self._advance(now)
        return tuple(self._out)

    # ── transitions ───────────────────────────────────────────────────────────────────────

    def _enter(self, phase: Phase, text: str, now: int) -> None:
        self.phase = phase
        self.since = now
        self._out.append(Entered(phase, text))

    def _start(self, now: int) -> None:
        self._enter(Phase.BASELINE, "nodes are clean and connected", now)
        self._enter(Phase.INJECT, f"applying to {', '.join(self._names())}", now)
        for node in self.nodes.values():
            node.phase = NodePhase.SENT
            self._out.append(Apply(node.name, node.fault))

    def _refused(self, fault: str, code: str, text: str, now: int) -> None:
        node = self.nodes.get(fault)
        if node is None or node.phase is not NodePhase.SENT:
            return  # of a repeated request: what is in force stays so
        node.phase, node.reason, node.detail, node.clean = NodePhase.ENDED, code, text, True
        self._fail(Verdict.REFUSED, f"{node.name}: {text}", now)

    def _in_force(self, fault: str) -> None:
        node = self.nodes.get(fault)
        if node is not None and node.phase is NodePhase.SENT:
            node.phase = NodePhase.IN_FORCE

    def _ended(self, event: Ended, now: int) -> None:
        node = self.nodes.get(event.fault)
        if node is None or node.phase in (NodePhase.WAITING, NodePhase.ENDED):
            return
        was_in_force = node.phase is NodePhase.IN_FORCE
        asked_for = {REBOOTED if self.returns else "duration"}
        asked_for |= set() if self.may_hold else {"duration", "revert", "abort"}
        node.phase, node.reason = NodePhase.ENDED, event.reason
        node.clean, node.detail, node.hits = event.clean, event.detail, event.hits
        if not event.clean:
            self._fail(Verdict.FAILED, f"{node.name}: not clean: {event.detail}", now)
        elif event.reason not in asked_for:
            text = f": {event.detail}" if event.detail else ""
            self._fail(Verdict.FAILED, f"{node.name}: ended early ({event.reason}){text}", now)
        elif not was_in_force and self.may_hold:
            self._fail(Verdict.FAILED, f"{node.name}: never in force when read back", now)

    def _silent(self, fault: str, now: int) -> None:
        node = self.nodes.get(fault)
        if node is not None and node.phase in (NodePhase.SENT, NodePhase.IN_FORCE):
            text = f"{node.name}: not heard since its lease ended, and the fault with it"
            self._fail(Verdict.FAILED, text, now)

    def _fail(self, verdict: Verdict, reason: str, now: int) -> None:
        """Remember the first failure and end the fault wherever it still is."""
        if self._failure is None:
            self._failure = (verdict, reason)
        if self.phase in (Phase.INJECT, Phase.OBSERVE):
            self._enter(Phase.RECOVER, reason, now)
            self._revert_rest("run failed")

    def _abort(self, reason: str, now: int) -> None:
        if self.phase is Phase.ABORT:
            return
        started = self.phase is not Phase.PREFLIGHT
        self._failure = (Verdict.ABORTED, reason)
        self._enter(Phase.ABORT, reason, now)
        if started:
            self._revert_rest("abort")
        else:
            for node in self.nodes.values():
                node.phase, node.reason, node.clean = NodePhase.ENDED, "abort", True

    def _revert_rest(self, reason: str) -> None:
        for node in self.nodes.values():
            if node.phase is not NodePhase.ENDED:
                self._out.append(Revert(node.name, node.fault, reason))

    def _advance(self, now: int) -> None:
        """What follows from the nodes' states and the time alone."""
        waited = now - self.since
        if self.phase is Phase.INJECT and self._all(NodePhase.IN_FORCE, NodePhase.ENDED):
            how = "going down" if self.returns else "in force, read back from the kernel"
            self._enter(Phase.OBSERVE, how, now)
        elif self.phase is Phase.INJECT and waited > INJECT_BUDGET:
            late = ", ".join(n.name for n in self.nodes.values() if n.phase is NodePhase.SENT)
            self._fail(Verdict.FAILED, f"{late}: not in force within {INJECT_BUDGET}", now)
        if self.phase is Phase.OBSERVE and self._all(NodePhase.ENDED):
            self._enter(Phase.RECOVER, "back" if self.returns else "duration over", now)
        elif self.phase is Phase.OBSERVE and waited > self.duration + ABORT_BOUND:
            late = ", ".join(n.name for n in self.nodes.values() if n.phase is not NodePhase.ENDED)
            what = f"no end reported {ABORT_BOUND} after the duration"
            if self.returns:
                what = f"did not come back within {self.duration}"
            self._fail(Verdict.FAILED, f"{late}: {what}", now)
        if self.phase is Phase.RECOVER:
            self._conclude(Phase.VERDICT, now - self.since > RECOVER_BUDGET, now)
        elif self.phase is Phase.ABORT:
            self._conclude(Phase.CLEAN, now - self.since > ABORT_BOUND, now)

    def _conclude(self, final: Phase, out_of_time: bool, now: int) -> None:
        if not self._all(NodePhase.ENDED) and not out_of_time:
            return
        silent = [n.name for n in self.nodes.values() if n.phase is not NodePhase.ENDED]
        if silent:
            lapsed = f"{', '.join(silent)}: no report; the lease has ended it"
            self._failure = self._failure or (Verdict.FAILED, lapsed)
        held = "in force as asked, and clean after"
        if self.returns:
            held = "; ".join(f"{n.name}: {n.detail}" for n in self.nodes.values())
        verdict, reason = self._failure or self._missed() or (Verdict.HELD, held + self._idle())
        self._enter(final, reason, now)
        self.verdict, self.reason = verdict, reason
        self._out.append(Finished(verdict, reason))

    def _missed(self) -> tuple[Verdict, str] | None:
        """The verdict when the fault passed by, on some node, what it could have hit."""
        missed = [node for node in self.nodes.values() if node.hits and node.hits.missed]
        text = "; ".join(f"{node.name}: in force, but it hit {node.hits}" for node in missed)
        return (Verdict.NO_EFFECT, text) if missed else None

    def _idle(self) -> str:
        """What the counters say of nodes where the fault had nothing, or not all, to hit."""
        told = [
            f"; {node.name}: "
            + ("no traffic that it could have hit was seen" if node.hits.idle else node.hits.note)
            for node in self.nodes.values()
            if node.hits and (node.hits.idle or node.hits.note)
        ]
        return "".join(told)

    def _all(self, *phases: NodePhase) -> bool:
        return all(node.phase in phases for node in self.nodes.values())

    def _names(self) -> list[str]:
        return [node.name for node in self.nodes.values()]
