"""A controller that follows another, or is followed by one: found by tests/sim."""

from __future__ import annotations

import asyncio

import pytest

from chaos_controller import clock
from chaos_controller.store import Store, epochs
from chaos_core.errors import Fenced, Latched, Refused
from chaos_proto.v1 import chaos_pb2 as pb

from .rig import Rig, until


def test_two_controllers_from_one_backup_do_not_share_an_epoch() -> None:
    chance = [epochs.following(7_000_123) for _ in range(10)]
    assert len(set(chance)) > 1
    assert all(8_000_000 <= epoch < 9_000_000 for epoch in chance)


def test_an_epoch_is_higher_than_the_last_and_not_below_what_was_asked_for() -> None:
    for last, at_least in ((0, 0), (1, 0), (999_999, 0), (5_000_007, 5_000_008), (3, 41_999_999)):
        for chance in (0, 999_999):
            epoch = epochs.following(last, at_least, chance=chance)
            assert epoch > last
            assert epoch >= at_least


async def test_a_controller_that_was_started_before_waits_even_when_nothing_is_open(
    rig: Rig,
) -> None:
    """Its store may be a copy from before the run that is in force now."""
    agent = await rig.agent("n1")
    await rig.restart(waited=False)
    await agent.dial()
    async with rig.operator() as ann:
        await until(lambda: "n1" in rig.controller.fleet.sessions)
        with pytest.raises(Refused, match=r"try again in [1-5] s"):
            await ann.inject("n1")
    assert not agent.applied


async def test_after_a_start_an_abort_vouches_for_no_node_before_older_leases_are_over(
    rig: Rig,
) -> None:
    await rig.agent("n1")
    await rig.restart(waited=False)
    wait = 700_000
    rig.controller.authority.settled_at = clock.now() + wait
    async with rig.operator() as ann:
        node, _ = await ann.all("Abort", pb.AbortRequest(reason="x"))
    assert (node.node, node.detail) == ("n1", "out of reach; it carried no fault of ours")
    assert wait * 0.7 < node.clean_after_us <= wait


async def test_a_controller_whose_store_has_passed_to_another_starts_nothing(rig: Rig) -> None:
    agent = await rig.agent("n1")
    standby = await Store.open(rig.config.database)
    await standby.next_epoch()
    await standby.close()
    async with rig.operator() as ann:
        with pytest.raises(Fenced, match="another controller has been started on this store"):
            await ann.inject("n1")
    assert not agent.applied


async def test_a_resume_does_not_lift_an_abort_that_came_while_it_was_written(rig: Rig) -> None:
    agent = await rig.agent("n1")
    go = asyncio.Event()
    store = rig.controller.store
    clear = store.clear_latch

    async def slow(actor: str, reason: str) -> object:
        was = await clear(actor, reason)
        await go.wait()
        return was

    store.clear_latch = slow  # type: ignore[method-assign,assignment]
    async with rig.operator() as ann:
        await ann.all("Abort", pb.AbortRequest(reason="first"))
        resuming = asyncio.ensure_future(ann.one("Resume", pb.ResumeRequest(reason="fixed")))
        await asyncio.sleep(0.05)
        await ann.all("Abort", pb.AbortRequest(reason="second"))
        go.set()
        with pytest.raises(Latched, match="second"):
            await resuming
        with pytest.raises(Latched, match="second"):
            await ann.inject("n1")
        kept = await store.latch()
        assert kept is not None
        assert kept.reason == "second"
    assert not agent.applied
