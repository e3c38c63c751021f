"""The experiments that are going on: feeds their machine, injects what it begins.

What it promises: nothing is hurt before every step was found to be allowed on the nodes that
were chosen and the system was seen to be well; an experiment whose task dies takes its faults
along. A step is a run of its own (``runs.py``), with all that this means.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from chaos_controller import clock, preflight
from chaos_controller.fleet import Fleet
from chaos_controller.grants import Authority
from chaos_controller.limits import MAX_REASON
from chaos_controller.probing import Probing
from chaos_controller.runs import Runs, new_id
from chaos_controller.store import EXPERIMENT, LatchRow, NewRun, Occupied, Store
from chaos_controller.timeline import Timeline
from chaos_controller.watching import LATE, Watching
from chaos_core.errors import ChaosError
from chaos_core.log import Log
from chaos_core.run import Phase
from chaos_core.run import Verdict as RunVerdict
from chaos_core.text import printable
from chaos_core.units import Duration
from chaos_experiment import machine as core
from chaos_experiment.account import account, phase_spans
from chaos_experiment.conditions import Held
from chaos_experiment.load import Loaded, load
from chaos_experiment.plan import Step
from chaos_experiment.probes import Mode, Probe
from chaos_experiment.probes._watch import once, watch
from chaos_experiment.record import Event, FaultSpan, Record
from chaos_experiment.series import Series
from chaos_experiment.targets import Node, choose
from chaos_proto.hits import from_wire
from chaos_proto.identity import Identity
from chaos_proto.v1 import chaos_pb2 as pb

TICK_S: Final = 0.2
_HURTING: Final = (Phase.INJECT, Phase.OBSERVE)


@dataclass(slots=True)
class Live:
    """An experiment that is not over."""

    actor: Identity
    head: Record
    loaded: Loaded
    requests: Mapping[int, pb.InjectRequest]  # by step
    machine: core.Experiment
    timeline: Timeline
    entered: list[tuple[str, int]] = field(default_factory=list)
    faults: dict[int, FaultSpan] = field(default_factory=dict)
    looking: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    tasks: asyncio.TaskGroup | None = None
    driven: asyncio.Task[None] | None = None

    @property
    def id(self) -> str:
        return self.head.id

    @property
    def started(self) -> int:
        return self.timeline.started

    def run_of(self, step: int) -> str:
        """The run that a step is."""
        return f"{self.id}-{step}"

    def record(self) -> Record:
        """All that is known by now."""
        now = clock.now()
        over = self.machine.over
        head = self.head.model_copy(
            update={
                "finished": clock.rfc3339() if over else "",
                "phases": phase_spans(self.entered, now - self.started),
                "faults": [self.faults[step] for step in sorted(self.faults)],
                "events": [
                    Event(at_us=each.at_us, what=each.event, text=each.text, node=each.node)
                    for each in self.timeline.events
                ],
            }
        )
        return account(head, self.machine, self.loaded, self.started, now)


class Experiments:
    """All live experiments of this controller."""

    def __init__(
        self,
        authority: Authority,
        fleet: Fleet,
        runs: Runs,
        store: Store,
        log: Log,
        probing: Probing,
    ) -> None:
        self.live: dict[str, Live] = {}
        self._authority = authority
        self._fleet = fleet
        self._runs = runs
        self._store = store
        self._log = log
        self._probing = probing
        self._watching = Watching(fleet)

    async def begin(self, actor: Identity, request: pb.ExperimentRequest) -> Timeline:
        """Start an experiment, or raise why not. It goes on by itself from here."""
        preflight.check_open(self._authority, None, clock.now())
        # In a thread: while this loop stands still, other experiments' looks are late, which
        # their guards take for what they watch.
        loaded = await asyncio.to_thread(self._read, request)
        await self._probing.check(loaded)
        chosen = await self._choose(loaded)
        self._probing.check_nodes(loaded, chosen, self._fleet)
        requests = {step.number: _injection(step, chosen, request) for step in loaded.plan.steps}
        for step in loaded.plan.steps:
            await self._allowed(step, requests[step.number])
        run = new_id()
        head = _head(run, actor, request, loaded, chosen)
        await self._store.begin_run(
            self._new_run(head, loaded, actor), _audited(request), self._check_open
        )
        settle = max(map(_answered, loaded.all_probes.values()), default=Duration(0))
        machine = core.Experiment(loaded.plan, settle)
        live = Live(actor, head, loaded, requests, machine, Timeline(run, clock.now()))
        self.live[run] = live
        self._say(live, "created", f"{loaded.plan.title}")
        for name, nodes in chosen.items():
            self._say(live, "created", f"{name}: {', '.join(nodes)}")
        self._log.info("experiment started", run=run, title=loaded.plan.title, actor=actor)
        live.driven = asyncio.create_task(self._guarded(live))
        return live.timeline

    def abort(self, reason: str) -> None:
        """End every experiment. The latch is set; the runs are ended by whoever calls this."""
        for live in list(self.live.values()):
            self._step(live, core.Abort(reason))

    def end(self, run: str, reason: str) -> bool:
        """End one experiment. False: it is not going on."""
        live = self.live.get(run)
        if live is not None:
            self._step(live, core.Abort(reason))
        return live is not None

    async def suspend(self) -> None:
        """Leave every experiment as it is: the next controller closes it as interrupted."""
        tasks = [live.driven for live in self.live.values() if live.driven]
        self.live.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ── before it begins ──────────────────────────────────────────────────────────────────

    def _read(self, request: pb.ExperimentRequest) -> Loaded:
        """The scenario with what the site asks. Raises InvalidInput."""
        loaded = load(
            request.text,
            printable(request.name, MAX_REASON) or "scenario",
            settings=dict(request.settings),
            level=request.level,
            environment=request.environment,
        )
        return self._probing.joined(loaded)

    async def _choose(self, loaded: Loaded) -> dict[str, tuple[str, ...]]:
        """The nodes that each target stands for now. Raises InvalidInput, NodeUnreachable."""
        occupied = self._runs.carrying()
        fleet = [
            Node(name, tuple(session.hello.labels), session.state, name in occupied)
            for name, session in self._fleet.sessions.items()
        ]
        seed = secrets.randbits(32)
        chosen: dict[str, tuple[str, ...]] = {}
        for name, target in loaded.targets.items():
            holding = await self._holding(loaded, name) if target.where else None
            try:
                chosen[name] = choose(target, fleet, seed, name=name, holding=holding)
            except ChaosError as error:
                error.where = loaded.target_place(name)
                raise
        return chosen

    async def _holding(self, loaded: Loaded, target: str) -> set[str]:
        """The connected nodes where the target's ``where`` holds."""
        condition, series = loaded.wheres[target], Series()

        async def holds(node: str, address: str) -> bool:
            probe = loaded.probe_on(target, node, address)
            await self._probing.check_one(loaded, condition.probe, probe)
            seen = await once(node, probe, clock.now, self._probing.context)
            series.add(seen)
            here = replace(condition, probe=node)
            return here.over_span(series, seen.at, seen.at + 1).held is Held.YES

        nodes = {
            name: session.hello.addresses[0]
            for name, session in self._fleet.sessions.items()
            if session.hello.addresses
        }
        found = await asyncio.gather(*(holds(*each) for each in nodes.items()))
        return {name for name, held in zip(nodes, found, strict=True) if held}

    async def _allowed(self, step: Step, request: pb.InjectRequest) -> None:
        """Raise, naming the step, why its fault could not be injected."""
        try:
            await self._runs.check(request)
        except ChaosError as error:
            where = f"{step.where}: step {step.number} ({step.kind})"
            error.where = f"{where}: {error.where}" if error.where else where
            raise

    def _check_open(self, latch: LatchRow | None, _: Sequence[Occupied]) -> None:
        preflight.check_open(self._authority, latch, clock.now())

    def _new_run(self, head: Record, loaded: Loaded, actor: Identity) -> NewRun:
        told = {"title": head.title, "scenario": head.scenario, "params": head.params}
        nodes = sorted({node for names in head.targets.values() for node in names})
        length = max((step.end for step in loaded.plan.steps), default=0)
        params = json.dumps(told, sort_keys=True, ensure_ascii=False)
        return NewRun(
            head.id, self._authority.epoch, EXPERIMENT, params, length, str(actor), {}, nodes
        )

    # ── while it goes on ──────────────────────────────────────────────────────────────────

    async def _guarded(self, live: Live) -> None:
        """Drive it to its end; whatever happens to us, its faults do not go on without us."""
        try:
            async with asyncio.TaskGroup() as live.tasks:
                await self._drive(live)
        finally:
            self.live.pop(live.id, None)
            self._end_steps(live, "its experiment is over")

    async def _drive(self, live: Live) -> None:
        self._step(live, core.Begin())
        while not live.machine.over:
            await asyncio.sleep(TICK_S)
            self._step(live, core.Tick())
        for task in live.looking.values():
            task.cancel()
        record = live.record()
        verdict, reason = record.verdict or "failed", record.reason
        self._keep(live, record)
        self._say(live, "verdict", reason, verdict=verdict)
        self._log.info("experiment over", run=live.id, verdict=verdict, why=reason)

    def _step(self, live: Live, event: core.Event) -> None:
        """Give the machine one event and carry out its answer."""
        for instruction in live.machine.step(event, clock.now()):
            match instruction:
                case core.Entered(phase, text):
                    live.entered.append((phase.value, clock.now() - live.started))
                    self._say(live, "phase", text, phase=phase)
                    self._log.info("phase", run=live.id, phase=phase, why=text)
                    self._look(live, core.WATCHED.get(phase, frozenset()))
                    self._keep(live, live.record())
                case core.Said(what, text):
                    self._say(live, what, text)
                case core.Start(step) if live.tasks is not None:
                    live.tasks.create_task(self._play(live, step))
                case core.End(reason):
                    self._end_steps(live, reason)
                case _:
                    pass  # that it is over is seen where it is driven

    def _look(self, live: Live, modes: frozenset[Mode]) -> None:
        """Let the probes look that look in this phase, and no others."""
        for name, probe in live.loaded.all_probes.items():
            task = live.looking.get(name)
            if probe.mode not in modes and task is not None:
                live.looking.pop(name).cancel()
            elif probe.mode in modes and task is None and live.tasks is not None:
                live.looking[name] = live.tasks.create_task(self._watch(live, name, probe))

    async def _watch(self, live: Live, name: str, probe: Probe) -> None:
        """Let a probe look, from here or from the nodes of its target, until cancelled."""
        emit = live.machine.series.add
        if probe.look_from:
            nodes = live.head.targets[probe.look_from]
            await self._watching.watch(name, probe, nodes, emit)
        else:
            await watch(name, probe, emit, clock.now, self._probing.context)

    async def _play(self, live: Live, step: Step) -> None:
        """One step, from its injection to its verdict."""
        request, run = live.requests[step.number], live.run_of(step.number)
        span = FaultSpan(
            step=step.number, kind=step.kind, params=dict(step.params),
            nodes=list(request.nodes), start_us=None, end_us=None, verdict="", reason="",
        )  # fmt: skip
        live.faults[step.number] = span
        try:
            timeline = await self._runs.inject(live.actor, request, run=run)
        except ChaosError as error:
            why = f"{error.where}: {error.what}" if error.where else error.what
            live.faults[step.number] = _with(span, verdict="refused", reason=why)
            self._step(live, core.Over(step.number, RunVerdict.REFUSED, why))
            return
        if live.machine.phase not in _HURTING:  # it was ended meanwhile
            self._runs.end(run, "its experiment ends")
        async for event in timeline.follow():
            now = clock.now() - live.started
            text = f"step {step.number} {step.kind}: {event.text}"
            if event.event == "node" or event.verdict:
                self._say(live, "fault", text, node=event.node)
            if event.HasField("hits"):
                told = from_wire(event)
                hits = span.hits | ({event.node: told} if told else {})
                span = live.faults[step.number] = _with(span, hits=hits)
            if event.event == "phase" and event.phase == Phase.OBSERVE:
                span = live.faults[step.number] = _with(span, start_us=now)
                self._step(live, core.InForce(step.number))
            if event.event == "phase" and event.phase in (Phase.VERDICT, Phase.CLEAN):
                span = live.faults[step.number] = _with(span, end_us=now)
            if event.verdict:
                span = _with(span, verdict=event.verdict, reason=event.text)
                live.faults[step.number] = span
                self._step(live, core.Over(step.number, RunVerdict(event.verdict), event.text))

    def _end_steps(self, live: Live, reason: str) -> None:
        for step in live.requests:
            self._runs.end(live.run_of(step), reason)

    # ── what is kept ──────────────────────────────────────────────────────────────────────

    def _say(
        self,
        live: Live,
        what: str,
        text: str,
        *,
        node: str = "",
        verdict: str = "",
        phase: Phase | None = None,  # the machine may be further already
    ) -> None:
        phase = phase or live.machine.phase
        self._runs.note(live.timeline, what, phase, node=node, text=text, verdict=verdict)

    def _keep(self, live: Live, record: Record) -> None:
        self._runs.recorder.later(
            partial(self._store.keep_record, live.id, record.model_dump_json())
        )


def _head(
    run: str,
    actor: Identity,
    request: pb.ExperimentRequest,
    loaded: Loaded,
    chosen: Mapping[str, Sequence[str]],
) -> Record:
    """What is known of an experiment before it begins."""
    return Record(
        id=run,
        title=loaded.scenario.title,
        hypothesis=loaded.scenario.hypothesis,
        tags=list(loaded.scenario.tags),
        scenario=printable(request.name, MAX_REASON),
        environment=loaded.environment,
        level=request.level,
        params=dict(loaded.params),
        actor=str(actor),
        started=clock.rfc3339(),
        targets={name: list(nodes) for name, nodes in chosen.items()},
    )


def _answered(probe: Probe) -> Duration:
    """How late an answer to a look may be here."""
    return Duration(probe.timeout + (LATE if probe.look_from else 0))


def _with(span: FaultSpan, **changes: object) -> FaultSpan:
    return span.model_copy(update=changes)


def _injection(
    step: Step, chosen: Mapping[str, Sequence[str]], request: pb.ExperimentRequest
) -> pb.InjectRequest:
    nodes = [node for target in step.targets for node in chosen[target]]
    return pb.InjectRequest(
        kind=step.kind,
        params=json.dumps(step.params, sort_keys=True, separators=(",", ":")),
        nodes=dict.fromkeys(nodes),
        duration_us=step.duration,
        reason=request.reason,
    )


def _audited(request: pb.ExperimentRequest) -> str:
    told = {
        "scenario": printable(request.name, MAX_REASON),
        "sha256": hashlib.sha256(request.text.encode()).hexdigest(),
        "settings": dict(request.settings),
        "level": request.level,
        "environment": request.environment,
        "reason": printable(request.reason, MAX_REASON),
    }
    return json.dumps(told, sort_keys=True, ensure_ascii=False)
