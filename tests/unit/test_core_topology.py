"""Shapes of partitions: who still sees whom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos_core.errors import InvalidInput
from chaos_core.topology import SHAPES, Shape, cuts

SIZES = st.integers(4, 40)


def seen(shape: Shape, n: int, groups: str = "") -> dict[str, set[str]]:
    """Whom each of n nodes sees, itself included, when a cut on one side cuts both."""
    names = [f"n{i}" for i in range(n)]
    sees = {name: set(names) for name in names}
    for carrier, others in cuts(shape, names, groups).items():
        for other in others:
            sees[carrier].discard(other)
            sees[other].discard(carrier)
    return sees


def sides(shape: Shape, n: int) -> list[int]:
    """The sizes of the sides of a split, that of the first node first."""
    sees = seen(shape, n)
    for name, mine in sees.items():
        assert all(sees[other] == mine for other in mine), name
    first = sees["n0"]
    return [len(first), n - len(first)]


@given(SIZES)
def test_splits_have_the_sides_that_their_names_say(n: int) -> None:
    assert sides("one", n) == [1, n - 1]
    assert sides("halves", n) == [n // 2, n - n // 2]
    majority, minority = sides("majority", n), sides("minority", n)
    assert majority[0] > n / 2 >= majority[0] - 1
    assert minority[0] < n / 2 <= minority[0] + 1


@given(SIZES)
def test_a_bridge_sees_all_and_its_banks_only_it(n: int) -> None:
    sees = seen("bridge", n)
    assert len(sees["n0"]) == n
    left = sees["n1"] - {"n0"}
    assert len(left) == (n - 1) // 2
    for name in left:
        assert sees[name] == left | {"n0"}
    for name in sees.keys() - left - {"n0"}:
        assert sees[name] == sees.keys() - left


@given(SIZES)
def test_on_a_ring_each_sees_a_majority_and_none_the_same(n: int) -> None:
    sees = seen("ring", n)
    assert all(n / 2 < len(mine) < n for mine in sees.values())
    assert len({frozenset(mine) for mine in sees.values()}) == n


def test_groups_are_as_written_and_the_rest_sees_all() -> None:
    sees = seen("groups", 5, "n0+n1|n2|n3")
    assert sees["n0"] == sees["n1"] == {"n0", "n1", "n4"}
    assert sees["n2"] == {"n2", "n4"}
    assert len(sees["n4"]) == 5


@given(SIZES, st.sampled_from([shape for shape in SHAPES if shape not in ("ring", "groups")]))
def test_no_more_than_half_carry_the_fault(n: int, shape: Shape) -> None:
    carried = cuts(shape, [f"n{i}" for i in range(n)])
    assert 0 < len(carried) <= n // 2
    assert all(node not in others for node, others in carried.items())


@pytest.mark.parametrize(
    ("shape", "members", "groups", "why"),
    [
        ("halves", ["a"], "", "takes 2 nodes, not 1"),
        ("halves", ["a", "a"], "", "takes 2 nodes, not 1"),
        ("bridge", ["a", "b"], "", "takes 3"),
        ("ring", ["a", "b", "c"], "", "takes 4"),
        ("groups", ["a", "b"], "", "go with"),
        ("halves", ["a", "b"], "a|b", "go with"),
        ("groups", ["a", "b"], "a|c", "'c' is not among"),
        ("groups", ["a", "b"], "a+b|b", "in two"),
        ("groups", ["a", "b"], "a+b", "fewer than two"),
        ("groups", ["a", "b"], "a|", "fewer than two"),
    ],
)
def test_what_cannot_be_a_partition_is_refused(
    shape: Shape, members: list[str], groups: str, why: str
) -> None:
    with pytest.raises(InvalidInput, match=why):
        cuts(shape, members, groups)
