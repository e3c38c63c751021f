"""Which nodes a target stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from chaos_core.errors import InvalidInput, NodeUnreachable
from chaos_experiment.targets import Node, Target, choose

FLEET = (
    Node("n1", ("role=web", "critical=7")),
    Node("n2", ("role=web", "critical=2", "zone=a")),
    Node("n3", ("role=web",)),
    Node("n4", ("role=db", "critical=0")),
)


def target(**fields: Any) -> Target:
    return Target.model_validate(fields)


@pytest.mark.parametrize(
    ("fields", "chosen"),
    [
        ({"names": "n1, n4"}, ("n1", "n4")),
        ({"labels": ["role=web"]}, ("n1", "n2", "n3")),
        ({"labels": ["role=web", "zone=a"]}, ("n2",)),
        ({"all": "true"}, ("n1", "n2", "n3", "n4")),
        ({"labels": ["role=web"], "pick": "least_critical"}, ("n2",)),
        ({"all": True, "pick": "least_critical"}, ("n4",)),
    ],
)
def test_who_is_meant(fields: Mapping[str, Any], chosen: tuple[str, ...]) -> None:
    assert choose(target(**fields), FLEET, seed=1) == chosen


@pytest.mark.parametrize(
    ("pick", "count"),
    [("one", 1), ("random 2", 2), ("minority", 1), ("majority", 3), ("all", 4)],
)
def test_a_pick_is_of_its_size_and_the_same_for_the_same_seed(pick: str, count: int) -> None:
    whom = target(all=True, pick=pick)
    for seed in range(20):
        chosen = choose(whom, FLEET, seed)
        assert len(set(chosen)) == len(chosen) == count
        assert choose(whom, reversed(FLEET), seed) == chosen
    if count < len(FLEET):
        assert len({choose(whom, FLEET, seed) for seed in range(50)}) > 1


def test_who_has_no_label_is_the_most_critical() -> None:
    rated = [Node("a"), Node("b", ("critical=9",)), Node("c", ("critical=8",))]
    whom = target(all=True, pick="least_critical")
    assert choose(whom, rated, 1) == ("c",)
    assert choose(whom, rated[:2], 1) == ("a",)


def test_only_nodes_that_are_connected_and_free_are_picked() -> None:
    fleet = [Node("a"), Node("b", busy=True), Node("c", state="unreachable")]
    for seed in range(20):
        assert choose(target(all=True, pick="one"), fleet, seed) == ("a",)
        assert choose(target(all=True, pick="minority"), fleet, seed) == ("a",)  # 1 of 3
    with pytest.raises(NodeUnreachable, match=r"3 nodes are meant and 1 .*b \(busy\), c \(unre"):
        choose(target(all=True), fleet, 1)
    with pytest.raises(NodeUnreachable, match="2 nodes are meant"):
        choose(target(all=True, pick="majority"), fleet, 1)


def test_where_is_asked_of_those_that_match() -> None:
    leader = target(labels=["role=web"], where="role.text contains leader")
    assert choose(leader, FLEET, 1, holding={"n3", "n4"}) == ("n3",)
    with pytest.raises(InvalidInput, match="no node is one where role"):
        choose(leader, FLEET, 1, holding=())


@pytest.mark.parametrize(
    ("fields", "fleet", "says", "hint"),
    [
        ({"names": ["n9"]}, FLEET, "there is no node 'n9'", "n1, n2, n3, n4"),
        ({"labels": ["role=cache"]}, FLEET, "no node is role=cache", "role=db, role=web, zone=a"),
        ({"all": True}, (), "there is no node at all", "none"),
        ({"all": True, "pick": "random 5"}, FLEET, "random 5 of 4 nodes", "smaller pick"),
        ({"all": True, "pick": "minority"}, FLEET[:2], "no minority of 2", "three"),
        ({"all": True, "at_most": 3}, FLEET, "4 nodes match, and at_most is 3", "pick: one"),
        ({"all": True}, tuple(Node(f"x{n}") for n in range(65)), "65 nodes match", "random 2"),
    ],
)
def test_none_or_too_many_are_refused(
    fields: Mapping[str, Any], fleet: tuple[Node, ...], says: str, hint: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        choose(target(**fields), fleet, 1, name="web")
    assert caught.value.where == "targets.web"
    assert says in caught.value.what
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"all": False},
        {"all": True, "names": ["n1"]},
        {"names": ["n1", "n1"]},
        {"labels": ["web"]},
        {"all": True, "pick": "random"},
        {"all": True, "pick": "random 0"},
        {"all": True, "at_most": 0},
    ],
)
def test_what_is_no_target_is_refused(fields: Mapping[str, Any]) -> None:
    with pytest.raises(ValidationError):
        target(**fields)


@given(
    st.sets(st.sampled_from("abcdefgh"), min_size=1),
    st.sampled_from(["all", "one", "random 2", "least_critical", "minority", "majority"]),
    st.integers(),
)
def test_a_minority_and_a_majority_are_what_they_say(names: set[str], pick: str, seed: int) -> None:
    try:
        chosen = choose(target(all=True, pick=pick), map(Node, names), seed)
    except InvalidInput:
        assert len(names) < 3
        return
    assert set(chosen) <= names
    assert len(chosen) >= target(names=",".join(names), pick=pick).fewest() or pick == "all"
    if pick in ("minority", "majority"):
        assert (len(chosen) > len(names) / 2) == (pick == "majority")
