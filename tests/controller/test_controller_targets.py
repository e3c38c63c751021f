"""Names of nodes, labels, hosts and topologies become addresses before anything is sent."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chaos_core.errors import InvalidInput
from chaos_proto.v1 import chaos_pb2 as pb

from .rig import Agent, Rig

LOSS = {"kind": "network.loss"}


async def fleet(rig: Rig, *names: str, **options: Any) -> dict[str, Agent]:
    """Connected nodes n1, n2, …, n1 being 10.0.0.1 and fd00::1, in that order."""
    return {
        name: await rig.agent(
            name,
            profile="lab",
            addresses=(f"10.0.0.{name[1:]}", f"fd00::{name[1:]}", "127.0.0.1", "fe80::1"),
            labels=(f"rack={'ab'[int(name[1:]) % 2]}",),
            **options,
        )
        for name in names
    }


def peers(agent: Agent) -> list[str]:
    (applied,) = agent.applied
    found: list[str] = json.loads(applied.params)["peers"]
    return found


def loss(whom: str) -> dict[str, str]:
    return LOSS | {"params": json.dumps({"peers": whom.split(","), "percent": "1%"})}


async def test_a_node_is_all_its_addresses_that_others_can_reach(rig: Rig) -> None:
    nodes = await fleet(rig, "n1", "n2")
    async with rig.operator() as ann:
        events = await ann.inject("n1", **loss("n2,192.0.2.9"))
        assert events[-1].verdict == "held"
        assert peers(nodes["n1"]) == ["10.0.0.2", "fd00::2", "192.0.2.9/32"]
        (resolved,) = [event for event in events if event.event == "resolved"]
        assert (resolved.node, "10.0.0.2" in resolved.text) == ("n1", True)
        (said,) = [n for n in (await ann.one("ListNodes", pb.ListNodesRequest())).nodes
                   if n.name == "n2"]  # fmt: skip
        assert (list(said.addresses), list(said.labels)) == (["10.0.0.2", "fd00::2"], ["rack=a"])


async def test_a_label_is_all_nodes_that_have_it_but_the_one_that_is_hurt(rig: Rig) -> None:
    nodes = await fleet(rig, "n1", "n2", "n3", "n5")
    async with rig.operator() as ann:
        await ann.inject("n1", **loss("rack=b"))
    assert peers(nodes["n1"]) == ["10.0.0.3", "fd00::3", "10.0.0.5", "fd00::5"]


async def test_a_host_is_looked_up_here(rig: Rig) -> None:
    nodes = await fleet(rig, "n1")
    async with rig.operator() as ann:
        await ann.inject("n1", **loss("localhost"))
    assert set(peers(nodes["n1"])) <= {"127.0.0.1", "::1"}  # which the node will refuse


async def test_a_service_is_named_by_its_host_or_node(rig: Rig) -> None:
    nodes = await fleet(rig, "n1", "n2", "n3")
    hold = {"kind": "connections.hold"}
    async with rig.operator() as ann:
        for node, to in (("n1", "n2:5432"), ("n3", "localhost:5432")):
            params = json.dumps({"to": to, "count": 1})
            await ann.inject(node, **hold, params=params)
        with pytest.raises(InvalidInput, match=r"to: 'nosuch\.invalid' is no node"):
            await ann.inject("n2", **hold, params='{"to": "nosuch.invalid:5432", "count": 1}')
    said = [json.loads(nodes[name].applied[0].params)["to"] for name in ("n1", "n3")]
    assert said[0] == "10.0.0.2:5432"
    assert said[1] in ("127.0.0.1:5432", "[::1]:5432")
    assert not nodes["n2"].applied


@pytest.mark.parametrize(
    ("whom", "why"),
    [
        ("n7", "'n7' is no node, and no host"),
        ("nosuch.invalid", "no host that this controller can look up"),
        ("rack=z", "no connected node is labelled"),
        ("n1", "they are node 'n1' itself"),
        ("rack=b", "they are node 'n1' itself"),
    ],
)
async def test_a_name_that_stands_for_nothing_changes_nothing(
    rig: Rig, whom: str, why: str
) -> None:
    nodes = await fleet(rig, "n1", "n2")
    async with rig.operator() as ann:
        with pytest.raises(InvalidInput, match=why):
            await ann.inject("n1", **loss(whom))
    assert not nodes["n1"].applied
    assert await rig.controller.store.runs(10) == []


async def test_the_addresses_of_a_node_that_is_away_are_not_guessed(rig: Rig) -> None:
    nodes = await fleet(rig, "n1", "n2")
    await nodes["n2"].leave()
    async with rig.operator() as ann:
        with pytest.raises(InvalidInput, match="addresses of node 'n2' are not known"):
            await ann.inject("n1", **loss("n2"))


async def test_a_topology_is_other_peers_for_each_node_of_the_smaller_side(rig: Rig) -> None:
    nodes = await fleet(rig, "n1", "n2", "n3", "n4", "n5")
    async with rig.operator() as ann:
        asked = {"kind": "network.partition", "params": '{"topology": "minority"}'}
        events = await ann.inject(*nodes, **asked)
        assert events[-1].verdict == "held"
        kept = await ann.one("GetRun", pb.GetRunRequest(id=events[0].run))
    rest = [a for n in (3, 4, 5) for a in (f"10.0.0.{n}", f"fd00::{n}")]
    assert [peers(nodes[name]) for name in ("n1", "n2")] == [rest, rest]
    assert not any(nodes[name].applied for name in ("n3", "n4", "n5"))
    assert json.loads(kept.run.params) == {"topology": "minority"}
    assert sorted(kept.run.nodes) == ["n1", "n2"]


async def test_a_topology_of_too_few_is_refused(rig: Rig) -> None:
    nodes = await fleet(rig, "n1", "n2")
    async with rig.operator() as ann:
        with pytest.raises(InvalidInput, match="ring takes 4 nodes, not 2"):
            await ann.inject(*nodes, kind="network.partition", params='{"topology": "ring"}')


# ── who is not hit ────────────────────────────────────────────────────────────────────────


def sent(agent: Agent) -> tuple[list[str], list[str]]:
    """Peers and excluded, as the node was told."""
    (applied,) = agent.applied
    params = json.loads(applied.params)
    return params["peers"], params["exclude"]


async def test_the_excluded_are_named_as_peers_are(rig: Rig) -> None:
    """By node, label, host or address; and the run's record says whom that meant."""
    nodes = await fleet(rig, "n1", "n2", "n3", "n4", "n5")
    asked = {"peers": ["10.0.0.0/24"], "exclude": ["n2", "rack=b", "192.0.2.9"], "percent": "1%"}
    async with rig.operator() as ann:
        events = await ann.inject("n1", **LOSS | {"params": json.dumps(asked)})
        assert events[-1].verdict == "held"
    excluded = [a for n in (2, 1, 3, 5) for a in (f"10.0.0.{n}", f"fd00::{n}")]
    assert sent(nodes["n1"]) == (["10.0.0.0/24"], [*excluded, "192.0.2.9/32"])
    (resolved,) = [event for event in events if event.event == "resolved"]
    assert "fd00::5" in resolved.text


async def test_who_is_excluded_is_no_peer_whatever_both_are_called(rig: Rig) -> None:
    nodes = await fleet(rig, "n1", "n2", "n3", "n5")
    asked = {"peers": ["rack=b"], "exclude": ["n3"], "percent": "1%"}
    async with rig.operator() as ann:
        await ann.inject("n1", **LOSS | {"params": json.dumps(asked)})
    assert sent(nodes["n1"]) == (["10.0.0.5", "fd00::5"], ["10.0.0.3", "fd00::3"])


async def test_a_topology_leaves_out_who_is_excluded(rig: Rig) -> None:
    nodes = await fleet(rig, "n1", "n2", "n3")
    params = json.dumps({"topology": "one", "exclude": ["n3"]})
    async with rig.operator() as ann:
        events = await ann.inject(*nodes, kind="network.partition", params=params)
        assert events[-1].verdict == "held"
    (hurt,) = [node for node in nodes.values() if node.applied]
    assert sent(hurt) == (["10.0.0.2", "fd00::2"], ["10.0.0.3", "fd00::3"])


@pytest.mark.parametrize(
    ("exclude", "why"),
    [
        ("n7", "exclude: 'n7' is no node, and no host"),
        ("rack=z", "exclude: no connected node is labelled"),
        ("n2", "exclude: no peer is left"),
    ],
)
async def test_an_exclusion_that_means_nobody_or_all_changes_nothing(
    rig: Rig, exclude: str, why: str
) -> None:
    nodes = await fleet(rig, "n1", "n2")
    asked = {"peers": ["n2"], "exclude": [exclude], "percent": "1%"}
    async with rig.operator() as ann:
        with pytest.raises(InvalidInput, match=why):
            await ann.inject("n1", **LOSS | {"params": json.dumps(asked)})
    assert not nodes["n1"].applied
