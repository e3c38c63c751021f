"""A controller in this process, and agents that speak the real wire.

The agent's lease is core's own ``LeaseTable``, so that what it holds and when it
lets go is what a real one would do; only its effects are pretended.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from chaos_controller import clock
from chaos_controller.config import Config
from chaos_controller.server import Controller
from chaos_core import envelope
from chaos_core.faults import kinds
from chaos_core.lease import End, LeaseTable
from chaos_core.log import Log
from chaos_core.units import Duration
from chaos_proto import channel, pki
from chaos_proto.credentials import Credentials
from chaos_proto.identity import Identity
from chaos_proto.v1 import chaos_pb2 as pb
from chaos_proto.v1 import chaos_pb2_grpc as rpc

TTL = Duration.parse("1050ms")


async def until(condition: Callable[[], Any], timeout_s: float = 10.0) -> None:
    """Wait until it holds; fails the test when it does not in time."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def issued(ca: pki.CA, text: str) -> Credentials:
    """A key and a certificate for this identity, made offline."""
    key, request = pki.new_key_and_csr()
    return Credentials(key, ca.sign_request(request, Identity.parse(text)), ca.pem)


class Rig:
    """One controller, its PKI, and everybody who dials it."""

    def __init__(self, directory: Path, database: Path | None = None) -> None:
        """``database`` is a migrated one to start from."""
        self.directory = directory
        if database is not None:
            shutil.copy(database, directory / "controller.db")
        self.made = pki.init(directory / "pki", names=["127.0.0.1"])
        self.ca = pki.CA.load(self.made.directory, dt.timedelta(days=1))
        self.controller: Controller
        self.agents: list[Agent] = []
        self.life = Duration.parse("24h")
        self.changes: dict[str, Any] = {}  # to the configuration, from the next start on

    @property
    def config(self) -> Config:
        config = Config(
            listen="127.0.0.1",
            port=0,
            enrolment_port=0,
            pki=self.made.directory,
            database=f"sqlite+aiosqlite:///{self.directory}/controller.db",
            ttl=TTL,
            certificate_life=self.life,
        )
        return replace(config, **self.changes)

    async def start(self, *, epoch_at_least: int = 0) -> Controller:
        log = Log.to_stderr("test-controller")
        self.controller = await Controller.start(self.config, log, epoch_at_least=epoch_at_least)
        return self.controller

    async def restart(self, *, waited: bool = True, **options: int) -> Controller:
        """Another controller on the same store. The agents have to dial again.

        ``waited`` pretends that the leases of the former one have been waited out.
        """
        await self.controller.stop()
        await self.start(**options)
        if waited:
            self.controller.authority.settled_at = 0
        return self.controller

    async def close(self) -> None:
        for agent in self.agents:
            await agent.leave()
        await self.controller.stop()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.controller.port}"

    async def audit(self) -> list[Mapping[str, Any]]:
        """All entries of the audit log."""
        await self.controller.runs.recorder.flush()
        return await self.controller.store.audit_entries()

    def home(self, text: str) -> Path:
        """A directory with a certificate for this identity."""
        home = self.directory / text.replace("/", "-")
        if not home.exists():
            home.mkdir()
            issued(self.ca, text).write(home)
        return home

    def dial(self, identity: str) -> aio.Channel:
        return channel.dial(self.address, self.home(identity))

    @contextlib.asynccontextmanager
    async def operator(self, identity: str = "operator/ann") -> AsyncIterator[Client]:
        async with self.dial(identity) as link:
            yield Client(rpc.OperatorStub(link))

    async def agent(self, node: str, *, wait: bool = True, **options: Any) -> Agent:
        """A connected agent; its first heartbeat has been answered unless told not to wait."""
        agent = Agent(self, node, **options)
        self.agents.append(agent)
        await agent.dial()
        if wait:
            await until(lambda: agent.grants)
        return agent


class Client:
    """An operator's calls; failures are raised as the errors that chaosctl would show."""

    def __init__(self, stub: Any) -> None:
        self.stub = stub

    async def one(self, method: str, request: Any) -> Any:
        try:
            return await getattr(self.stub, method)(request, timeout=10)
        except grpc.RpcError as error:
            channel.raise_from(error, address="test")

    async def all(self, method: str, request: Any) -> list[Any]:
        try:
            return [message async for message in getattr(self.stub, method)(request, timeout=10)]
        except grpc.RpcError as error:
            channel.raise_from(error, address="test")

    async def inject(self, *nodes: str, **changes: Any) -> list[pb.RunEvent]:
        return await self.all("Inject", injection(*nodes, **changes))

    async def state(self, node: str) -> str:
        answer = await self.one("ListNodes", pb.ListNodesRequest())
        return str({found.name: found.state for found in answer.nodes}[node])


def injection(*nodes: str, **changes: Any) -> pb.InjectRequest:
    """50 ms of latency for 150 ms, unless told otherwise."""
    values: dict[str, Any] = {
        "kind": "network.latency",
        "params": json.dumps({"peers": ["10.0.0.9"], "delay": "50ms"}),
        "nodes": nodes,
        "duration_us": 150_000,
    }
    return pb.InjectRequest(**{**values, **changes})


@dataclass
class Agent:
    """A node whose effects are pretended. Its fields are what a test turns."""

    rig: Rig
    node: str
    profile: str = "production"
    epoch: int = 0
    boot_id: str = "boot-1"
    calls_itself: str = ""
    silent: bool = False  # hears nothing, says nothing: cut off
    refuses: str = ""
    hits: pb.Hits | None = None  # of each of its faults
    unable: str = ""
    quarantine: tuple[str, ...] = ()
    stays_quarantined: bool = False
    addresses: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    survived: tuple[pb.Survived, ...] = ()
    offers: pb.ProbeOffer = field(default_factory=pb.ProbeOffer)
    sees: Callable[[pb.Watch], pb.Observation | None] = lambda _: None  # ten times a second
    ahead: int = 0  # of its clock, µs
    watches: dict[str, pb.Watch] = field(default_factory=dict)
    on_apply: Callable[[pb.Apply], None] = lambda _: None
    sent: list[int] = field(default_factory=list)
    grants: list[pb.Grant] = field(default_factory=list)
    reverts: list[pb.Revert] = field(default_factory=list)
    applied: list[pb.Apply] = field(default_factory=list)
    faults: dict[str, pb.FaultStatus] = field(default_factory=dict)
    ended_by: str = ""  # the status the controller ended the stream with

    def __post_init__(self) -> None:
        self.table = LeaseTable(ttl=TTL, epoch=self.epoch)
        self._tasks: list[asyncio.Task[None]] = []
        self._link: aio.Channel | None = None
        self._change = asyncio.Event()

    async def dial(self) -> None:
        await self.leave()
        self.ended_by = ""
        self._link = self.rig.dial(f"agent/{self.node}")
        self.stream = rpc.AgentLinkStub(self._link).Session()
        with contextlib.suppress(aio.AioRpcError):  # refused already: the reader is told why
            await self.stream.write(pb.FromAgent(hello=self.hello()))
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._beat())]

    async def leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._link is not None:
            await self._link.close()
            self._link = None

    def hello(self) -> pb.Hello:
        ceilings = envelope.as_json(envelope.PROFILES[self.profile])
        return pb.Hello(
            node=self.calls_itself or self.node,
            version="test",
            boot_id=self.boot_id,
            epoch=self.epoch,
            envelope=json.dumps(ceilings),
            addresses=self.addresses,
            labels=self.labels,
            survived=self.survived,
            probes=self.offers,
            kinds=[
                pb.KindOffer(kind=kind, ok=not self.unable, why=self.unable) for kind in kinds()
            ],
        )

    def active(self) -> list[pb.FaultStatus]:
        return [status for status in self.faults.values() if status.state == "in_force"]

    def reboot(self) -> None:
        self.boot_id += "x"
        self.faults.clear()
        self.table = LeaseTable(ttl=TTL, epoch=self.table.epoch)

    async def _beat(self) -> None:
        """A heartbeat ten times a second and at each change; ends faults when they are due."""
        await asyncio.wait([asyncio.ensure_future(self.stream.initial_metadata())], timeout=1)
        while True:
            self._change.clear()
            now = clock.now()
            for end in self.table.tick(now):
                self._end(end.fault, end.reason)
            if not self.silent:
                self.sent.append(self.table.heartbeat(now))
                beat = pb.Heartbeat(
                    seq=self.sent[-1],
                    sent_at_us=now + self.ahead,
                    epoch=self.table.epoch,
                    faults=self.faults.values(),
                    quarantine=self.quarantine,
                )
                # Time passes also when nobody hears.
                with contextlib.suppress(aio.AioRpcError, asyncio.InvalidStateError):
                    await self.stream.write(pb.FromAgent(heartbeat=beat))
                    await self.observe(*map(self.sees, self.watches.values()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await self._change.wait()

    async def observe(self, *seen: pb.Observation | None) -> None:
        """Say what its probes have seen, if anything."""
        told = [each for each in seen if each is not None]
        if told:
            said = pb.Observations(sent_at_us=clock.now() + self.ahead, seen=told)
            await self.stream.write(pb.FromAgent(observations=said))

    def saw(self, value: float) -> None:
        """From now on every probe sees that, as it is due."""

        def sees(watch: pb.Watch) -> pb.Observation:
            due = clock.now() + self.ahead
            return pb.Observation(watch=watch.id, due_us=due, ok=True, value=value)

        self.sees = sees

    async def _read(self) -> None:
        try:
            async for message in self.stream:
                if not self.silent:
                    self._obey(message)
                    if not message.HasField("grant"):
                        self._change.set()
        except aio.AioRpcError as error:
            self.ended_by = error.details() or error.code().name

    def _obey(self, message: pb.ToAgent) -> None:
        match message.WhichOneof("message"):
            case "grant":
                grant = message.grant
                self.grants.append(grant)
                for step in self.table.grant(
                    clock.now(), epoch=grant.epoch, seq=grant.seq, ttl=grant.ttl_us, runs=grant.runs
                ):
                    if isinstance(step, End):
                        self._end(step.fault, step.reason)
            case "apply":
                self._apply(message.apply)
            case "revert":
                self.reverts.append(message.revert)
                chosen = message.revert.fault
                for fault in [chosen] if chosen else list(self.faults):
                    self.table.drop(fault)
                    self._end(fault, "revert")
            case "watch":
                self.watches[message.watch.id] = message.watch
            case "unwatch":
                self.watches.pop(message.unwatch.id, None)
            case "release" if not self.stays_quarantined:
                self.quarantine = ()

    def _apply(self, apply: pb.Apply) -> None:
        self.applied.append(apply)
        self.on_apply(apply)
        status = pb.FaultStatus(
            fault=apply.fault,
            run=apply.run,
            kind=apply.kind,
            state="in_force",
            clean=True,
            in_force_at_us=clock.now(),
            hits=self.hits,
        )
        if self.refuses:
            status.state, status.code, status.detail = "refused", "envelope", self.refuses
            status.in_force_at_us = 0
        else:
            self.table.admit(
                clock.now(),
                epoch=apply.epoch,
                run=apply.run,
                fault=apply.fault,
                seq=apply.seq,
                ttl=apply.ttl_us,
                duration=Duration(apply.duration_us),
            )
        self.faults[apply.fault] = status

    def _end(self, fault: str, reason: str) -> None:
        status = self.faults.get(fault)
        if status is not None and status.state == "in_force":
            status.state, status.reason = "ended", reason
