"""Whom a scenario means: which of the fleet's nodes a target stands for. Pure.

A target says who may be meant (``names``, ``labels`` or ``all``) and ``pick`` says which of
them are. How much a node matters is said by its own label ``critical=0`` (nothing) to
``critical=9`` (everything); one without that label counts as 9, so that ``least_critical``
never takes what nobody has thought about while there is something else.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from chaos_core.errors import InvalidInput, NodeUnreachable

MAX_NODES: Final = 64
CONNECTED: Final = "connected"
_MOST_CRITICAL: Final = 9
_LABEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}=[A-Za-z0-9._-]{1,63}")
_PICK = re.compile(r"all|one|least_critical|minority|majority|random [1-9][0-9]?")
_PICKS: Final = "all, one, random 2, least_critical, minority or majority"


def _label(text: str) -> str:
    if not _LABEL.fullmatch(text):
        raise ValueError(f"{text!r} is not a label like role=web")
    return text


def _pick(text: str) -> str:
    text = " ".join(text.split())
    if not _PICK.fullmatch(text):
        raise ValueError(f"{text!r} is not one of: {_PICKS}")
    return text


def listed(value: Any) -> Any:
    """A list may be written as one text, ``a, b``."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def texts(item: str) -> WithJsonSchema:
    """The JSON Schema of a list of texts that may be written as one."""
    return WithJsonSchema(
        {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
        | {"examples": [[item]]}
    )


class Target(BaseModel):
    """Some nodes, and which of them are meant."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    names: Annotated[tuple[str, ...], BeforeValidator(listed), texts("n1")] = Field(
        default=(), max_length=MAX_NODES, description="nodes by name"
    )
    labels: Annotated[
        tuple[Annotated[str, AfterValidator(_label)], ...],
        BeforeValidator(listed),
        texts("role=web"),
    ] = Field(default=(), max_length=16, description="nodes that have all of these labels")
    all: bool = Field(default=False, description="every node")
    pick: Annotated[str, AfterValidator(_pick)] = Field(
        default="all", description=f"which of them: {_PICKS}"
    )
    where: str = Field(
        default="",
        description="only those where this holds, of a probe that looks at each node:"
        " `role.text contains leader`",
    )
    at_most: int | None = Field(
        default=None,
        ge=1,
        le=MAX_NODES,
        description="refuse when more nodes than this would be hit",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if sum(map(bool, (self.names, self.labels, self.all))) != 1:
            raise ValueError("give one of names, labels or `all: true`")
        if len(set(self.names)) != len(self.names):
            raise ValueError("names: a node is named twice")
        return self

    def fewest(self) -> int:
        """How many nodes it stands for at the least."""
        if self.pick.startswith("random"):
            return int(self.pick.split()[1])
        if self.pick in ("all", "majority", "minority") and not self.where:
            named = max(1, len(self.names))
            return {"all": named, "majority": named // 2 + 1, "minority": max(1, (named - 1) // 2)}[
                self.pick
            ]
        return 1

    def __str__(self) -> str:
        whom = ", ".join(self.names) or " ".join(self.labels) or "every node"
        pick = "" if self.pick == "all" else f", {self.pick.replace('_', ' ')}"
        return f"{whom}{pick}{f', where {self.where}' if self.where else ''}"


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the fleet. ``state`` is the controller's word; ``busy``: it carries a fault."""

    name: str
    labels: tuple[str, ...] = ()
    state: str = CONNECTED
    busy: bool = False

    @property
    def fit(self) -> bool:
        return self.state == CONNECTED and not self.busy

    @property
    def critical(self) -> int:
        """0 to 9, from its label."""
        found = [text[9:] for text in self.labels if re.fullmatch(r"critical=[0-9]", text)]
        return int(found[0]) if found else _MOST_CRITICAL


def choose(
    target: Target,
    nodes: Iterable[Node],
    seed: int,
    *,
    name: str = "",
    holding: Collection[str] | None = None,
) -> tuple[str, ...]:
    """The names of the nodes that ``target`` stands for, sorted; the same for the same seed.

    ``holding`` are the nodes where ``where`` holds. ``minority`` and ``majority`` count all
    that match, also those that cannot be reached. Raises InvalidInput when no node or too many
    match, NodeUnreachable when too few of them are connected and free.
    """
    where = f"targets.{name}" if name else ""
    fleet = sorted(nodes, key=lambda node: node.name)
    found = _matching(target, fleet, where)
    if target.where:
        found = [node for node in found if holding is not None and node.name in holding]
        if not found:
            raise InvalidInput(f"no node is one where {target.where}", where=where)
    count = _count(target.pick, len(found), where)
    fit = [node for node in found if node.fit]
    if len(fit) < count:
        away = ", ".join(f"{n.name} ({'busy' if n.busy else n.state})" for n in found if not n.fit)
        raise NodeUnreachable(
            f"{count} nodes are meant and {len(fit)} are connected and free; not {away}",
            where=where,
            hint="chaosctl nodes",
        )
    if target.at_most is not None and count > target.at_most:
        raise InvalidInput(
            f"{count} nodes match, and at_most is {target.at_most}",
            where=where,
            hint="name fewer labels' nodes, or pick: one",
        )
    if target.pick == "least_critical":
        fit.sort(key=lambda node: (node.critical, node.name))
        chosen: Sequence[Node] = fit[:1]
    else:
        # Anybody may know the seed: it makes a run repeatable.
        chosen = random.Random(seed).sample(fit, count)  # noqa: S311
    return tuple(sorted(node.name for node in chosen))


def _matching(target: Target, fleet: Sequence[Node], where: str) -> list[Node]:
    by_name = {node.name: node for node in fleet}
    unknown = [name for name in target.names if name not in by_name]
    if unknown:
        known = ", ".join(list(by_name)[:20]) or "none"
        raise InvalidInput(
            f"there is no node {unknown[0]!r}", where=where, hint=f"the nodes are: {known}"
        )
    found = [
        node
        for node in fleet
        if target.all
        or node.name in target.names
        or (target.labels and set(target.labels) <= set(node.labels))
    ]
    if not found:
        labels = ", ".join(sorted({text for node in fleet for text in node.labels})[:20])
        raise InvalidInput(
            f"no node is {target}" if fleet else "there is no node at all",
            where=where,
            hint=f"labels that exist: {labels or 'none'}",
        )
    return found


def _count(pick: str, matching: int, where: str) -> int:
    if pick in ("one", "least_critical"):
        return 1
    if pick == "all":
        count = matching
    elif pick == "majority":
        count = matching // 2 + 1
    elif pick == "minority":
        count = (matching - 1) // 2
    else:
        count = int(pick.split()[1])
    if not 0 < count <= matching:
        raise InvalidInput(
            f"there is no {pick} of {matching} nodes"
            if pick == "minority"
            else f"{pick} of {matching} nodes",
            where=where,
            hint="a minority takes three"
            if pick == "minority"
            else "more nodes, or a smaller pick",
        )
    if count > MAX_NODES:
        raise InvalidInput(
            f"{count} nodes match, more than {MAX_NODES}", where=where, hint="random 2, or labels"
        )
    return count
