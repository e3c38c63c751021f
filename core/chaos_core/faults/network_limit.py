"""So many new connections in a while, and no more."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from chaos_core.effects import Effect, Family, Rule
from chaos_core.envelope import Draw
from chaos_core.faults._network import MATCHING, Direction, NetworkFault, ways_of
from chaos_core.node import NodeView
from chaos_core.units import SECOND, Duration

_DAY = 86_400
_MOST_A_SECOND = 10_000  # xt_limit counts in steps of 0.1 ms


class NetworkLimit(NetworkFault):
    """The first ``count`` TCP connections in a ``period`` are let through, the rest are not.

    A token bucket (xt_limit): it holds ``count``, and is filled evenly at ``count`` a
    ``period``; so a long time sees that rate, and a single period at most twice as many.
    It is one bucket for all peers together, but IPv4 and IPv6 have one each, and so have
    the two directions, the node's own traffic and what it forwards, and each published port.
    Open connections go on. ``reject`` answers with a RST; after ``drop`` the caller's kernel
    tries again by itself, and each try counts as a new connection.
    """

    kind = "network.limit"
    summary = "let through only so many new connections"
    lease_holder = "a set entry with a timeout, in the kernel"
    example = "peers=10.0.0.2 ports=5432 count=5 period=10s"
    risky = True
    needs: ClassVar[tuple[str, ...]] = (*MATCHING, "xt_limit", "reject", "tcp-reset")

    count: Annotated[int, Field(ge=1, le=_MOST_A_SECOND)] = Field(
        description="connections that are let through in each period"
    )
    period: Duration = Field(default=SECOND, description="from 1s to 300s, whole seconds")
    action: Literal["reject", "drop"] = Field(
        default="reject", description="what becomes of the rest: a TCP RST, or silence"
    )
    direction: Direction = Field(
        default="out", description="out: from this node to the peers; in: from them; or both"
    )

    @model_validator(mode="after")
    def _countable(self) -> Self:
        if self.period % SECOND or not SECOND <= self.period <= 300 * SECOND:
            raise ValueError("period: must be whole seconds, from 1s to 300s")
        if self.protocol not in ("all", "tcp"):
            raise ValueError(f"protocol: {self.protocol} has no connections that can be counted")
        return self

    def draw(self) -> Draw:
        return Draw("destructive")

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        verdict = Rule("DROP") if self.action == "drop" else Rule("REJECT", reject_with="tcp-reset")
        chains = [
            chain
            for way in ways_of(self.direction)
            for chain in self.filtering(node, fault_id, way, verdict, table="filter")
        ]
        return (*self.leased_sets(node, fault_id), *chains)

    def protocols(self, family: Family) -> tuple[str, ...]:  # noqa: ARG002
        return ("tcp",)

    def matches(
        self, fault_id: str, family: Family, direction: Literal["in", "out"], verdict: Rule
    ) -> tuple[Rule, ...]:
        (rest,) = super().matches(fault_id, family, direction, replace(verdict, syn=True))
        per_day = self.count * _DAY * SECOND // self.period
        let_through = replace(
            rest, target="RETURN", reject_with="", per_day=per_day, burst=self.count
        )
        return (let_through, rest)
