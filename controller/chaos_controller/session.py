"""AgentLink: one stream for each agent, from its Hello until either end goes away.

What it promises: a node is who its certificate says; each heartbeat is answered at
once and before anything else is done with it; a node that obeys a later controller
gets nothing but reverts from us; an agent that floods is cut off, the others do
not notice.

Two tasks a stream, since grpc.aio allows one outstanding write: one reads, one
writes what the bounded outbox holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from chaos_controller import clock, grants, intake
from chaos_controller.access import Context, caller
from chaos_controller.fleet import Fleet, NodeSession
from chaos_controller.grants import Authority
from chaos_controller.limits import HELLO_WAIT_S, MESSAGES_PER_S, SESSIONS_PER_S
from chaos_controller.runs import Runs
from chaos_controller.store import Store
from chaos_core.errors import InvalidInput, NotPermitted, Refused
from chaos_core.lease import ABORT_BOUND, MAX_EPOCH_STEP
from chaos_core.log import Log
from chaos_proto.v1 import chaos_pb2 as pb
from chaos_proto.v1 import chaos_pb2_grpc as rpc


class AgentLink(rpc.AgentLinkServicer):
    """The service that agents dial."""

    def __init__(
        self, authority: Authority, fleet: Fleet, runs: Runs, store: Store, log: Log
    ) -> None:
        self._authority = authority
        self._fleet = fleet
        self._runs = runs
        self._store = store
        self._log = log

    async def Session(  # type: ignore[override]  # noqa: N802
        self, request_iterator: AsyncIterator[pb.FromAgent], context: Context
    ) -> None:
        session = await self._greet(request_iterator, context)
        await context.send_initial_metadata(())  # the agent waits for it before it goes on
        log = self._log.bind(node=session.node)
        self._fleet.join(session)
        log.info("connected", address=session.address, state=session.state)
        for one in session.hello.survived:
            log.info("came through a reboot", run=one.run, fault=one.fault, boot_before=one.boot)
        tasks = [
            asyncio.create_task(self._read(session, request_iterator)),
            asyncio.create_task(_write(session, context)),
            asyncio.create_task(session.closing.wait()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            if session.closed:
                raise Refused(session.closed)
        finally:
            for task in tasks:
                task.cancel()
            self._fleet.leave(session)
            log.info("disconnected", why=session.closed)

    async def _greet(self, requests: AsyncIterator[pb.FromAgent], context: Context) -> NodeSession:
        """Read Hello, check who says it, and remember the node."""
        who = caller(context)
        if not self._fleet.admit_session(who.name):
            raise Refused(f"more than {SESSIONS_PER_S:g} sessions a second", where=str(who))
        try:
            async with asyncio.timeout(HELLO_WAIT_S):
                first = await anext(requests)
        except (TimeoutError, StopAsyncIteration):
            raise InvalidInput("the agent did not say hello", where=str(who)) from None
        hello = first.hello
        if first.WhichOneof("message") != "hello":
            raise InvalidInput("the first message is not a hello", where=str(who))
        if hello.node != who.name:
            raise NotPermitted(
                f"the certificate is of {who}, the hello of agent/{hello.node}",
                hint="set the node's name in agent.toml to the one that it enrolled with",
            )
        ceilings = intake.hello(hello)
        session = NodeSession(
            node=hello.node,
            address=host_of(context.peer()),
            hello=hello,
            envelope=ceilings,
            fenced=False,
        )
        self._fence(session, hello.epoch)
        await self._store.keep_node(
            hello.node,
            version=hello.version,
            boot_id=hello.boot_id,
            address=session.address,
            profile=ceilings.profile,
            envelope=hello.envelope,
        )
        return session

    async def _read(self, session: NodeSession, requests: AsyncIterator[pb.FromAgent]) -> None:
        async for message in requests:
            if not self._fleet.admit_message(session.node):
                raise Refused(
                    f"too many messages: more than {MESSAGES_PER_S:g} a second", where=session.node
                )
            match message.WhichOneof("message"):
                case "heartbeat":
                    self._heard(session, intake.heartbeat(message.heartbeat, session.node))
                case "observations":
                    said = intake.observations(message.observations, session.node)
                    session.observed(said, clock.now())
                case _:
                    what = "only heartbeats and observations follow a hello"
                    raise InvalidInput(what, where=session.node)

    def _heard(self, session: NodeSession, heartbeat: pb.Heartbeat) -> None:
        """Answer first, think later: the lease runs from when the node sent this."""
        now = clock.now()
        session.heartbeat, session.heard_at = heartbeat, now
        session.clock.heard(heartbeat.sent_at_us, now)
        self._fence(session, heartbeat.epoch)
        if not session.fenced:
            self._grant(session, heartbeat, now)
            self._runs.heard(session, now)
        if self._in_abort() and grants.active(session.faults):
            session.remind("abort", now)
        self._fleet.changed.beat()

    def _grant(self, session: NodeSession, heartbeat: pb.Heartbeat, now: int) -> None:
        authority = self._authority
        runs = grants.renewable(authority, heartbeat.faults, self._runs.holding(session.node))
        for run in runs:
            self._fleet.promised(session.node, run, now + authority.ttl)
        session.send(
            pb.ToAgent(
                grant=pb.Grant(
                    epoch=authority.epoch, seq=heartbeat.seq, ttl_us=authority.ttl, runs=runs
                )
            )
        )

    def _fence(self, session: NodeSession, epoch: int) -> None:
        if epoch > self._authority.epoch and not session.fenced:
            session.fenced = True
            if epoch > self._authority.epoch + MAX_EPOCH_STEP:
                self._log.error(
                    "fenced: this node claims an epoch that no controller can have reached",
                    node=session.node,
                    its_epoch=epoch,
                    our_epoch=self._authority.epoch,
                    todo="find out who told it so; then remove the state file `epoch` there",
                )
                return
            self._log.error(
                "fenced: this node has obeyed a later controller, so we send it nothing",
                node=session.node,
                its_epoch=epoch,
                our_epoch=self._authority.epoch,
                todo=f"stop the other controller, or: chaos-controller run --epoch-at-least"
                f" {epoch + 1}",
            )

    def _in_abort(self) -> bool:
        """Whether an abort was accepted so recently that a node may still have to hear of it."""
        authority = self._authority
        return authority.latch is not None and clock.now() - authority.latched_at <= ABORT_BOUND


async def _write(session: NodeSession, context: Context) -> None:
    """The only one who writes to this stream."""
    while True:
        await context.write(await session.outbox.get())


def host_of(peer: str) -> str:
    """``ipv4:10.0.0.1:555`` → ``10.0.0.1``, ``ipv6:%5B::1%5D:555`` → ``::1``."""
    bare = peer.partition(":")[2].rpartition(":")[0]
    return bare.replace("%5B", "").replace("%5D", "").strip("[]")
