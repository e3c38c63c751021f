"""The abort and its latch: P3, as far as the controller is concerned."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chaos_core.errors import ChaosError, InvalidInput, Latched
from chaos_proto.v1 import chaos_pb2 as pb

from .rig import Rig, injection, until

LONG = {"duration_us": 60_000_000}


async def test_an_abort_ends_everything_everywhere_and_latches(rig: Rig) -> None:
    agents = [await rig.agent(name, profile="lab") for name in ("n1", "n2", "n3")]
    async with rig.operator() as ann, rig.operator("operator/ben") as ben:
        running = asyncio.ensure_future(ann.inject("n1", "n2", **LONG))
        await until(lambda: agents[0].active() and agents[1].active())
        run = agents[0].applied[0].run
        events = await ben.all("Abort", pb.AbortRequest(reason="too slow"))
        assert not any(agent.active() for agent in agents)
        total = events.pop()
        assert {event.node: event.carried_fault for event in events} == {
            "n1": True,
            "n2": True,
            "n3": False,
        }
        assert all(event.confirmed for event in events)
        assert (total.node, total.confirmed) == ("", True)
        assert total.clean_after_us == max(event.clean_after_us for event in events) < 1_000_000
        assert [revert.fault for revert in agents[2].reverts] == [""]  # told, though it had none
        timeline = await running
        assert timeline[-1].verdict == "aborted"
        assert "operator/ben: too slow" in timeline[-1].text
        with pytest.raises(Latched, match=r"operator/ben aborted everything.*too slow"):
            await ann.inject("n1")
        assert not [g for a in agents for g in a.grants[-1:] if run in g.runs]


async def test_the_latch_outlives_the_controller_until_a_resume(rig: Rig) -> None:
    agent = await rig.agent("n1")
    async with rig.operator() as ann:
        await ann.all("Abort", pb.AbortRequest(reason="first"))
        await ann.all("Abort", pb.AbortRequest(reason="second"))
    await rig.restart()
    await agent.dial()
    async with rig.operator() as ann:
        latch = (await ann.one("ListNodes", pb.ListNodesRequest())).latch
        assert (latch.set, latch.actor, latch.reason) == (True, "operator/ann", "second")
        with pytest.raises(Latched, match="second"):
            await ann.inject("n1")
        with pytest.raises(InvalidInput, match="needs a reason"):
            await ann.one("Resume", pb.ResumeRequest(reason=" "))
        was = (await ann.one("Resume", pb.ResumeRequest(reason="fixed"))).was
        assert (was.set, was.reason) == (True, "second")
        count = len(agent.grants)
        await until(lambda: len(agent.grants) > count)
        assert (await ann.inject("n1"))[-1].verdict == "held"
    actions = [entry["action"] for entry in await rig.audit()]
    assert actions.count("abort") == 2
    assert "resume" in actions


async def test_a_node_out_of_reach_is_reported_when_its_lease_has_run_out(rig: Rig) -> None:
    cut, near = [await rig.agent(name, profile="lab") for name in ("n1", "n2")]
    async with rig.operator() as ann:
        running = asyncio.ensure_future(ann.inject("n1", "n2", **LONG))
        await until(lambda: cut.active() and near.active())
        cut.silent = True
        events = await ann.all("Abort", pb.AbortRequest(reason="x"))
        by_node = {event.node: event for event in events}
        assert by_node["n2"].confirmed
        assert by_node["n2"].clean_after_us < 1_000_000
        assert not by_node["n1"].confirmed
        assert "lease has run out" in by_node["n1"].detail
        assert not cut.active()  # by its own clock, before we say so
        assert 900_000 < by_node["n1"].clean_after_us <= 1_600_000
        assert not by_node[""].confirmed
        running.cancel()


async def test_a_node_that_comes_back_during_the_abort_is_told_again(rig: Rig) -> None:
    agent = await rig.agent("n1")
    async with rig.operator() as ann:
        running = asyncio.ensure_future(ann.inject("n1", **LONG))
        await until(lambda: agent.active())
        await agent.leave()
        await until(lambda: not rig.controller.fleet.sessions)
        aborting = asyncio.ensure_future(ann.all("Abort", pb.AbortRequest(reason="x")))
        await until(lambda: rig.controller.authority.latch)
        await agent.dial()
        events = await aborting
        assert (events[0].node, events[0].confirmed) == ("n1", True)
        assert "" in [revert.fault for revert in agent.reverts]
        await running


async def test_after_an_abort_no_grant_names_the_run_even_if_the_node_is_deaf(rig: Rig) -> None:
    """The reverts are lost; what ends the fault is that nobody renews it."""
    agent = await rig.agent("n1")
    async with rig.operator() as ann:
        running = asyncio.ensure_future(ann.inject("n1", **LONG))
        await until(lambda: any(grant.runs for grant in agent.grants))
        agent._obey = lambda message: (  # type: ignore[method-assign]
            None if message.HasField("revert") else type(agent)._obey(agent, message)
        )
        await ann.all("Abort", pb.AbortRequest(reason="x"))
        assert not agent.active()
        assert next(iter(agent.faults.values())).reason == "lease"
        await running


async def test_a_disk_that_fails_does_not_keep_the_reverts_waiting(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any) -> None:
        raise ChaosError("the store failed: disk full")

    agent = await rig.agent("n1")
    monkeypatch.setattr(rig.controller.store, "set_latch", fail)
    async with rig.operator() as ann:
        running = asyncio.ensure_future(ann.inject("n1", **LONG))
        await until(lambda: agent.active())
        events = await ann.all("Abort", pb.AbortRequest(reason="x"))
        assert not agent.active()
        assert "NOT ON DISK" in events[-1].detail
        with pytest.raises(Latched):
            await ann.inject("n1")
        await running


async def test_an_abort_goes_on_when_its_client_goes_away(rig: Rig) -> None:
    agent = await rig.agent("n1")
    async with rig.operator() as ann:
        call = ann.stub.Inject(injection("n1", **LONG))
        await until(lambda: agent.active())
        abort = ann.stub.Abort(pb.AbortRequest(reason="x"))
        await until(lambda: rig.controller.authority.latch)
        abort.cancel()
        await until(lambda: not agent.active(), 1.0)
        await until(lambda: not rig.controller.runs.live, 1.0)
        call.cancel()
    assert await rig.controller.store.latch()
