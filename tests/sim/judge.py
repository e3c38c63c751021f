"""What must never happen, by what really happened: the invariants, in real time.

The judge sees everything and trusts no clock, table or claim of the code under test:
it knows when each heartbeat really left, which were answered, and what the kernels
hold. A broken rule raises ``Violation`` with the rule's name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.sim.node import LATENESS, LONGEST_SLEEP

from chaos_core.envelope import MAX_DURATION
from chaos_core.lease import ABORT_BOUND, KERNEL_GRAIN, TTL, Lease
from chaos_core.messages import Apply, Grant, Revert
from chaos_proto.v1 import chaos_pb2 as pb

if TYPE_CHECKING:
    from tests.sim.control import Instance
    from tests.sim.node import Agent
    from tests.sim.world import World

    from chaos_controller.aborts import Accepted

_ALLOWED = {"production": 1, "staging": 2, "lab": 5}  # of five nodes
_DRIFT = 1_000  # µs by which two crystals may differ within ttl


class Violation(BaseException):
    """An invariant does not hold. ``rule`` is its name, ``where`` whom it concerns.

    No Exception: the agent goes on after any of those, and the world has to end here.
    """

    def __init__(self, rule: str, text: str, *where: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule
        self.where = where


@dataclass(slots=True)
class Fault:
    """One fault as it was asked for. Times are real, µs."""

    id: str
    run: str
    node: str
    by: Instance
    asked: int
    duration: int
    bound: int = 0  # newest answered heartbeat + ttl
    first: int = 0  # when the kernel first held it; 0: never
    aborted: list[tuple[int, Instance]] = field(default_factory=list)  # dead after, says who


@dataclass(slots=True)
class Mind:
    """What the judge knows of one node."""

    sent: dict[int, int] = field(default_factory=dict)  # heartbeat → when it really left
    highest: int = 0
    obeyed: dict[int, int] = field(default_factory=dict)  # epoch → controller instance
    slept_until: int = -(2**62)


class Judge:
    """Told by the world of every event; raises on the first broken rule."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.faults: dict[str, Fault] = {}
        self.minds: dict[str, Mind] = {}
        self.instances: list[Instance] = []
        self.holding: dict[str, Agent] = {}  # nodes whose kernel has any set of ours

    def mind(self, node: str) -> Mind:
        found = self.minds.get(node)
        if found is None:
            found = self.minds[node] = Mind()
        return found

    # ── what is told ──────────────────────────────────────────────────────────────────────

    def beat(self, agent: Agent, number: int) -> None:
        self.mind(agent.name).sent[number] = self.world.loop.now

    def started(self, instance: Instance) -> None:
        self.instances.append(instance)

    def answered(self, by: Instance, node: str, message: pb.ToAgent) -> None:
        """A controller has put a message on the wire."""
        now, sent = self.world.loop.now, self.mind(node).sent
        match message.WhichOneof("message"):
            case "grant":
                grant = message.grant
                until = sent.get(grant.seq, -(2**62)) + min(grant.ttl_us, TTL)
                for fault in self.faults.values() if grant.runs else ():
                    if fault.node == node and fault.run in grant.runs:
                        fault.bound = max(fault.bound, until)
            case "apply":
                apply = message.apply
                if by.latched:
                    raise Violation("latched", f"{apply.fault} starts under an abort", node)
                fault = Fault(apply.fault, apply.run, node, by, now, apply.duration_us)
                fault.bound = sent.get(apply.seq, -(2**62)) + min(apply.ttl_us, TTL)
                self.faults[fault.id] = fault

    def aborting(self, by: Instance) -> None:
        """An abort is accepted: whatever this controller answers for has five seconds left."""
        until = self.world.loop.now + int(ABORT_BOUND)
        for fault in self.faults.values():
            fault.aborted.append((until, by))
        self.world.loop.at(until + LATENESS, _nothing)  # look again then

    def obeyed(
        self,
        agent: Agent,
        message: Grant | Apply | Revert,
        source: int,
        before: dict[str, Lease],
        now: int,
    ) -> None:
        """An agent has dealt with a message; ``before`` are the leases before that."""
        after = agent.supervisor.leases.leases
        if isinstance(message, Revert):
            left = [f for f in agent.sets.in_force() if message.fault in ("", f)]
            if left:
                raise Violation("revert", f"{left[0]} is in force after its revert", agent.name)
            return
        for name, lease in after.items():
            was = before.get(name)
            if was is None or lease.expires_at > was.expires_at:
                self._acted(agent, message, name)
            if was is not None and lease.expires_at > was.expires_at and now >= was.expires_at:
                raise Violation("revival", f"{name} is renewed after its lease", agent.name)
        mind = self.mind(agent.name)
        if message.epoch >= mind.highest:
            mind.highest = message.epoch
            other = mind.obeyed.setdefault(message.epoch, source)
            if other != source:
                text = f"obeys c{other} and c{source} in the same epoch {message.epoch}"
                raise Violation("twins", text, agent.name)

    def _acted(self, agent: Agent, message: Grant | Apply, name: str) -> None:
        highest = self.mind(agent.name).highest
        if message.epoch < highest:
            text = f"{name}: epoch {message.epoch} acts after {highest} was obeyed"
            raise Violation("epoch", text, agent.name)

    def said_clean(self, by: Instance, node: str, detail: str, abort: Accepted) -> None:
        """A controller tells an operator that a node carries nothing since an abort."""
        accepted = by.machine.real_span(by.machine.clock(self.world.loop.now) - abort.at)
        agent = self.world.agents[node]
        for name in agent.sets.in_force():
            fault = self.faults[name]
            if self._held_over(agent, fault):
                continue
            old = fault.asked <= self.world.loop.now - accepted
            if old and self._answers_for(by, fault.by) and detail.startswith(("clean", "out of")):
                raise Violation("claim", f"told {detail!r} while {name} is in force", node)

    def held(self, agent: Agent, name: str, timeout: int) -> None:
        """A kernel was told to hold a fault, with nobody's help, for ``timeout`` µs from now."""
        fault, now = self.faults[name], self.world.loop.now
        fault.first = fault.first or now
        self.world.count("holds")
        until = now + agent.machine.real_span(timeout)
        slack = _DRIFT + fault.duration // 1_000
        for rule, limit in (
            ("lease", fault.bound + _DRIFT),
            ("duration", fault.first + fault.duration + KERNEL_GRAIN + slack),
            ("duration", fault.first + MAX_DURATION + slack),
            ("abort", self._dead_after(fault)),
        ):
            if until > limit:
                late = (until - limit) / 1e6
                raise Violation(rule, f"the kernel may hold {name} {late:.3f} s long", agent.name)

    # ── what is looked at after every event ───────────────────────────────────────────────

    def look(self) -> None:
        """Every fault that is in force now, on every node, by every rule."""
        if not self.holding:
            return
        carrying: dict[str, list[Fault]] = {}
        for agent in self.holding.values():
            for name in agent.sets.in_force():
                fault = self.faults[name]
                if not self._held_over(agent, fault):
                    self._look_at(agent, fault)
                    carrying.setdefault(agent.name, []).append(fault)
        if len(carrying) > 1:
            self._count(carrying)

    def _held_over(self, agent: Agent, fault: Fault) -> bool:
        """Whether only a suspend keeps this up: the kernel's timeouts stood still meanwhile.

        A keeper that is alive sees to it when its sleep ends, else the kernel when the
        rest of the timeout is over. Our promises do not cover that; it is bounded here.
        """
        now, woke = self.world.loop.now, self.mind(agent.name).slept_until
        if fault.first >= woke or now >= woke + (LONGEST_SLEEP if self._up(agent) else TTL):
            return False
        self.world.counts["worlds with a hold over a suspend"] = 1
        return True

    def _up(self, agent: Agent) -> bool:
        process = agent.process
        return process.alive and process.paused_until <= self.world.loop.now - LATENESS

    def _look_at(self, agent: Agent, fault: Fault) -> None:
        """A live agent may be late by its loop; a dead one's kernel by no more than its grain."""
        now = self.world.loop.now
        slept = fault.first < self.mind(agent.name).slept_until
        slack = LATENESS + _DRIFT + fault.duration // 1_000
        grain = 0 if self._up(agent) else int(KERNEL_GRAIN)
        for rule, limit in (
            ("lease", fault.bound + _DRIFT + (LATENESS if slept else 0)),
            ("duration", fault.first + fault.duration + grain + slack),
            ("duration", fault.first + MAX_DURATION + slack),
            ("abort", self._dead_after(fault)),
        ):
            if now > limit:
                late = (now - limit) / 1e6
                raise Violation(rule, f"{fault.id} is in force {late:.3f} s too long", agent.name)

    def _count(self, carrying: dict[str, list[Fault]]) -> None:
        """At most as many nodes as the strictest of them allows, for any one controller."""
        for instance in self.instances:
            mine = {
                node
                for node, faults in carrying.items()
                if any(self._answers_for(instance, fault.by) for fault in faults)
            }
            allowed = self._allowed(mine)
            if len(mine) > allowed:
                names = ", ".join(sorted(mine))
                text = f"{names} carry faults at once, {allowed} may"
                raise Violation("radius", text, *sorted(mine))
        if len(carrying) > self._allowed(set(carrying)):
            self.world.counts["worlds where two live controllers break the radius"] = 1

    def _allowed(self, nodes: set[str]) -> int:
        return min((_ALLOWED[self.world.profiles[node]] for node in nodes), default=len(nodes))

    def _dead_after(self, fault: Fault) -> int:
        """Five seconds after the first abort by a controller that answers for this fault."""
        if not fault.aborted:
            return 2**62
        own = (until for until, by in fault.aborted if self._answers_for(by, fault.by))
        return min(own, default=2**62)

    @staticmethod
    def _answers_for(instance: Instance, other: Instance) -> bool:
        """A controller answers for itself and for all that had stopped before it started."""
        return instance is other or other.active <= instance.started


def _nothing() -> None:
    return None
