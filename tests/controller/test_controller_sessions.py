"""Agents' streams and everybody's roles, on real connections."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Any

import grpc
import pytest

from chaos_controller.access import ROLES
from chaos_core.errors import (
    ChaosError,
    ControllerUnreachable,
    InvalidInput,
    NodeUnreachable,
    NotPermitted,
)
from chaos_proto import channel, pki
from chaos_proto.credentials import Credentials
from chaos_proto.v1 import chaos_pb2 as pb
from chaos_proto.v1 import chaos_pb2_grpc as rpc

from .rig import Client, Rig, injection, until

CALLS: dict[str, tuple[str, Any]] = {
    "ListNodes": ("one", pb.ListNodesRequest()),
    "Inject": ("all", injection("n1")),
    "Experiment": ("all", pb.ExperimentRequest(text="title: nothing")),
    "End": ("one", pb.EndRequest(run="r-none", reason="x")),
    "GetRecord": ("all", pb.GetRecordRequest(run="r-none")),
    "Watch": ("all", pb.WatchRequest(run="r-none")),
    "Abort": ("all", pb.AbortRequest()),
    "Resume": ("one", pb.ResumeRequest(reason="x")),
    "ListRuns": ("one", pb.ListRunsRequest()),
    "GetRun": ("one", pb.GetRunRequest(id="r-none")),
    "CreateToken": ("one", pb.CreateTokenRequest(identity="agent/n9")),
    "ReleaseNode": ("one", pb.ReleaseNodeRequest(node="n9", reason="x")),
    "ForgetNode": ("one", pb.ForgetNodeRequest(node="n9", reason="x")),
    "ListAudit": ("all", pb.ListAuditRequest()),
    "ListCertificates": ("one", pb.ListCertificatesRequest()),
    "Revoke": ("one", pb.RevokeRequest(subject="agent/n9", reason="x")),
}
READS = {
    "ListNodes", "Watch", "ListRuns", "GetRun", "GetRecord", "ListAudit", "ListCertificates"
}  # fmt: skip


def test_every_method_of_the_contract_has_its_roles() -> None:
    services = pb.DESCRIPTOR.services_by_name
    methods = {
        f"/{service.full_name}/{method.name}"
        for service in (services["AgentLink"], services["Operator"], services["Renewal"])
        for method in service.methods
    }
    assert ROLES.keys() == methods
    assert CALLS.keys() == {method.name for method in services["Operator"].methods}


async def test_who_may_call_what(rig: Rig) -> None:
    for role in ("viewer/bob", "agent/n1", "operator/ann"):
        async with rig.operator(role) as client:
            for method, (shape, request) in CALLS.items():
                allowed = role == "operator/ann" or (role == "viewer/bob" and method in READS)
                try:
                    await getattr(client, shape)(method, request)
                    denied = False
                except NotPermitted:
                    denied = True
                except ChaosError:
                    denied = False  # let in, and refused for another reason
                assert denied is not allowed, f"{role} {method}"
    entries = await rig.audit()
    assert {e["actor"] for e in entries if e["decision"] == "refused: role"} == {
        "viewer/bob",
        "agent/n1",
    }


async def test_a_refusal_waits_for_no_disk_and_is_audited_though_the_caller_has_gone(
    rig: Rig,
) -> None:
    async with rig.controller.store._writing, asyncio.timeout(5), rig.operator("viewer/bob") as bob:
        with pytest.raises(NotPermitted):
            await bob.all("Abort", pb.AbortRequest())
    (entry,) = await rig.audit()
    assert (entry["actor"], entry["decision"]) == ("viewer/bob", "refused: role")


@pytest.mark.parametrize("role", ["operator/ann", "viewer/bob"])
async def test_only_agents_may_open_a_session(rig: Rig, role: str) -> None:
    async with rig.dial(role) as link:
        stream = rpc.AgentLinkStub(link).Session()
        with contextlib.suppress(grpc.RpcError):  # refused already: the reader is told why
            await stream.write(pb.FromAgent(hello=pb.Hello(node="ann")))
        with pytest.raises(grpc.RpcError) as caught:
            await stream.read()
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert not rig.controller.fleet.sessions


async def test_a_certificate_of_another_ca_gets_nowhere(rig: Rig) -> None:
    stranger = pki.init(rig.directory / "other", names=["127.0.0.1"]).operator
    async with channel.dial(rig.address, stranger) as link:
        with pytest.raises(InvalidInput, match="not of our CA"):
            await call(link, stranger)
    theirs = Credentials.read(stranger)
    replace(theirs, ca=rig.ca.pem).write(stranger)  # it trusts us, we do not trust it
    async with channel.dial(rig.address, stranger) as link:
        with pytest.raises(InvalidInput, match="not issued by"):
            await call(link, stranger)


async def test_a_controller_that_is_down_is_unreachable(rig: Rig) -> None:
    home = rig.home("operator/ann")
    async with channel.dial("127.0.0.1:1", home) as link:
        with pytest.raises(ControllerUnreachable, match=r"127\.0\.0\.1:1"):
            await call(link, home, "127.0.0.1:1")


async def call(link: Any, home: Any, address: str = "there") -> None:
    try:
        await rpc.OperatorStub(link).ListNodes(pb.ListNodesRequest(), timeout=5)
    except grpc.RpcError as error:
        channel.raise_from(error, address=address, pki_dir=home)


async def test_a_node_cannot_say_that_it_is_another(rig: Rig) -> None:
    await rig.agent("n1")
    liar = await rig.agent("n2", calls_itself="n1", wait=False)
    await until(lambda: liar.ended_by)
    assert "certificate is of agent/n2" in liar.ended_by
    assert rig.controller.fleet.sessions.keys() == {"n1"}
    assert "n2" not in await rig.controller.store.nodes()


@pytest.mark.parametrize(
    "first",
    [
        pb.FromAgent(heartbeat=pb.Heartbeat(seq=1)),
        pb.FromAgent(hello=pb.Hello(node="n1", envelope="{}")),
        pb.FromAgent(hello=pb.Hello(node="n1", envelope='{"profile": "everything"}')),
        pb.FromAgent(hello=pb.Hello(node="n1", boot_id="x" * 200_000)),
        pb.FromAgent(),
    ],
)
async def test_a_session_begins_with_a_usable_hello(rig: Rig, first: pb.FromAgent) -> None:
    async with rig.dial("agent/n1") as link:
        stream = rpc.AgentLinkStub(link).Session()
        await stream.write(first)
        with pytest.raises(grpc.RpcError) as caught:
            await stream.read()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_each_heartbeat_is_answered_with_its_own_number(rig: Rig) -> None:
    agent = await rig.agent("n1")
    await until(lambda: len(agent.grants) >= 3)
    assert [grant.seq for grant in agent.grants[:3]] == agent.sent[:3]
    assert {grant.epoch for grant in agent.grants} == {rig.controller.authority.epoch}
    assert {grant.ttl_us for grant in agent.grants} == {1_050_000}


async def test_a_newer_session_of_a_node_takes_the_place_of_the_older(rig: Rig) -> None:
    older = await rig.agent("n1")
    newer = await rig.agent("n1", boot_id="boot-2")
    await until(lambda: older.ended_by)
    assert "newer session" in older.ended_by
    assert rig.controller.fleet.sessions["n1"].hello.boot_id == "boot-2"
    count = len(newer.grants)
    await until(lambda: len(newer.grants) > count)


async def test_an_agent_that_floods_is_cut_off_and_the_others_are_not(rig: Rig) -> None:
    good, bad = await rig.agent("n1"), await rig.agent("n2")
    bad.silent = True
    await asyncio.sleep(0.1)  # one writer at a time
    with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
        for number in range(5_000):
            await bad.stream.write(pb.FromAgent(heartbeat=pb.Heartbeat(seq=number)))
    await until(lambda: "n2" not in rig.controller.fleet.sessions)
    await asyncio.sleep(0.05)
    (entry,) = await rig.audit()
    assert (entry["actor"], entry["outcome"]) == (
        "agent/n2",
        "too many messages: more than 20 a second",
    )
    assert rig.controller.fleet.sessions.keys() == {"n1"}
    count = len(good.grants)
    await until(lambda: len(good.grants) > count + 1)


async def test_an_agent_that_reads_nothing_does_not_fill_our_memory(rig: Rig) -> None:
    agent = await rig.agent("n1")
    session = rig.controller.fleet.sessions["n1"]
    while session.revert("x" * 10_000):
        pass
    assert session.outbox.qsize() <= 64
    await until(lambda: agent.ended_by)
    assert "takes no messages" in agent.ended_by


async def test_a_node_that_obeyed_a_later_controller_gets_nothing(rig: Rig) -> None:
    agent = await rig.agent("n1", epoch=2**40, wait=False)
    async with rig.operator() as ann:
        await until(lambda: "n1" in rig.controller.fleet.sessions)
        assert await ann.state("n1") == "fenced"
        with pytest.raises(NodeUnreachable, match="fenced"):
            await ann.inject("n1")
    await asyncio.sleep(0.3)
    assert not agent.grants
    assert not agent.applied
    await rig.restart(epoch_at_least=2**40 + 1)
    await agent.dial()
    await until(lambda: agent.grants)
    async with rig.operator() as ann:
        assert await ann.state("n1") == "connected"
        assert (await ann.inject("n1"))[-1].verdict == "held"


async def test_a_node_seen_once_is_still_known_after_a_restart(rig: Rig) -> None:
    await rig.agent("n1")
    await rig.restart()
    async with rig.operator("viewer/bob") as bob:
        answer = await bob.one("ListNodes", pb.ListNodesRequest())
        (node,) = answer.nodes
        assert (node.name, node.state, node.profile) == ("n1", "unreachable", "production")
        assert answer.epoch == rig.controller.authority.epoch
        with pytest.raises(InvalidInput, match="unknown run"):
            await bob.one("GetRun", pb.GetRunRequest(id="r-none"))


async def test_stopping_is_quick_with_everybody_connected(rig: Rig) -> None:
    await rig.agent("n1")
    async with rig.dial("viewer/bob") as link:
        watching = Client(rpc.OperatorStub(link)).stub.Watch(pb.WatchRequest())
        await until(lambda: rig.controller.runs.feed._queues)
        async with asyncio.timeout(2):
            await rig.restart()
        watching.cancel()
