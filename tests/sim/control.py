"""One life of a controller: the real Runs, Fleet, AgentLink, Aborts and start, without gRPC.

What ``session.py`` and ``api.py`` do with streams is done here with messages; each
decision is made by the product's code.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from tests.sim.loop import Pause, Process
from tests.sim.node import Machine
from tests.sim.store import Database, Recorder, Store

from chaos_controller.aborts import Aborts, Accepted
from chaos_controller.config import Probes
from chaos_controller.experiments import Experiments
from chaos_controller.fleet import Fleet, NodeSession
from chaos_controller.grants import Authority
from chaos_controller.probing import Probing
from chaos_controller.runs import Runs
from chaos_controller.server import Controller
from chaos_controller.session import AgentLink
from chaos_core.envelope import PROFILES, as_json
from chaos_core.errors import ChaosError, Latched
from chaos_core.lease import TTL
from chaos_proto.identity import Identity
from chaos_proto.v1 import chaos_pb2 as pb

if TYPE_CHECKING:
    from tests.sim.world import World

KIND = "network.latency"
PARAMS = json.dumps({"peers": ["10.0.0.9"], "delay": "50ms"})
_OPERATOR = Identity("operator", "ann")
_OFFERS = [pb.KindOffer(kind=KIND, ok=True)]
_ENVELOPES = {name: json.dumps(as_json(ceilings)) for name, ceilings in PROFILES.items()}


class Instance:
    """A controller from start to death. ``number`` counts them, over all hosts.

    ``active`` is when its code last ran: another that was started after that is its
    successor, one that was started before is its rival.
    """

    def __init__(
        self, world: World, number: int, machine: Machine, database: Database, at_least: int
    ) -> None:
        self.world = world
        self.number = number
        self.machine = machine
        self.process = Process(f"c{number}")
        self.started = self.active = world.loop.now
        self.serving = False
        self.latched = False  # an abort was accepted here, or found on disk, and not resumed
        self.accepted = self.lifted = 0  # aborts so far, and how many of them were resumed
        self.sessions: dict[int, NodeSession] = {}
        self.unread: dict[int, list[pb.Heartbeat]] = {}  # ahead of the greeting
        self.log = world.log.bind(on=self.process.name)
        self.store = Store(world, database)
        self.authority = Authority(0, int(TTL))
        self.fleet = Fleet()
        store = cast(Any, self.store)
        self.runs = Runs(self.authority, self.fleet, store, self.log)
        self.runs.recorder = cast(Any, Recorder(self.spawn, self.store))
        self.links = AgentLink(self.authority, self.fleet, self.runs, store, self.log)
        probing = Probing(Probes(), ports=tuple)
        experiments = Experiments(self.authority, self.fleet, self.runs, store, self.log, probing)
        self.aborts = Aborts(self.authority, self.fleet, self.runs, experiments, store, self.log)
        self.spawn(self._begin(at_least))

    def spawn(self, coroutine: Any) -> None:
        self.world.loop.spawn(self.process, coroutine, self.enter)

    def enter(self, work: Callable[[], None]) -> None:
        """Run some of the controller's code at its machine's time; then send what it queued."""
        loop = self.world.loop
        self.active = loop.now
        outside = self.world.outside
        outside.boottime, outside.queued = self.machine.clock(loop.now), 0
        work()
        if not outside.queued:
            return
        for number, session in self.sessions.items():
            queue = cast(Any, session.outbox).items
            for message in queue:
                self.world.to_agent(self, session.node, number, message)
            queue.clear()

    async def _begin(self, at_least: int) -> None:
        await Controller._inherit(cast(Any, self), at_least)
        self.latched = self.store.database.latch is not None
        self.world.judge.started(self)
        self.serving = True
        self.world.say(
            self.process.name,
            lambda: (
                f"serves with epoch {self.authority.epoch}, waits"
                f" {max(0, self.authority.settled_at - self.world.outside.boottime) / 1e6:.1f} s"
                + (", latched" if self.latched else "")
            ),
        )
        await self.runs.tick()

    # ── agents ────────────────────────────────────────────────────────────────────────────

    def receive(self, kind: str, link: int, node: str, data: Any) -> None:
        match kind:
            case "hello":
                self.spawn(self._greet(link, node, data))
            case "heartbeat":
                session = self.sessions.get(link)
                if session is None:
                    self.unread.setdefault(link, []).append(data)
                elif not session.closed:
                    self.enter(partial(self.links._heard, session, data))
            case "bye":
                session = self.sessions.pop(link, None)
                if session is not None:
                    self.fleet.leave(session)

    async def _greet(self, link: int, node: str, hello: pb.Hello) -> None:
        """As ``AgentLink._greet`` and the head of ``Session``."""
        profile = self.world.profiles[node]
        hello.kinds.extend(_OFFERS)
        session = NodeSession(node, node, hello, PROFILES[profile], fenced=False)
        self.links._fence(session, hello.epoch)
        await self.store.keep_node(node, envelope=_ENVELOPES[profile])
        self.sessions[link] = session
        self.fleet.join(session)
        for heartbeat in self.unread.pop(link, ()):
            self.links._heard(session, heartbeat)

    # ── operators ─────────────────────────────────────────────────────────────────────────

    async def inject(self, nodes: tuple[str, ...], duration: int) -> None:
        request = pb.InjectRequest(kind=KIND, params=PARAMS, nodes=nodes, duration_us=duration)
        try:
            timeline = await self.runs.inject(_OPERATOR, request)
        except ChaosError as error:
            what = error.what
            self.world.say(self.process.name, lambda: f"refuses {', '.join(nodes)}: {what}")
        else:
            self.world.count("runs")
            run = timeline.run
            self.world.say(self.process.name, lambda: f"runs {run} on {', '.join(nodes)}")

    async def abort(self, follow: bool) -> None:
        """Accept an abort; with ``follow``, hold it to each thing that it then says."""
        self.latched = True
        self.accepted += 1
        self.world.judge.aborting(self)
        self.world.count("aborts")
        abort = await self.aborts.accept("ann", "enough")
        if follow:
            await self._follow(abort)

    async def _follow(self, abort: Accepted) -> None:
        async for event in self.aborts.follow(abort):
            if event.node:
                self.world.judge.said_clean(self, event.node, event.detail, abort)

    async def resume(self) -> None:
        before = self.accepted
        with suppress(Latched):
            await self.aborts.resume("ann", "again")
        self.lifted = max(self.lifted, before)
        self.latched = self.accepted > self.lifted  # it lifts no abort that came after it

    async def stop(self) -> None:
        """As ``Controller.stop``: revert what is live, leave it open, go."""
        self.serving = False
        self.runs.suspend("the controller stops")
        await Pause(200_000)
        loop = self.world.loop
        loop.at(loop.now, lambda: self.world.end(self))
