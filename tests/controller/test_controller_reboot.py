"""A node that a fault took down: its silence is the fault in force, its coming back the end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from chaos_core.errors import EnvelopeExceeded, Latched
from chaos_proto.v1 import chaos_pb2 as pb

from .rig import Agent, Rig, until

REBOOT: dict[str, Any] = {"kind": "host.reboot", "params": "{}", "duration_us": 20_000_000}


def survived(agent: Agent, boot: str = "boot-1") -> None:
    """The node comes up again, and its journal knows why it went down."""
    (sent,) = agent.applied
    agent.reboot()
    agent.survived = (pb.Survived(boot=boot, run=sent.run, fault=sent.fault, kind=sent.kind),)


@contextlib.asynccontextmanager
async def down(rig: Rig, **changes: Any) -> AsyncIterator[tuple[Agent, asyncio.Future[Any]]]:
    """A node that went away as soon as it was told to, without a word."""
    agent = await rig.agent("n1", profile="lab")
    agent.on_apply = lambda _: setattr(agent, "silent", True)
    async with rig.operator() as ann:
        running = asyncio.ensure_future(ann.inject("n1", **{**REBOOT, **changes}))
        await until(lambda: agent.applied)
        await agent.leave()
        agent.silent = False
        yield agent, running


def phase(rig: Rig) -> str:
    return str(next(iter(rig.controller.runs.live.values())).machine.phase)


async def test_a_node_that_goes_and_comes_back_has_held(rig: Rig) -> None:
    async with down(rig) as (agent, running):
        await until(lambda: phase(rig) == "observe", 6)
        assert rig.controller.runs.carrying() == {"n1"}  # it counts as occupied all the time
        survived(agent)
        await agent.dial()
        events = await running
    assert events[-1].verdict == "held", events[-1].text
    assert events[-1].text.startswith("n1: back after ")
    assert events[-1].text.endswith("boot boot-1 → boot-1x")
    assert len(agent.applied) == 1
    assert not rig.controller.runs.occupied


async def test_one_that_is_back_before_it_was_missed_has_held(rig: Rig) -> None:
    async with down(rig) as (agent, running):
        survived(agent)
        await agent.dial()
        assert (await running)[-1].verdict == "held"


@pytest.mark.parametrize("boot", ["", "boot-0"])
async def test_one_that_was_rebooted_by_others_has_not(rig: Rig, boot: str) -> None:
    """Its journal knows nothing of this run, or of one in another boot."""
    async with down(rig) as (agent, running):
        survived(agent, boot)
        if not boot:
            agent.survived = ()
        await agent.dial()
        events = await running
    assert events[-1].verdict == "failed"
    assert "does not say that it was rebooted by this run" in events[-1].text


async def test_one_that_was_cut_off_and_had_refused_has_not(rig: Rig) -> None:
    agent = await rig.agent("n1", profile="lab", refuses="chaos-link.service is disabled")
    agent.on_apply = lambda _: setattr(agent, "silent", True)
    async with rig.operator() as ann:
        running = asyncio.ensure_future(ann.inject("n1", **REBOOT))
        await until(lambda: agent.applied)
        await until(lambda: phase(rig) == "observe", 6)
        agent.silent = False
        events = await running
    assert events[-1].verdict == "failed"
    assert "chaos-link.service is disabled" in events[-1].text


async def test_one_that_stays_up_and_forgets_has_not(rig: Rig) -> None:
    agent = await rig.agent("n1", profile="lab")
    async with rig.operator() as ann:
        running = asyncio.ensure_future(ann.inject("n1", **REBOOT))
        await until(lambda: agent.active())
        agent.faults.clear()
        events = await running
    assert events[-1].verdict == "failed"


async def test_an_abort_while_it_is_down_is_clean_and_latches(rig: Rig) -> None:
    async with down(rig) as (agent, running):
        await until(lambda: phase(rig) == "observe", 6)
        async with rig.operator() as ann:
            said = await ann.all("Abort", pb.AbortRequest(reason="enough"))
            assert said[-1].clean_after_us <= 5_000_000
            survived(agent)
            await agent.dial()
            assert (await running)[-1].verdict == "aborted"
            with pytest.raises(Latched):
                await ann.inject("n1")
    await until(lambda: not rig.controller.runs.occupied, 6)


async def test_a_controller_that_starts_meanwhile_sends_nothing_again(rig: Rig) -> None:
    async with down(rig) as (agent, running):
        await until(lambda: phase(rig) == "observe", 6)
        await rig.restart()
        running.cancel()
        survived(agent)
        agent.on_apply = lambda _: None
        await agent.dial()
        await until(
            lambda: "n1" in rig.controller.fleet.sessions and not rig.controller.runs.carrying()
        )
        async with rig.operator() as ann:
            assert (await ann.inject("n1"))[-1].verdict == "held"
    assert [sent.kind for sent in agent.applied] == ["host.reboot", "network.latency"]


async def test_production_is_not_rebooted(rig: Rig) -> None:
    agent = await rig.agent("n1")
    async with rig.operator() as ann:
        with pytest.raises(EnvelopeExceeded, match="refused in profile production"):
            await ann.inject("n1", **REBOOT)
    assert not agent.applied
