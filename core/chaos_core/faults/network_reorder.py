"""Packets that overtake others, by netem on an ifb beside the device's own qdisc."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from chaos_core.effects import Effect, Netem
from chaos_core.envelope import Draw
from chaos_core.faults._fields import Share
from chaos_core.faults._network import SHAPING, queue_limit
from chaos_core.faults._shaping import ShapingFault
from chaos_core.node import NodeView
from chaos_core.units import Duration, Percent


class NetworkReorder(ShapingFault):
    """``percent`` of the packets to (``out``) or from (``in``) a peer go on at once, all others
    ``delay`` later.

    A packet overtakes those that were sent within ``delay`` before it; with longer gaps
    between packets nothing is reordered. ``correlation`` makes those that leave at once
    come in groups. It is netem's own, which draws the share away from 50%: fewer than
    ``percent`` of less than that, and more of more.

    ``direction=in`` and ``both`` take what ``network.latency`` takes inwards.
    """

    kind = "network.reorder"
    summary = "let packets to or from chosen peers overtake others"
    lease_holder = "a set entry with a timeout, in the kernel"
    example = "peers=10.0.0.2 percent=25% delay=10ms"
    needs: ClassVar[tuple[str, ...]] = SHAPING

    percent: Share = Field(description="share of packets that leave at once")
    delay: Duration = Field(description="added to each of the others, one way")
    correlation: Percent = Field(
        default=Percent(0), description="how much a packet's fate depends on that of the one before"
    )

    @model_validator(mode="after")
    def _sensible(self) -> NetworkReorder:
        if self.percent >= 1_000_000:
            raise ValueError("percent: if all packets leave at once, none is overtaken")
        if self.delay <= 0:
            raise ValueError("delay: must be above zero")
        if self.correlation >= 1_000_000:
            raise ValueError("correlation: must be below 100%")
        return self

    def draw(self) -> Draw:
        return Draw("latency", latency=Duration(self.delay * self.ways()))

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        netem = Netem(
            delay=int(self.delay),
            reorder=int(self.percent),
            reorder_correlation=int(self.correlation),
            limit=queue_limit(self.delay),
        )
        return self.both_ways(node, fault_id, netem)
