"""Who is cut off from whom when a network falls apart: shapes of partitions, as pure data.

Shapes and names are those of Jepsen's nemesis (jepsen.nemesis: ``partition-halves``,
``bridge``, ``majorities-ring``). A cut between two nodes takes a fault on one of them
that drops both directions, so ``cuts`` names as few carriers as it can: the side of a
split that has fewer nodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from chaos_core.errors import InvalidInput

Shape = Literal["one", "halves", "majority", "minority", "ring", "bridge", "groups"]
SHAPES: tuple[Shape, ...] = get_args(Shape)

_FEWEST: Mapping[Shape, int] = {"bridge": 3, "ring": 4, "majority": 3, "minority": 3}
_GROUPS = "|"  # between groups
_NODES = "+"  # between the nodes of a group


def cuts(shape: Shape, members: Sequence[str], groups: str = "") -> dict[str, tuple[str, ...]]:
    """The nodes that carry the fault, each with those that it is cut off from.

    ``members`` are in the order in which they were named:

    - ``one``: the first is alone;
    - ``halves``: the first half, rounded down, and the rest;
    - ``majority``: the first is on the side of more than half, as small as that can be;
    - ``minority``: the first is on the side of less than half, as large as that can be;
    - ``bridge``: two halves that see each other only through the first;
    - ``ring``: each sees a majority, its nearest neighbours, and none sees the same one;
    - ``groups``: as written in ``groups``, like ``a+b|c+d``; whom it leaves out sees all.

    Raises InvalidInput when there are too few members, or the groups are not of them.
    """
    names = list(dict.fromkeys(members))
    fewest = _FEWEST.get(shape, 2)
    if len(names) < fewest:
        raise InvalidInput(
            f"topology: {shape} takes {fewest} nodes, not {len(names)}", hint="name more: -n NODE"
        )
    if (shape == "groups") != bool(groups):
        raise InvalidInput("groups: go with topology=groups", hint="like groups=a+b|c")
    n = len(names)
    match shape:
        case "one":
            return _split(names[:1], names[1:])
        case "halves":
            return _split(names[: n // 2], names[n // 2 :])
        case "majority":
            return _split(names[: n // 2 + 1], names[n // 2 + 1 :])
        case "minority":
            return _split(names[: (n - 1) // 2], names[(n - 1) // 2 :])
        case "bridge":
            rest = names[1:]
            return _split(rest[: len(rest) // 2], rest[len(rest) // 2 :])
        case "ring":
            return _ring(names)
        case "groups":
            return _split(*_read(groups, names))


def _split(*groups: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Every group is cut off from the others, by faults on all but the largest."""
    carrying = sorted(groups, key=len)
    return {
        node: tuple(other for later in carrying[number + 1 :] for other in later)
        for number, group in enumerate(carrying[:-1])
        for node in group
    }


def _ring(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Each node sees its nearest on both sides of the ring, just enough for a majority."""
    n = len(names)
    near = (n // 2 + 1) // 2  # on each side; a majority takes n // 2 others
    far: dict[str, tuple[str, ...]] = {}
    for a in range(n):
        others = [b for b in range(a + 1, n) if min(b - a, n - (b - a)) > near]
        if others:
            far[names[a]] = tuple(names[b] for b in others)
    return far


def _read(text: str, members: Sequence[str]) -> list[list[str]]:
    groups = [[name for name in part.split(_NODES) if name] for part in text.split(_GROUPS)]
    named = [name for group in groups for name in group]
    for name in named:
        if name not in members:
            raise InvalidInput(f"groups: {name!r} is not among the nodes", hint=f"-n {name}")
    if len(named) != len(set(named)):
        raise InvalidInput("groups: a node is in two of them", hint="each node in one, like a+b|c")
    if len(groups) < 2 or not all(groups):
        raise InvalidInput("groups: fewer than two", hint="like a+b|c")
    return groups
