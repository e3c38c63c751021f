"""Random loss. Egress goes through netem, since an xtables DROP would hand the sender EPERM."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from chaos_core.effects import Effect, Netem, Rule
from chaos_core.envelope import Draw
from chaos_core.faults._fields import Share
from chaos_core.faults._network import DETOUR, Direction, NetworkFault, queue_limit
from chaos_core.node import NodeView
from chaos_core.units import Percent


class NetworkLoss(NetworkFault):
    """Each packet to (``out``) or from (``in``) a peer is lost with this probability."""

    kind = "network.loss"
    summary = "lose packets to or from chosen peers"
    lease_holder = "a set entry with a timeout, in the kernel"
    example = "peers=10.0.0.2 percent=1%"
    needs: ClassVar[tuple[str, ...]] = (*DETOUR, "ifb", "netem", "statistic")

    percent: Share = Field(description="share of packets lost in each direction chosen")
    direction: Direction = Field(default="out", description="in, out or both")

    def draw(self) -> Draw:
        directions = 2 if self.direction == "both" else 1
        return Draw("loss", loss=Percent(self.percent * directions))

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        effects: tuple[Effect, ...] = self.leased_sets(node, fault_id)
        if self.direction in ("out", "both"):
            netem = Netem(loss=int(self.percent), limit=queue_limit(0))
            effects = (*effects, *self.detour(node, fault_id, netem))
        if self.direction in ("in", "both"):
            # xt_statistic draws from [0, 1); a probability of one is a plain DROP.
            share = int(self.percent) if self.percent < 1_000_000 else 0
            drop = Rule("DROP", probability=share)
            effects = (*effects, *self.filtering(node, fault_id, "in", drop))
        return effects
