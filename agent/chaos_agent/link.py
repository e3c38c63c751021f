"""The unprivileged process, and the one place of the agent that speaks gRPC.

It relays: heartbeats up, grants and commands down. It holds no state and no
power; when it dies, hangs or lies, the worst it does is fail to renew a lease.
One session is one connection to the keeper and one stream to the controller;
when either breaks, both are dropped and dialled again. Beside it the link's own
certificate is renewed; the next session uses the new one. Probes that are to look from
this node are ``probing``'s, which is loaded when the first of them is asked for.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from pydantic import ValidationError

from chaos_agent.allowed import ProbeRules
from chaos_agent.config import AgentConfig
from chaos_agent.renewal import Renewal
from chaos_core.errors import ChaosError, InvalidInput, NotPermitted, Revoked
from chaos_core.log import Log
from chaos_core.messages import (
    MAX_FROM_KEEPER,
    MAX_REVERT_REASON,
    Apply,
    FaultStatus,
    Grant,
    Heartbeat,
    Hello,
    Message,
    Release,
    Revert,
    from_keeper,
)
from chaos_core.text import printable
from chaos_proto.channel import MAX_TO_AGENT, dial, raise_from
from chaos_proto.hits import to_wire
from chaos_proto.v1 import chaos_pb2 as pb
from chaos_proto.v1 import chaos_pb2_grpc as rpc

if TYPE_CHECKING:
    from chaos_agent.probing import Prober

_RETRY_S = 0.5
_REFUSED_S = 10.0  # our certificate is not taken: that does not change within seconds
_SILENCE_S = 4.0  # a controller answers each heartbeat; longer is a dead stream
_GREETED_S = 1.0  # a controller that has taken our hello says so
_QUEUE = 64
_FEW = 8  # messages that wait: heartbeats come first, and none must find the queue full
_Stream = grpc.aio.StreamStreamCall[pb.FromAgent, pb.ToAgent]


class Link:
    """Keeps one session after the other, until cancelled."""

    def __init__(self, config: AgentConfig, log: Log) -> None:
        self.config = config
        self.log = log

    async def run(self) -> None:
        """Sessions, and beside them the renewal of the certificate that they use."""
        async with asyncio.TaskGroup() as both:
            both.create_task(Renewal(self.config, self.log).run())
            both.create_task(self._sessions())

    async def _sessions(self) -> None:
        """Dial, relay, and dial again soon after whatever went wrong."""
        last = ""
        while True:
            wait = _RETRY_S
            try:
                await self._session()
                problem = "closed"
            except ChaosError as error:
                problem = str(error)
                if isinstance(error, NotPermitted | Revoked):
                    wait = _REFUSED_S
            except (OSError, TimeoutError, asyncio.QueueFull) as error:
                problem = str(error) or type(error).__name__
            if problem != last:
                self.log.warning("no session", why=problem, controller=self.config.controller)
            last = problem
            await asyncio.sleep(wait)

    async def _session(self) -> None:
        keeper = await KeeperSocket.connect(self.config.socket)
        try:
            hello = await keeper.receive()
            if not isinstance(hello, Hello):
                raise InvalidInput("the keeper's first message is not a hello")
            async with dial(self.config.controller, self.config.pki, most=MAX_TO_AGENT) as channel:
                try:
                    await self._relay(keeper, hello, channel)
                except grpc.aio.AioRpcError as error:
                    raise_from(error, address=self.config.controller, pki_dir=self.config.pki)
        finally:
            keeper.close()

    async def _relay(self, keeper: KeeperSocket, hello: Hello, channel: grpc.aio.Channel) -> None:
        """Both directions at once; the first to end ends the other."""
        stream = rpc.AgentLinkStub(channel).Session()
        queue: asyncio.Queue[pb.FromAgent] = asyncio.Queue(_QUEUE)
        queue.put_nowait(pb.FromAgent(hello=_hello(hello, self.config.probes)))
        probes: asyncio.Queue[pb.ToAgent] = asyncio.Queue(_QUEUE)
        tasks = [
            asyncio.create_task(self._read_keeper(keeper, queue)),
            asyncio.create_task(self._write(queue, stream)),
            asyncio.create_task(self._read_controller(stream, keeper, probes)),
            asyncio.create_task(self._probe(probes, queue)),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            stream.cancel()

    async def _read_keeper(self, keeper: KeeperSocket, queue: asyncio.Queue[pb.FromAgent]) -> None:
        while True:
            message = await keeper.receive()
            if isinstance(message, Heartbeat):
                queue.put_nowait(pb.FromAgent(heartbeat=_heartbeat(message)))

    async def _write(self, queue: asyncio.Queue[pb.FromAgent], stream: _Stream) -> None:
        """The one writer: grpc.aio allows a single write at a time."""
        await stream.write(await queue.get())  # the hello
        # grpc.aio forgets why a call was refused if it fails to write to it at that moment.
        await asyncio.wait([asyncio.ensure_future(stream.initial_metadata())], timeout=_GREETED_S)
        while True:
            message = await queue.get()
            try:
                await stream.write(message)
            except asyncio.InvalidStateError:  # it has ended: whoever reads is told why
                await asyncio.sleep(_SILENCE_S)
                raise ConnectionError("the controller ended the stream") from None

    async def _probe(
        self, asked: asyncio.Queue[pb.ToAgent], queue: asyncio.Queue[pb.FromAgent]
    ) -> None:
        """Look as the controller asks, between heartbeats. Nothing is loaded before it does."""
        first = await asked.get()
        prober = await asyncio.to_thread(_prober)

        def send(message: pb.FromAgent) -> bool:
            if queue.qsize() > _FEW:
                return False
            queue.put_nowait(message)
            return True

        await prober(self.config.probes, send, self.log).run(asked, first)

    async def _read_controller(
        self, stream: _Stream, keeper: KeeperSocket, probes: asyncio.Queue[pb.ToAgent]
    ) -> None:
        greeted = False
        while True:
            answer = await asyncio.wait_for(stream.read(), _SILENCE_S)
            if not isinstance(answer, pb.ToAgent):
                return  # end of stream
            if not greeted:
                self.log.info("session", controller=self.config.controller)
                greeted = True
            if answer.WhichOneof("message") in ("watch", "unwatch"):
                if not probes.full():  # a flood; who looks less than is asked shows it
                    probes.put_nowait(answer)
                continue
            try:
                message = _to_keeper(answer)
            except ValidationError as error:
                raise InvalidInput(
                    f"the controller sent what no keeper takes: {error.errors()[0]['msg']}"
                ) from None
            if message is not None:
                await keeper.send(message)


class KeeperSocket:
    """The link's end of ``keeper.sock``."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def connect(cls, path: Path) -> KeeperSocket:
        """Raises OSError when no keeper listens there."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(connection, str(path))
        except OSError as error:
            connection.close()
            raise OSError(f"keeper: {error.strerror} ({path})") from None
        return cls(connection)

    async def receive(self) -> Hello | Heartbeat:
        data = await self._loop.sock_recv(self._socket, MAX_FROM_KEEPER + 1)
        if not data:
            raise ConnectionError("the keeper closed the connection")
        return from_keeper(data)

    async def send(self, message: Message) -> None:
        await self._loop.sock_sendall(self._socket, message.model_dump_json().encode())

    def close(self) -> None:
        self._socket.close()


def serve(config: AgentConfig, log: Log) -> None:
    """Run a link until SIGTERM or SIGINT. Raises InvalidInput without a controller to dial."""
    if not config.controller:
        raise InvalidInput(
            "no controller to dial", where="agent.toml", hint="set controller.address"
        )
    asyncio.run(_serve(Link(config, log)))


async def _serve(link: Link) -> None:
    task = asyncio.ensure_future(link.run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        link.log.info("stopped")


def _prober() -> type[Prober]:
    from chaos_agent.probing import Prober

    return Prober


# ── between the two vocabularies ──────────────────────────────────────────────────────────


def _hello(hello: Hello, probes: ProbeRules) -> pb.Hello:
    return pb.Hello(
        node=hello.node,
        version=hello.version,
        boot_id=hello.boot_id,
        epoch=hello.epoch,
        envelope=json.dumps(hello.envelope, sort_keys=True),
        addresses=hello.addresses,
        labels=hello.labels,
        survived=[pb.Survived(**one.model_dump()) for one in hello.survived],
        kinds=[
            pb.KindOffer(kind=kind, **{**offer, "schema": json.dumps(offer["schema"])})
            for kind, offer in hello.kinds.items()
        ],
        probes=pb.ProbeOffer(
            kinds=probes.kinds, hosts=probes.hosts, commands=probes.commands, files=probes.files
        ),
    )


def _heartbeat(heartbeat: Heartbeat) -> pb.Heartbeat:
    return pb.Heartbeat(
        seq=heartbeat.seq,
        sent_at_us=heartbeat.sent_at,
        epoch=heartbeat.epoch,
        faults=[_status(fault) for fault in heartbeat.faults],
        quarantine=heartbeat.quarantine,
    )


def _status(fault: FaultStatus) -> pb.FaultStatus:
    return pb.FaultStatus(
        fault=fault.fault,
        run=fault.run,
        kind=fault.kind,
        state=fault.state,
        reason=fault.reason,
        code=fault.code,
        detail=fault.detail,
        clean=fault.clean,
        started_at_us=fault.started_at,
        in_force_at_us=fault.in_force_at,
        ended_at_us=fault.ended_at,
        expires_at_us=fault.expires_at,
        hits=to_wire(fault.hits),
    )


def _to_keeper(answer: pb.ToAgent) -> Message | None:
    """What the controller said, for the keeper; None for what this version does not know."""
    match answer.WhichOneof("message"):
        case "grant":
            grant = answer.grant
            return Grant(
                epoch=grant.epoch, seq=grant.seq, ttl_us=grant.ttl_us, runs=tuple(grant.runs)
            )
        case "apply":
            apply = answer.apply
            return Apply(
                epoch=apply.epoch,
                seq=apply.seq,
                ttl_us=apply.ttl_us,
                run=apply.run,
                fault=apply.fault,
                kind=apply.kind,
                params=apply.params,
                duration_us=apply.duration_us,
            )
        case "revert":
            # A revert is always passed on, however long its reason.
            return Revert(
                fault=answer.revert.fault, reason=printable(answer.revert.reason, MAX_REVERT_REASON)
            )
        case "release":
            return Release(epoch=answer.release.epoch, reason=answer.release.reason)
        case _:
            return None
