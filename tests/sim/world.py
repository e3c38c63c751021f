"""One world: a plan played to its end. Who talks to whom, and who does what to them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.sim import nemesis
from tests.sim.control import Instance
from tests.sim.judge import Judge, Violation
from tests.sim.loop import Loop
from tests.sim.node import LATENESS, Agent, Machine
from tests.sim.outside import Outside, Silent
from tests.sim.plan import NODES, Action, Plan
from tests.sim.store import Database

from chaos_proto.v1 import chaos_pb2 as pb


@dataclass(slots=True)
class Result:
    """How a world ended. ``counts`` say what happened in it, ``trace`` how."""

    plan: Plan
    events: int
    violation: Violation | None
    counts: Counter[str]
    trace: list[tuple[int, str, str]] = field(default_factory=list)


class World:
    """Everything there is. ``hosts`` run controllers: 0 the first, 1 the standby."""

    def __init__(self, outside: Outside, plan: Plan, *, tracing: bool = False) -> None:
        self.outside = outside
        self.plan = plan
        self.rng = random.Random(plan.seed ^ 0x5EED)  # noqa: S311
        self.loop = outside.loop = Loop()
        outside.rng, outside.files, outside.wall = self.rng, {}, 0
        self.counts: Counter[str] = Counter()
        self.trace: list[tuple[int, str, str]] = []
        self.tracing = tracing
        self.log = Silent(self._log if tracing else None)
        self.judge = Judge(self)
        self.profiles = dict(zip(NODES, plan.profiles, strict=True))
        self.cuts: dict[tuple[str, str], int] = {}  # (node, up/down) → until when
        self.stalled_until = 0
        self.instances: list[Instance] = []
        self.hosts: list[Instance | None] = [None, None]
        self.machines = [self._machine(), self._machine()]
        self.databases = [Database(), Database()]
        self.backups: list[Database] = []
        self.newest = 0  # the host that was started last: agents dial it
        self._links: dict[int, tuple[Instance, str]] = {}
        self.agents: dict[str, Agent] = {}
        self.begin(0)
        for name in NODES:
            self.agents[name] = Agent(self, name, self.profiles[name], self._machine())

    def play(self) -> Result:
        """Run the plan; ends early at the first broken rule."""
        for action in self.plan.actions:
            self.loop.at(action.at, self._doing(action))
        violation = None
        try:
            self.loop.run(self.plan.horizon, self.judge.look)
        except Violation as found:
            violation = found
            text = str(found)
            self.say("JUDGE", lambda: text)
        for instance in self.instances:
            instance.process.die()
        return Result(self.plan, self.loop.events, violation, self.counts, self.trace)

    def _doing(self, action: Action) -> Callable[[], None]:
        def do() -> None:
            self.say("*", lambda: f"{action.name} {' '.join(map(str, action.args))}")
            getattr(nemesis, action.name)(self, *action.args)

        return do

    def _machine(self) -> Machine:
        return Machine(self.rng.randint(60_000_000, 10**13), self.rng.randint(-200, 200))

    # ── telling ───────────────────────────────────────────────────────────────────────────

    def say(self, who: str, text: Callable[[], str]) -> None:
        if self.tracing:
            self.trace.append((self.loop.now, who, text()))

    def _log(self, line: str) -> None:
        self.say("log", lambda: line)

    def count(self, what: str) -> None:
        self.counts[what] += 1

    # ── controllers ───────────────────────────────────────────────────────────────────────

    def begin(self, host: int, at_least: int = 0) -> None:
        """Start a controller on a host, from what is in that host's database."""
        number = len(self.instances) + 1
        database = self.databases[host]
        instance = Instance(self, number, self.machines[host], database, at_least)
        self.instances.append(instance)
        self.hosts[host] = instance
        self.newest = host

    def end(self, instance: Instance) -> None:
        """A controller's process is gone, and with it whatever was not on disk.

        Its kernel closes its streams; an agent that is cut off does not hear of that.
        """
        instance.serving = False
        instance.process.die()
        for agent in self.agents.values():
            if agent.link and self._links[agent.link][0] is instance:
                self._send(agent.name, "down", "reset", self._reset(agent, agent.link))
        self.hosts = [None if there is instance else there for there in self.hosts]

    def _reset(self, agent: Agent, link: int) -> Callable[[], None]:
        def arrive() -> None:
            if agent.link == link:
                agent.unlink()

        return lambda: self.loop.awake(arrive, agent.process)

    def up(self) -> list[Instance]:
        return [there for there in self.hosts if there is not None and there.serving]

    # ── the network ───────────────────────────────────────────────────────────────────────

    def connect(self, agent: Agent) -> int:
        """A new stream, or 0: nobody listens, or nobody can be reached."""
        serving = self.up()
        if not serving or self.cut(agent.name, "up") or self.cut(agent.name, "down"):
            return 0
        newest = self.hosts[self.newest]
        split = self.plan.split or newest not in serving
        there = self.rng.choice(serving) if split else newest
        assert there is not None
        if there.process.paused_until > self.loop.now:
            return 0
        self._links[len(self._links) + 1] = (there, agent.name)
        return len(self._links)

    def cut(self, node: str, way: str) -> bool:
        return self.cuts.get((node, way), 0) > self.loop.now

    def to_controller(self, agent: Agent, link: int, kind: str, data: Any) -> None:
        there, node = self._links[link][0], agent.name

        def arrive() -> None:
            if there.process.alive and there.serving:
                there.receive(kind, link, node, data)

        self._send(node, "up", kind, lambda: self.loop.awake(arrive, there.process))

    def to_agent(self, source: Instance, node: str, link: int, message: pb.ToAgent) -> None:
        kind = str(message.WhichOneof("message"))
        agent, number = self.agents[node], source.number
        self.judge.answered(source, node, message)

        def arrive() -> None:
            agent.receive(kind, message, number, link)

        def reach() -> None:
            if agent.process.alive and not agent.asleep:
                self.loop.awake(arrive, agent.process)

        self._send(node, "down", kind, reach)

    def _send(self, node: str, way: str, kind: str, reach: Callable[[], None]) -> None:
        """A message's fate: lost, late, twice. A connection is made or not, but not late."""
        plan, rng = self.plan, self.rng
        lost = 0.9 if kind == plan.victim else plan.loss
        if self.cut(node, way) or (kind != "hello" and rng.random() < lost):
            return
        for _ in range(2 if rng.random() < plan.twice and kind != "hello" else 1):
            delay = 200 + int(rng.random() * 4_000)
            if kind != "hello" and rng.random() < plan.slow:
                delay += int(rng.random() * plan.slowest)
            self.loop.at(self.loop.now + delay, reach)

    def lateness(self) -> int:
        """How late a live agent comes to what is due: its loop takes time, and scheduling."""
        return 1 + int(self.rng.random() ** 2 * (LATENESS - 1))

    def disk_latency(self) -> int:
        return max(self.stalled_until - self.loop.now, 0) + 500 + int(self.rng.random() * 15_000)
