"""Runs over the wire: from preflight to verdict."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Any

import pytest

from chaos_core.audit import verify
from chaos_core.errors import (
    ChaosError,
    EnvelopeExceeded,
    InvalidInput,
    NodeUnreachable,
    Refused,
    Unsupported,
)
from chaos_core.run import Phase
from chaos_proto.v1 import chaos_pb2 as pb

from .rig import Rig, injection, until


async def test_a_run_goes_through_its_phases_and_leaves_a_record(rig: Rig) -> None:
    agent = await rig.agent("n1")
    async with rig.operator() as ann:
        events = await ann.inject("n1", reason="trying")
        phases = [event.phase for event in events if event.event == "phase"]
        assert phases == ["baseline", "inject", "observe", "recover", "verdict"]
        assert events[-1].verdict == "held"
        assert [event.number for event in events] == list(range(1, len(events) + 1))
        nodes = [event.text for event in events if event.node == "n1"]
        assert nodes == ["in force", "ended (duration), clean"]
        kept = await ann.one("GetRun", pb.GetRunRequest(id=events[0].run))
        assert list(kept.events) == events
        assert (kept.run.verdict, kept.run.actor) == ("held", "operator/ann")
        assert kept.run.finished
        assert await ann.all("Watch", pb.WatchRequest(run=events[0].run)) == events
    assert agent.applied[0].ttl_us == 1_050_000
    await rig.controller.runs.recorder.flush()
    assert await rig.controller.store.occupied() == []
    entries = await rig.audit()
    assert [entry["action"] for entry in entries] == ["inject", "verdict"]
    assert '"reason": "trying"' in entries[0]["request"]
    assert verify(entries) is None


async def test_a_fault_longer_than_its_lease_is_renewed(rig: Rig) -> None:
    agent = await rig.agent("n1")
    async with rig.operator() as ann:
        events = await ann.inject("n1", duration_us=1_300_000)
    assert events[-1].verdict == "held"
    assert any(agent.applied[0].run in grant.runs for grant in agent.grants)


async def test_the_run_and_its_nodes_are_on_disk_before_anything_is_sent(rig: Rig) -> None:
    found: list[Any] = []

    def look(_: pb.Apply) -> None:
        with sqlite3.connect(rig.directory / "controller.db") as db:
            found.extend(db.execute("select run, node from occupancy"))
            found.extend(db.execute("select id, verdict from runs"))

    agent = await rig.agent("n1", on_apply=look)
    async with rig.operator() as ann:
        await ann.inject("n1")
    run = agent.applied[0].run
    assert found == [(run, "n1"), (run, "")]


async def test_a_run_goes_on_when_its_client_goes_away(rig: Rig) -> None:
    agent = await rig.agent("n1")
    async with rig.operator() as ann:
        call = ann.stub.Inject(injection("n1"))
        assert (await call.read()).event == "created"
        call.cancel()
    await until(lambda: agent.applied and not rig.controller.runs.live)
    await rig.controller.runs.recorder.flush()
    (row,) = await rig.controller.store.runs(10)
    assert row["verdict"] == "held"


async def test_a_run_begun_on_disk_is_begun_in_earnest_though_its_client_has_gone(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its nodes would stay occupied by a run that nobody drives."""
    agent = await rig.agent("n1")
    begin, written = rig.controller.store.begin_run, asyncio.Event()

    async def slowly(*arguments: Any) -> None:
        await begin(*arguments)
        written.set()
        await asyncio.sleep(0.2)

    monkeypatch.setattr(rig.controller.store, "begin_run", slowly)
    async with rig.operator() as ann:
        call = ann.stub.Inject(injection("n1"))
        reading = asyncio.ensure_future(call.read())
        await written.wait()
        call.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    await until(lambda: agent.applied and not rig.controller.runs.occupied)


async def test_watching_all_runs(rig: Rig) -> None:
    await rig.agent("n1")
    async with rig.operator("viewer/bob") as bob, rig.operator() as ann:
        call = bob.stub.Watch(pb.WatchRequest())
        reading = asyncio.ensure_future(call.read())
        await until(lambda: rig.controller.runs.feed._queues)
        events = await ann.inject("n1")
        assert await reading == events[0]
        call.cancel()


async def test_a_refusal_by_the_node_is_the_verdict(rig: Rig) -> None:
    await rig.agent("n1", refuses="not with me")
    async with rig.operator() as ann:
        events = await ann.inject("n1")
    assert events[-1].verdict == "refused"
    assert "not with me" in events[-1].text
    assert not rig.controller.runs.occupied


async def test_a_fault_whose_only_report_comes_after_its_end_has_held(rig: Rig) -> None:
    agent = await rig.agent("n1")
    agent.on_apply = lambda _: setattr(agent, "silent", True)
    async with rig.operator() as ann:
        running = asyncio.ensure_future(ann.inject("n1"))
        await until(lambda: agent.faults and not agent.active())
        agent.silent = False
        events = await running
    assert events[-1].verdict == "held"


async def test_a_node_that_reboots_fails_the_run(rig: Rig) -> None:
    agent = await rig.agent("n1")
    async with rig.operator() as ann:
        running = asyncio.ensure_future(ann.inject("n1", duration_us=20_000_000))
        await until(lambda: agent.active())
        agent.reboot()
        await agent.dial()
        events = await running
    assert events[-1].verdict == "failed"
    assert "rebooted" in events[-1].text
    assert not rig.controller.runs.occupied


async def test_an_agent_that_forgot_its_fault_is_believed_only_after_the_lease(rig: Rig) -> None:
    agent = await rig.agent("n1")
    async with rig.operator() as ann:
        running = asyncio.ensure_future(ann.inject("n1", duration_us=20_000_000))
        await until(lambda: agent.active())
        agent.faults.clear()
        await asyncio.sleep(0.5)
        assert rig.controller.runs.carrying() == {"n1"}
        events = await running
    assert events[-1].verdict == "failed"
    assert events[-1].at_us > 1_050_000
    assert "does not know" in events[-1].text


async def test_leftovers_of_a_run_that_is_over_are_not_renewed(rig: Rig) -> None:
    agent = await rig.agent("n1")
    agent.faults["0badf00d"] = pb.FaultStatus(fault="0badf00d", run="r-gone", state="in_force")
    count = len(agent.grants)
    await until(lambda: len(agent.grants) > count + 2)
    assert not any(grant.runs for grant in agent.grants)
    assert not agent.reverts  # it may be a local one


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"nodes": ["n2x"]}, InvalidInput, "did you mean 'n1'|unknown node"),
        ({"nodes": []}, InvalidInput, "no node"),
        ({"kind": "network.latancy"}, InvalidInput, "did you mean 'network.latency'"),
        ({"params": "{"}, InvalidInput, "not JSON"),
        ({"params": '{"delay": "50"}'}, InvalidInput, "no unit"),
        ({"params": '{"peers": ["10.0.0.9"], "delay": "51ms"}'}, EnvelopeExceeded, "50ms"),
        ({"duration_us": 301_000_000}, EnvelopeExceeded, "300s|5m"),
        ({"duration_us": 0}, InvalidInput, "duration"),
        ({"nodes": ["n1", "n2"]}, EnvelopeExceeded, "2 nodes at once"),
    ],
)
async def test_bad_requests_change_nothing(
    rig: Rig, changes: dict[str, Any], error: type[ChaosError], text: str
) -> None:
    agents = [await rig.agent("n1"), await rig.agent("n2")]
    async with rig.operator() as ann:
        with pytest.raises(error, match=text):
            await ann.inject(*changes.pop("nodes", ["n1"]), **changes)
    assert not any(agent.applied for agent in agents)
    assert await rig.controller.store.runs(10) == []
    (entry,) = await rig.audit()
    assert (entry["action"], entry["decision"]) == ("inject", f"refused: {error.code}")


async def test_nodes_that_cannot_take_a_fault(rig: Rig) -> None:
    await rig.agent("n1", unable="no netem in this kernel")
    await rig.agent("n2", quarantine=("qdisc of eth0 differs",))
    gone = await rig.agent("n3")
    await gone.leave()
    await until(lambda: "n3" not in rig.controller.fleet.sessions)
    async with rig.operator() as ann:
        with pytest.raises(Unsupported, match="no netem in this kernel"):
            await ann.inject("n1")
        with pytest.raises(NodeUnreachable, match="qdisc of eth0 differs"):
            await ann.inject("n2")
        with pytest.raises(NodeUnreachable, match="not connected"):
            await ann.inject("n3")
        assert [await ann.state(name) for name in ("n1", "n2", "n3")] == [
            "connected",
            "quarantined",
            "unreachable",
        ]


async def test_a_node_that_goes_away_ends_its_run_soon_after_its_lease(rig: Rig) -> None:
    """And not only when the duration, of up to five minutes, is over."""
    agent = await rig.agent("n1")
    async with rig.operator() as ann:
        call = ann.stub.Inject(injection("n1", duration_us=60_000_000))
        await until(lambda: agent.active())
        agent.silent = True
        live = next(iter(rig.controller.runs.live.values()))
        await until(lambda: live.machine.phase is Phase.RECOVER, timeout_s=10)
        call.cancel()
    assert "n1: not heard since its lease ended" in live.timeline.events[-1].text


async def test_a_second_node_is_refused_while_the_first_carries_a_fault(rig: Rig) -> None:
    first, second = await rig.agent("n1"), await rig.agent("n2")
    async with rig.operator() as ann:
        running = asyncio.ensure_future(ann.inject("n1", duration_us=500_000))
        await until(lambda: first.active())
        with pytest.raises(EnvelopeExceeded, match=r"n1 already.*allows 1 of 2"):
            await ann.inject("n2")
        await running
        assert (await ann.inject("n2"))[-1].verdict == "held"
    assert len(second.applied) == 1


async def test_faults_that_add_up_past_a_ceiling_are_refused(rig: Rig) -> None:
    agent = await rig.agent("n1", profile="lab")
    async with rig.operator() as ann:
        running = asyncio.ensure_future(
            ann.inject("n1", kind="cpu.stress", params='{"percent": "60%"}', duration_us=400_000)
        )
        await until(lambda: agent.active())
        with pytest.raises(EnvelopeExceeded, match="60%"):
            await ann.inject("n1", kind="cpu.stress", params='{"percent": "40%"}')
        await running


async def test_after_a_restart_runs_are_interrupted_and_nothing_starts_for_a_while(
    rig: Rig,
) -> None:
    first, second = await rig.agent("n1"), await rig.agent("n2")
    async with rig.operator() as ann:
        call = ann.stub.Inject(injection("n1", duration_us=30_000_000))
        await until(lambda: first.active())
        run = first.applied[0].run
        first.silent = True
        epoch = rig.controller.authority.epoch
        await rig.restart(waited=False)
        call.cancel()
    assert rig.controller.authority.epoch > epoch
    await second.dial()
    async with rig.operator() as ann:
        kept = await ann.one("GetRun", pb.GetRunRequest(id=run))
        assert kept.run.verdict == "interrupted"
        assert kept.events[-1].verdict == "interrupted"
        await until(lambda: "n2" in rig.controller.fleet.sessions)
        with pytest.raises(Refused, match=r"try again in [1-5] s"):
            await ann.inject("n2")
        # The store alone says that n1 is occupied, with no session and no memory of it.
        rig.controller.authority.settled_at = 0
        rig.controller.runs._sweep = lambda *_: None  # type: ignore[method-assign]
        with pytest.raises(EnvelopeExceeded, match="n1 already"):
            await ann.inject("n2")
    assert not second.applied


async def test_a_node_of_an_interrupted_run_is_free_once_it_says_that_it_is_clean(
    rig: Rig,
) -> None:
    agent = await rig.agent("n1")
    async with rig.operator() as ann:
        call = ann.stub.Inject(injection("n1", duration_us=30_000_000))
        await until(lambda: agent.active())
        await rig.restart()
        call.cancel()
    assert rig.controller.runs.carrying() == {"n1"}
    await agent.dial()
    await until(lambda: not agent.active())
    assert rig.controller.runs.carrying() == {"n1"}  # not before the leases have lapsed
    rig.controller.authority.settled_at = 1
    await until(lambda: not rig.controller.runs.carrying())
    async with rig.operator() as ann:
        assert (await ann.inject("n1"))[-1].verdict == "held"


async def test_a_quarantined_node_is_released_once_it_says_that_it_is_clean(rig: Rig) -> None:
    agent = await rig.agent("n1", quarantine=("+ links: chs-x",), stays_quarantined=True)
    async with rig.operator() as ann:
        request = pb.ReleaseNodeRequest(node="n1", reason="looked at it")
        with pytest.raises(Refused, match="chs-x"):
            await ann.one("ReleaseNode", request)
        agent.stays_quarantined = False
        answer = await ann.one("ReleaseNode", request)
        assert list(answer.was) == ["+ links: chs-x"]
        assert await ann.state("n1") == "connected"
        with pytest.raises(InvalidInput, match="reason"):
            await ann.one("ReleaseNode", pb.ReleaseNodeRequest(node="n1"))
        with pytest.raises(InvalidInput, match="did you mean 'n1'"):
            await ann.one("ReleaseNode", pb.ReleaseNodeRequest(node="n11", reason="x"))
    entries = await rig.audit()
    outcomes = [entry["outcome"] for entry in entries if entry["action"] == "releasenode"]
    assert "released" in outcomes
    assert verify(entries) is None
