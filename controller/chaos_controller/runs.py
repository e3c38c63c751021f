"""The runs that are going on: feeds core's state machine, sends what it says.

What it promises: a run and its nodes are on disk before anything is sent; a node
counts as occupied until it is known to carry nothing of the run; what a run does
depends on what agents report and on the time, never on whether somebody watches.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from chaos_controller import clock, grants, hitting, preflight, returning
from chaos_controller.fleet import Fleet, NodeSession
from chaos_controller.grants import Authority
from chaos_controller.limits import MAX_REASON
from chaos_controller.store import LatchRow, NewRun, Occupied, Store
from chaos_controller.timeline import Feed, Recorder, Timeline
from chaos_core import run as core
from chaos_core.envelope import Draw
from chaos_core.hits import Hits
from chaos_core.lease import HEARTBEAT_INTERVAL
from chaos_core.log import Log
from chaos_core.text import printable
from chaos_proto.hits import from_wire
from chaos_proto.identity import Identity
from chaos_proto.v1 import chaos_pb2 as pb

TICK_S: Final = 0.2
_ALPHABET: Final = "abcdefghijkmnpqrstuvwxyz23456789"  # without those that look alike


@dataclass(slots=True)
class Live:
    """A run that is not over. ``boots`` are the boot ids of its nodes when it was applied, which
    was at the moments ``applied``."""

    id: str
    kind: str
    params: Mapping[str, str]  # by node
    draw: Draw | None
    machine: core.Run
    timeline: Timeline
    boots: dict[str, str] = field(default_factory=dict)
    applied: dict[str, int] = field(default_factory=dict)
    hitting: set[str] = field(default_factory=set)  # nodes that have reported their first hit

    def on(self, node: str) -> core.Node | None:
        """This run's share of a node."""
        return next((part for part in self.machine.nodes.values() if part.name == node), None)

    def ended_on(self, node: str) -> bool:
        part = self.on(node)
        return part is None or part.phase is core.NodePhase.ENDED


class Runs:
    """All live runs of this controller, and which nodes are occupied."""

    def __init__(self, authority: Authority, fleet: Fleet, store: Store, log: Log) -> None:
        self.live: dict[str, Live] = {}
        self.occupied: dict[tuple[str, str], str] = {}  # (run, node) → fault
        self.feed = Feed()
        self.recorder = Recorder(log)
        self._authority = authority
        self._fleet = fleet
        self._store = store
        self._log = log
        self._starting = asyncio.Lock()

    def inherit(self, rows: list[Occupied]) -> None:
        """Take over what a former controller left: nodes that may still carry its faults."""
        self.occupied.update({(row.run, row.node): row.fault for row in rows})

    def holding(self, node: str) -> set[str]:
        """The runs on this node whose leases may be renewed."""
        return {live.id for live in self.live.values() if live.machine.may_hold and live.on(node)}

    async def check(self, request: pb.InjectRequest) -> tuple[str, ...]:
        """Raise why a run could not start now, as far as it can be told before; its nodes."""
        nodes = await self._store.nodes()
        wanted = await preflight.read(request, nodes, self._fleet)
        self._check(wanted, new_id(), nodes, None, await self._store.occupied())
        return wanted.nodes

    def _check(
        self,
        wanted: preflight.Wanted,
        run: str,
        nodes: Mapping[str, Mapping[str, Any]],
        latch: LatchRow | None,
        occupied: Sequence[Occupied],
    ) -> None:
        now = clock.now()
        preflight.check_open(self._authority, latch, now)
        preflight.check_nodes(wanted, self._fleet, self._authority, now)
        for node in wanted.nodes:
            ceilings = self._fleet.sessions[node].envelope
            preflight.check_sum(wanted, run, ceilings, self._beside(node))
        preflight.check_radius(wanted, (row.node for row in occupied), nodes)

    async def inject(
        self, actor: Identity, request: pb.InjectRequest, *, run: str = ""
    ) -> Timeline:
        """Start a run, or raise why not. It goes on by itself from here.

        ``run`` is its id if it is a step of an experiment.
        """
        async with self._starting:
            nodes = await self._store.nodes()
            wanted = await preflight.read(request, nodes, self._fleet)
            run = run or new_id()
            faults = {node: secrets.token_hex(4) for node in wanted.nodes}

            def check(latch: LatchRow | None, occupied: Sequence[Occupied]) -> None:
                self._check(wanted, run, nodes, latch, occupied)

            request_text = _audited(request)
            new = NewRun(
                run,
                self._authority.epoch,
                wanted.kind,
                wanted.asked,
                int(wanted.duration),
                str(actor),
                faults,
            )
            await self._store.begin_run(new, request_text, check)
            return self._begin(run, wanted, faults, actor)

    def heard(self, session: NodeSession, now: int) -> None:
        """Take what a heartbeat says of the runs on its node. Each carries the full state."""
        reported = {status.fault: status for status in session.faults}
        for live in list(self.live.values()):
            part = live.on(session.node)
            if part is None or part.phase is core.NodePhase.ENDED:
                continue
            status = reported.get(part.fault)
            lost = None if status else self._lost(live, part, session)
            events = _events(status) if status else [lost] if lost else []
            if live.machine.returns and part.name in live.boots:
                boot, since = live.boots[part.name], live.applied[part.name]
                events = returning.events(part, status, session, boot, now - since) or events
            for event in events:
                self._step(live, event, now)
            if status is not None:
                self._first_hit(live, part, status)
        self._revert_leftovers(session, now)
        self._sweep(now, session.node)

    def abort(self, reason: str) -> None:
        """End every run. The latch is set and grants are withheld already."""
        now = clock.now()
        for live in list(self.live.values()):
            self._step(live, core.Abort(reason), now)

    def end(self, run: str, reason: str) -> bool:
        """End one run. False: it is not going on."""
        live = self.live.get(run)
        if live is not None:
            self._step(live, core.Abort(reason), clock.now())
        return live is not None

    def suspend(self, reason: str) -> None:
        """Revert every live run and leave it open: the next controller closes it."""
        for live in self.live.values():
            for part in live.machine.nodes.values():
                session = self._fleet.sessions.get(part.name)
                if session is not None:
                    session.revert(reason, part.fault)
        self.live.clear()

    def settled(self, node: str) -> bool:
        """Whether every live run has ended on this node, as the node itself reported."""
        return all(live.ended_on(node) for live in self.live.values())

    def carrying(self) -> set[str]:
        """Nodes that carry a fault, or may."""
        return {node for _, node in self.occupied}

    def lapsed_at(self, node: str) -> int:
        """When every lease on this node is over, also those that a former controller gave.

        It may have given some that our store does not know, if that is an old copy.
        """
        return max(self._fleet.lapsed_at(node), self._authority.settled_at)

    async def tick(self) -> None:
        """Let time pass, until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            now = clock.now()
            for live in list(self.live.values()):
                for event in (*self._silent(live, now), core.Tick()):
                    self._step(live, event, now)
            self._sweep(now)

    # ── one run ───────────────────────────────────────────────────────────────────────────

    def _begin(
        self, run: str, wanted: preflight.Wanted, faults: dict[str, str], actor: Identity
    ) -> Timeline:
        now = clock.now()
        machine = core.Run(
            wanted.duration,
            {fault: core.Node(node, fault) for node, fault in faults.items()},
            returns=wanted.returns,
            since=now,
        )
        live = Live(run, wanted.kind, wanted.params, wanted.draw, machine, Timeline(run, now))
        self.live[run] = live
        self.occupied.update({(run, node): fault for node, fault in faults.items()})
        where = ", ".join(wanted.nodes)
        self.note(
            live.timeline,
            "created",
            machine.phase,
            text=f"{wanted.kind} on {where} for {wanted.duration}",
        )
        for node, params in wanted.params.items():
            if params != wanted.asked:
                self.note(live.timeline, "resolved", machine.phase, node=node, text=params)
        self._log.info("run started", run=run, kind=wanted.kind, nodes=where, actor=actor)
        latch = self._authority.latch  # an abort may have come while the disk was written
        self._step(live, core.Abort(latch.reason) if latch else core.Start(), now)
        return live.timeline

    def _step(self, live: Live, event: core.Event, now: int) -> None:
        """Give the machine one event and whatever follows from carrying out its answer."""
        events: deque[core.Event] = deque([event])
        while events:
            phase_before = live.machine.phase
            before = {fault: part.phase for fault, part in live.machine.nodes.items()}
            instructions = live.machine.step(events.popleft(), now)
            for fault, part in live.machine.nodes.items():
                if part.phase is not before[fault] and part.phase is not core.NodePhase.SENT:
                    self.note(
                        *(live.timeline, "node", phase_before),
                        node=part.name,
                        text=_describe(part),
                        hits=part.hits,
                    )
            for instruction in instructions:
                match instruction:
                    case core.Entered(phase, text):
                        self.note(live.timeline, "phase", phase, text=text)
                        self._log.info("phase", run=live.id, phase=phase, why=text)
                    case core.Apply(node, fault):
                        if not self._apply(live, node, fault, now):
                            events.append(core.Refusal(fault, "node_unreachable", "went away"))
                    case core.Revert(node, fault, reason):
                        session = self._fleet.sessions.get(node)
                        if session is not None:
                            session.revert(reason, fault)
                    case core.Finished(verdict, reason):
                        self._finish(live, verdict, reason, now)

    def _first_hit(self, live: Live, part: core.Node, status: pb.FaultStatus) -> None:
        """Report once that a fault hits traffic; its end says how much."""
        hits = from_wire(status)
        if part.phase is not core.NodePhase.IN_FORCE or part.name in live.hitting:
            return
        if hits and hits.count and hits.seen is not None:
            live.hitting.add(part.name)
            text = f"first hit: {hits}"
            self.note(
                *(live.timeline, "node", live.machine.phase),
                node=part.name,
                text=text,
                hits=hits,
            )

    def _apply(self, live: Live, node: str, fault: str, now: int) -> bool:
        """Send a fault under the lease of the node's last heartbeat. False: no way to."""
        session = self._fleet.sessions.get(node)
        if session is None or session.heartbeat is None or session.fenced:
            return False
        live.boots[node], live.applied[node] = session.hello.boot_id, now
        self._fleet.promised(node, live.id, now + self._authority.ttl)
        return session.send(
            pb.ToAgent(
                apply=pb.Apply(
                    epoch=self._authority.epoch,
                    seq=session.heartbeat.seq,
                    ttl_us=self._authority.ttl,
                    run=live.id,
                    fault=fault,
                    kind=live.kind,
                    params=live.params[node],
                    duration_us=int(live.machine.duration),
                )
            )
        )

    def _finish(self, live: Live, verdict: core.Verdict, reason: str, now: int) -> None:
        final = live.machine.phase
        self.note(live.timeline, "verdict", final, text=reason, verdict=verdict.value)
        self._log.info("run over", run=live.id, verdict=verdict.value, why=reason)
        self._sweep(now)
        del self.live[live.id]
        self._fleet.changed.beat()

    def note(
        self,
        timeline: Timeline,
        event: str,
        phase: core.Phase,
        *,
        node: str = "",
        text: str = "",
        verdict: str = "",
        hits: Hits | None = None,
    ) -> None:
        """Add a line to a timeline, for those who watch and for the store."""
        line: dict[str, Any] = {
            "run": timeline.run,
            "number": len(timeline.events) + 1,
            "at_us": clock.now() - timeline.started,
            "time": clock.rfc3339(),
            "event": event,
            "phase": phase.value,
            "node": node,
            "text": text,
            "verdict": verdict,
            "hits": hitting.write(hits),
        }
        message = hitting.event(line)
        timeline.add(message)
        self.feed.publish(message)
        self.recorder.later(partial(self._store.add_event, line))

    def _lost(self, live: Live, part: core.Node, session: NodeSession) -> core.Event | None:
        """The node does not list a fault that it was sent. Over, once that is certain.

        Certain after a reboot, or in a heartbeat from after the lease had lapsed.
        """
        if part.phase not in (core.NodePhase.SENT, core.NodePhase.IN_FORCE):
            return None
        rebooted = live.boots.get(part.name) != session.hello.boot_id
        if not rebooted and session.heard_at <= self._fleet.lapsed_at(part.name, live.id):
            return None
        why = "the node was rebooted" if rebooted else "the node does not know the fault (any more)"
        return core.Ended(part.fault, "lost", not session.quarantine, why)

    def _silent(self, live: Live, now: int) -> list[core.Event]:
        """The nodes that had a heartbeat's time, after their leases, to be heard and were not.

        So it must be with a fault that takes its node down: for that one, the run waits.
        """
        silent = core.Down if live.machine.returns else core.Silent
        found: list[core.Event] = []
        for part in live.machine.nodes.values():
            session = self._fleet.sessions.get(part.name)
            heard_at = session.heard_at if session else 0
            lapsed = self._fleet.lapsed_at(part.name, live.id)
            if lapsed and heard_at <= lapsed and now > lapsed + HEARTBEAT_INTERVAL:
                found.append(silent(part.fault))
        return found

    # ── occupied nodes ────────────────────────────────────────────────────────────────────

    def _beside(self, node: str) -> dict[str, Draw | None]:
        """The runs that occupy a node, and what each draws from its envelope if that is known."""
        runs = [run for run, name in self.occupied if name == node]
        return {run: self.live[run].draw if run in self.live else None for run in runs}

    def _revert_leftovers(self, session: NodeSession, now: int) -> None:
        """A fault of a run that is over or of a former controller: gone sooner than its lease."""
        for status in session.faults:
            over = status.run not in self.live and (status.run, session.node) in self.occupied
            if over and status.state in ("applying", "in_force"):
                session.remind("its run is over", now, status.fault)

    def _sweep(self, now: int, only: str = "") -> None:
        """Release the nodes that carry nothing any more."""
        for run, node in list(self.occupied):
            if (not only or node == only) and self._released(run, node, now):
                del self.occupied[run, node]
                self._fleet.forget(node, run)
                self.recorder.later(partial(self._store.release, run, node))

    def _released(self, run: str, node: str, now: int) -> bool:
        live = self.live.get(run)
        part = live.on(node) if live else None
        if part is not None and (part.phase is not core.NodePhase.ENDED or part.clean):
            return part.phase is core.NodePhase.ENDED
        lapsed = max(self._fleet.lapsed_at(node, run), self._authority.settled_at)
        session = self._fleet.sessions.get(node)
        if now < lapsed or session is None:
            return now >= lapsed
        still = any(status.run == run for status in grants.active(session.faults))
        return session.heard_at >= lapsed and not still and not session.quarantine


def new_id() -> str:
    """Names a run or an experiment for people: ``r-`` and six signs that cannot be mixed up."""
    return "r-" + "".join(secrets.choice(_ALPHABET) for _ in range(6))


def _events(status: pb.FaultStatus) -> list[core.Event]:
    """What a reported state means to the run, also when the report before it was lost."""
    was_in_force: list[core.Event] = [core.InForce(status.fault)] if status.in_force_at_us else []
    match status.state:
        case "refused":
            return [core.Refusal(status.fault, status.code or "refused", status.detail)]
        case "ended":
            reason = status.reason or status.code or "unknown"
            ended = core.Ended(status.fault, reason, status.clean, status.detail, from_wire(status))
            return [*was_in_force, ended]
        case "in_force":
            return [core.InForce(status.fault)]
        case _:
            return []


def _describe(part: core.Node) -> str:
    """A node's new state in words."""
    if part.phase is not core.NodePhase.ENDED:
        return part.phase.value.replace("_", " ")
    state = "clean" if part.clean else "NOT CLEAN"
    hit = f", hit {part.hits}" if part.hits else ""
    detail = f": {part.detail}" if part.detail else ""
    return f"ended ({part.reason}), {state}{hit}{detail}"


def _audited(request: pb.InjectRequest) -> str:
    return json.dumps(
        {
            "kind": request.kind,
            "params": request.params,
            "nodes": list(request.nodes),
            "duration_us": request.duration_us,
            "reason": printable(request.reason, MAX_REASON),
        },
        ensure_ascii=False,
    )
