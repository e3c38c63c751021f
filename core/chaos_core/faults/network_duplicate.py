"""Packets that arrive twice, by netem on an ifb beside the device's own qdisc."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from chaos_core.effects import Effect, Netem
from chaos_core.envelope import Draw
from chaos_core.faults._fields import Share
from chaos_core.faults._network import SHAPING, queue_limit
from chaos_core.faults._shaping import ShapingFault
from chaos_core.node import NodeView
from chaos_core.units import Percent


class NetworkDuplicate(ShapingFault):
    """A packet to (``out``) or from (``in``) a peer arrives twice.

    Nothing is lost, but each copy costs the network what sending a lost packet again
    costs it, and looks to TCP like the sign of a loss. So it counts as loss.

    ``direction=in`` and ``both`` take what ``network.latency`` takes inwards.
    """

    kind = "network.duplicate"
    summary = "let packets to or from chosen peers arrive twice"
    lease_holder = "a set entry with a timeout, in the kernel"
    example = "peers=10.0.0.2 percent=1%"
    needs: ClassVar[tuple[str, ...]] = SHAPING

    percent: Share = Field(description="share of packets that arrive twice; counts as loss")

    def draw(self) -> Draw:
        return Draw("loss", loss=Percent(self.percent * self.ways()))

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        # All may be sent at once and twice: the queue has to hold both.
        return self.both_ways(
            node, fault_id, Netem(duplicate=int(self.percent), limit=2 * queue_limit(0))
        )
