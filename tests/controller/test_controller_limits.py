"""How much one peer may take: each limit is met, says its name, and harms nobody else."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from chaos_controller import clock, limits
from chaos_core.errors import ChaosError, InvalidInput, Refused
from chaos_proto import channel
from chaos_proto.v1 import chaos_pb2 as pb
from chaos_proto.v1 import chaos_pb2_grpc as rpc

from .rig import Rig, until


async def test_what_a_caller_writes_does_not_fill_the_audit_log_nor_break_it(rig: Rig) -> None:
    async with rig.operator("viewer/bob") as bob:
        with pytest.raises(InvalidInput, match="unknown run") as caught:
            await bob.one("GetRun", pb.GetRunRequest(id="\n\x1b[2J" + "x" * 60_000))
        assert len(str(caught.value)) < 3_000
        entries = await bob.all("ListAudit", pb.ListAuditRequest())
    assert len(entries) == 1
    for text in (entries[0].request, entries[0].outcome):
        assert len(text.encode()) <= limits.MAX_AUDITED
        assert text.isprintable()


async def test_a_request_that_is_too_large_says_so(rig: Rig) -> None:
    async with rig.operator() as ann:
        for size, error in ((100_000, InvalidInput), (1_000_000, ChaosError)):
            with pytest.raises(error, match=r"above 65536|larger than max"):
                await ann.one("GetRun", pb.GetRunRequest(id="x" * size))


@pytest.fixture
def _no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the rates: on a slow machine a second is soon over."""
    for module in ("access", "api", "fleet"):
        stopped = SimpleNamespace(now=lambda: 1_000_000, utc=clock.utc, rfc3339=clock.rfc3339)
        monkeypatch.setattr(f"chaos_controller.{module}.clock", stopped)


@pytest.mark.usefixtures("_no_time_passes")
async def test_calls_beyond_the_rate_are_refused_and_only_theirs(rig: Rig) -> None:
    async with rig.operator("viewer/bob") as bob, rig.operator() as ann:
        for _ in range(int(limits.CALL_BURST)):
            await bob.one("ListRuns", pb.ListRunsRequest())
        with pytest.raises(Refused, match="more than 50 calls a second"):
            await bob.one("ListRuns", pb.ListRunsRequest())
        await ann.one("ListNodes", pb.ListNodesRequest())


async def test_watches_beyond_the_number_are_refused_and_an_abort_never_is(rig: Rig) -> None:
    async with rig.dial("operator/ann") as link:
        stub = rpc.OperatorStub(link)
        watches = [stub.Watch(pb.WatchRequest()) for _ in range(limits.CALLS_AT_ONCE)]
        await until(lambda: len(rig.controller.runs.feed._queues) == limits.CALLS_AT_ONCE)
        with pytest.raises(grpc.RpcError) as caught:
            await stub.ListNodes(pb.ListNodesRequest(), timeout=5)
        assert "32 calls are open already" in (caught.value.details() or "")
        async for event in stub.Abort(pb.AbortRequest(reason="now"), timeout=5):
            assert event.confirmed
        for watch in watches:
            watch.cancel()
        await until(lambda: not rig.controller.runs.feed._queues)
        await stub.ListNodes(pb.ListNodesRequest(), timeout=5)


@pytest.mark.usefixtures("_no_time_passes")
async def test_aborts_are_limited_only_while_one_is_in_force(rig: Rig) -> None:
    async with rig.operator() as ann:
        for _ in range(int(limits.ABORT_BURST) + 3):
            await ann.all("Abort", pb.AbortRequest(reason="x"))
            rig.controller.authority.latch = None
        await ann.all("Abort", pb.AbortRequest(reason="x"))
        with pytest.raises(Refused, match="in force already"):
            await ann.all("Abort", pb.AbortRequest(reason="x"))
    assert rig.controller.authority.latch is not None


@pytest.mark.usefixtures("_no_time_passes")
async def test_a_node_that_dials_without_end_is_refused(rig: Rig) -> None:
    agent = await rig.agent("n1", wait=False)
    hello = pb.FromAgent(hello=agent.hello())
    await agent.leave()
    async with rig.dial("agent/n1") as link:

        async def dial() -> str:
            stream = rpc.AgentLinkStub(link).Session()
            try:
                await stream.write(hello)
                await stream.write(pb.FromAgent(heartbeat=pb.Heartbeat(seq=1)))
                await stream.read()
            except (grpc.RpcError, asyncio.InvalidStateError):
                return str(await stream.details())
            finally:
                stream.cancel()
            return ""

        told: list[str] = []
        while len(told) < 4 * limits.SESSION_BURST:  # more than are allowed, however slow this is
            told += await asyncio.gather(*(dial() for _ in range(10)))
        assert any("more than 2 sessions a second" in text for text in told)


@pytest.mark.parametrize(
    ("beat", "told"),
    [
        (pb.Heartbeat(faults=[pb.FaultStatus()] * 65), "65 faults in a heartbeat"),
        (pb.Heartbeat(quarantine=["x" * 140_000]), "above 131072"),
    ],
)
async def test_a_heartbeat_that_no_keeper_sends_ends_the_session(
    rig: Rig, beat: pb.Heartbeat, told: str
) -> None:
    agent = await rig.agent("n1")
    agent.silent = True
    await asyncio.sleep(0.15)
    await agent.stream.write(pb.FromAgent(heartbeat=beat))
    await until(lambda: agent.ended_by)
    assert told in agent.ended_by


async def test_what_a_node_says_reaches_operators_as_plain_lines(rig: Rig) -> None:
    agent = await rig.agent("n1", boot_id="\x1b[2Jboot\n", quarantine=("a\nb\u202e" * 400,) * 50)
    agent.faults["0a1b2c3d"] = pb.FaultStatus(
        fault="0a1b2c3d", state="ended", detail="\x9b31m\nverdict  held" + "x" * 9_000
    )
    await until(lambda: rig.controller.fleet.sessions["n1"].faults)
    async with rig.operator() as ann:
        (node,) = (await ann.one("ListNodes", pb.ListNodesRequest())).nodes
    assert len(node.quarantine) == 20
    for text in (node.boot_id, *node.quarantine, *(fault.detail for fault in node.faults)):
        assert text.isprintable()
        assert len(text.encode()) <= 1_000


async def test_operators_see_a_fleet_whose_schemas_are_large_together(rig: Rig) -> None:
    for number in range(12):
        agent = await rig.agent(f"n{number}")
        session = rig.controller.fleet.sessions[agent.node]
        session.hello.kinds.add(kind="x", schema="s" * 110_000)
    async with rig.operator() as ann:
        answer = await ann.one("ListNodes", pb.ListNodesRequest())
    assert len(answer.nodes) == 12
    assert answer.ByteSize() > 1 << 20


async def test_a_node_is_told_only_of_runs_that_are_its_own(rig: Rig) -> None:
    """n2 lies that it carries n1's run; nobody may keep it alive there."""
    liar = await rig.agent("n2", profile="lab")
    await rig.agent("n1")
    async with rig.operator() as ann:
        running = asyncio.create_task(ann.inject("n1", duration_us=600_000))
        await until(lambda: rig.controller.runs.live)
        (run,) = rig.controller.runs.live
        liar.faults["0badf00d"] = pb.FaultStatus(fault="0badf00d", run=run, state="in_force")
        assert (await running)[-1].verdict == "held"
    assert not any(run in grant.runs for grant in liar.grants)


async def test_bytes_that_are_no_message_are_an_answer_and_not_a_traceback(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    junk = b"\xff\xff\xff\xff"
    port = rig.controller.enrolment_port
    credentials = grpc.ssl_channel_credentials(rig.ca.pem)
    async with (
        rig.dial("operator/ann") as operator,
        rig.dial("agent/n1") as agent,
        grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as stranger,
    ):
        methods: list[Any] = [
            operator.unary_unary("/chaos.v1.Operator/ListNodes"),
            operator.unary_unary("/chaos.v1.Operator/Abort"),
            stranger.unary_unary("/chaos.v1.Enrolment/Enrol"),
            agent.unary_unary("/chaos.v1.AgentLink/Session"),
        ]
        for method in methods:
            with pytest.raises(grpc.RpcError) as caught:
                await method(junk, timeout=5)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            with pytest.raises(InvalidInput, match="not a message of this contract"):
                channel.raise_from(caught.value)
    assert not [record for record in caplog.records if record.exc_info]


def test_a_stranger_who_enrols_without_end_does_not_keep_others_out() -> None:
    enrolment = limits.Buckets(limits.ENROLMENTS_PER_S_OF_ONE, limits.ENROLMENT_BURST_OF_ONE)
    passed = sum(enrolment.take("10.0.0.1", 1) for _ in range(1_000))
    assert passed == limits.ENROLMENT_BURST_OF_ONE < limits.ENROLMENT_BURST
    assert enrolment.take("10.0.0.2", 1)


def test_only_so_many_peers_are_remembered() -> None:
    buckets = limits.Buckets(1.0, 1.0, most=10)
    for peer in range(1_000):
        assert buckets.take(peer, 0)
    assert len(buckets._of) == 10
    assert not buckets.take(999, 0)
