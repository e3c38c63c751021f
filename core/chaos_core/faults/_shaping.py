"""What faults by netem and token buckets share: a detour of packets on their way out or in."""

from __future__ import annotations

from abc import ABC
from typing import Self

from pydantic import Field, model_validator

from chaos_core.effects import Effect, Netem, Tbf
from chaos_core.faults._network import Direction, NetworkFault, each_port, ways_of
from chaos_core.node import NodeView

_MOST_PORTS = 64  # each is up to four entries of a set


class ShapingFault(NetworkFault, ABC):
    """A network fault of the detour, in the directions asked for.

    Inwards it takes the kernel's ``em_ipset``, by which tc asks sets: so packets are chosen by
    address and at most 64 ports a side, a protocol by its ports, and an interface on which
    somebody has a filter at ingress is refused.
    """

    direction: Direction = Field(
        default="out", description="in, out or both; in and both: a protocol only with ports"
    )

    @model_validator(mode="after")
    def _tellable_inwards(self) -> Self:
        if self.inward():
            if self.scope == "host":
                raise ValueError(
                    "scope: host goes with direction=out only, since packets make the detour"
                    " inwards before the kernel knows whether it forwards them"
                )
            sides = (each_port(self.ports), each_port(self.local_ports))
            if max(map(len, sides)) > _MOST_PORTS:
                raise ValueError(f"direction: in and both go with at most {_MOST_PORTS} ports")
            if self.protocol != "all" and not any(sides):
                raise ValueError(
                    "direction: in and both go with a protocol by its ports only,"
                    " since tc asks sets, which know it by port"
                )
        return self

    def inward(self) -> bool:
        """Whether packets make the detour when they come in."""
        return self.direction != "out"

    def ways(self) -> int:
        """In how many directions a round trip is hit."""
        return len(ways_of(self.direction))

    def both_ways(self, node: NodeView, fault_id: str, through: Netem | Tbf) -> tuple[Effect, ...]:
        """All that it takes to send what goes in the directions asked for ``through`` that."""
        inward, outward = self.direction != "out", self.direction != "in"
        effects: tuple[Effect, ...] = ()
        if inward or node.backend == "xtables":
            effects = self.leased_sets(node, fault_id, "xtables")
        if outward and node.backend != "xtables":
            effects = (*effects, *self.leased_sets(node, fault_id))
        if inward:
            effects = (*effects, *self.inlet(node, fault_id, through))
        if outward:
            effects = (*effects, *self.detour(node, fault_id, through))
        return effects
