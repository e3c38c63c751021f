"""Names that this node cannot look up."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from chaos_core.effects import Effect, Family, Rule
from chaos_core.envelope import Draw
from chaos_core.faults._network import DETOUR, Everywhere, TextList
from chaos_core.node import NodeView

_MAX_NAMES = 8  # each is up to four rules for an interface
_MAX_WIRE = 120  # xt_string looks for 128 bytes at most
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII | re.IGNORECASE)
# The end of a query's header, RFC 1035 section 4.1.1: no authority records, and none or one
# additional record, which is EDNS's OPT. So what follows is the question, and all of its name.
_BEFORE_A_QUESTION = (bytes([0, 0, 0, 0]), bytes([0, 0, 0, 1]))


def _names(value: tuple[str, ...]) -> tuple[str, ...]:
    if not 0 < len(value) <= _MAX_NAMES:
        raise ValueError(f"name 1 to {_MAX_NAMES}, for example names=db.example.com")
    names = [text.lower().removesuffix(".") for text in value]
    for name in names:
        if not all(map(_LABEL.fullmatch, name.split("."))) or len(name) > _MAX_WIRE - 2:
            raise ValueError(
                f"{name!r} is not a name of at most {_MAX_WIRE - 2} letters, digits and hyphens"
                " (others in their xn-- form)"
            )
    return tuple(dict.fromkeys(names))


class NetworkDns(Everywhere):
    """Queries for some names get no answer, whichever resolver is asked: lookups time out.

    What vanishes are packets that leave this node for port 53, by UDP or TCP, and ask for one
    of the names. A resolver on the node itself (127.0.0.53) is not cut off: it answers what it
    has in its cache, and its own queries for the rest get no answer. Not seen: names in
    /etc/hosts, DNS over TLS or HTTPS, and ``name.search.domain``, which resolv.conf may
    add and which is another name.
    """

    kind = "network.dns"
    summary = "let lookups of chosen names time out"
    lease_holder = "a set entry with a timeout, in the kernel"
    example = "names=db.example.com"
    risky = True
    needs: ClassVar[tuple[str, ...]] = (*DETOUR, "dummy", "xt_string")

    names: Annotated[TextList, AfterValidator(_names)] = Field(
        description="names that are asked for, at most 8"
    )
    subdomains: bool = Field(default=False, description="and all names that end in one of them")
    ports: TextList = Field(default=("53",), description="the resolvers' ports")

    @model_validator(mode="after")
    def _asked_by(self) -> Self:
        if not self.ports:
            raise ValueError("ports: resolvers are asked at a port")
        return self

    def draw(self) -> Draw:
        return Draw("destructive")

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        resolvers = self.here(node)
        return (*resolvers.leased_sets(node, fault_id), *resolvers.detour(node, fault_id, None))

    def matches(
        self, fault_id: str, family: Family, direction: Literal["in", "out"], verdict: Rule
    ) -> tuple[Rule, ...]:
        return tuple(
            replace(rule, text=text.hex())
            for rule in super().matches(fault_id, family, direction, verdict)
            for name in self.names
            for text in self._texts(name)
        )

    def _texts(self, name: str) -> tuple[bytes, ...]:
        """What a packet that asks for it holds: labels after their lengths, RFC 1035 3.1."""
        labels = [label.encode() for label in name.split(".")]
        wire = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
        return (wire,) if self.subdomains else tuple(head + wire for head in _BEFORE_A_QUESTION)
