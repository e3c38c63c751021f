"""What faults hit, from heartbeats into verdicts, timelines, lists and exit codes."""

from __future__ import annotations

import asyncio

import pytest

from chaos_core.hits import Hits
from chaos_proto.hits import from_wire
from chaos_proto.v1 import chaos_pb2 as pb
from chaosctl.timeline import exit_of

from .rig import Rig, until

MISSED = pb.Hits(count=0, unit="packets", seen=53)
HIT = pb.Hits(count=12, unit="packets", seen=53)


async def test_a_fault_that_hits_nothing_of_what_there_was_ends_as_no_effect(rig: Rig) -> None:
    await rig.agent("n1", hits=MISSED)
    async with rig.operator() as ann:
        events = await ann.inject("n1")
        last = events[-1]
        assert (last.verdict, exit_of(last.verdict)) == ("no_effect", 7)
        assert last.text == "n1: in force, but it hit 0 of 53 packets"
        ended = [event for event in events if event.node == "n1"][-1]
        assert ended.text == "ended (duration), clean, hit 0 of 53 packets"
        assert ended.hits == MISSED
        kept = await ann.one("GetRun", pb.GetRunRequest(id=last.run))
        assert kept.run.verdict == "no_effect"
        assert list(kept.events) == events, "with what was hit"
        assert await ann.all("Watch", pb.WatchRequest(run=last.run)) == events


async def test_the_first_hit_is_told_while_it_goes_on_and_only_once(rig: Rig) -> None:
    agent = await rig.agent("n1", hits=pb.Hits(count=0, unit="packets", seen=0))
    async with rig.operator() as ann:
        call = ann.inject("n1", duration_us=2_500_000)

        async def grow() -> None:
            await until(lambda: agent.active())
            for count in (3, 4):
                (status,) = agent.active()
                status.hits.CopyFrom(pb.Hits(count=count, unit="packets", seen=9))
                await until(lambda: rig.controller.runs.live)
                listed = (await ann.one("ListNodes", pb.ListNodesRequest())).nodes[0]
                while [fault.hits.count for fault in listed.faults] != [count]:
                    listed = (await ann.one("ListNodes", pb.ListNodesRequest())).nodes[0]

        events, _ = await asyncio.gather(call, grow())
    texts = [event.text for event in events if event.node == "n1"]
    assert [text for text in texts if text.startswith("first hit")] == ["first hit: 3 of 9 packets"]
    assert texts[-1] == "ended (duration), clean, hit 4 of 9 packets"
    assert events[-1].verdict == "held"


async def test_without_traffic_it_holds_and_says_so(rig: Rig) -> None:
    await rig.agent("n1", hits=pb.Hits(count=0, unit="packets", seen=0))
    async with rig.operator() as ann:
        last = (await ann.inject("n1"))[-1]
    assert last.verdict == "held"
    assert last.text.endswith("n1: no traffic that it could have hit was seen")


async def test_one_of_two_nodes_is_enough(rig: Rig) -> None:
    for node, hits in (("n1", HIT), ("n2", MISSED)):
        await rig.agent(node, profile="lab", hits=hits)
    async with rig.operator() as ann:
        last = (await ann.inject("n1", "n2"))[-1]
    assert (last.verdict, last.text) == ("no_effect", "n2: in force, but it hit 0 of 53 packets")


@pytest.mark.parametrize(
    "said",
    [
        pb.Hits(count=1, unit="wonders"),
        pb.Hits(count=2**60, unit="packets"),
        pb.Hits(count=0, unit="packets", seen=2**63),
    ],
)
async def test_what_is_no_count_is_left_out(rig: Rig, said: pb.Hits) -> None:
    """Whoever has taken over a link may say anything."""
    await rig.agent("n1", hits=said)
    async with rig.operator() as ann:
        events = await ann.inject("n1")
    assert events[-1].verdict == "held"
    assert not any(event.HasField("hits") for event in events)


async def test_a_note_is_one_printable_line(rig: Rig) -> None:
    await rig.agent("n1", hits=pb.Hits(count=1, unit="packets", note="\x1b[31m" + "a\n" * 500))
    async with rig.operator() as ann:
        events = await ann.inject("n1")
    found = from_wire(next(event for event in events if event.HasField("hits")))
    assert isinstance(found, Hits)
    assert found.note.isprintable()
    assert len(found.note.encode()) <= 200
