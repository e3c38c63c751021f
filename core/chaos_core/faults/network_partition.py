"""Nothing reaches the peers, nothing arrives from them, or both."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from chaos_core.effects import Effect, Rule
from chaos_core.envelope import Draw
from chaos_core.faults._network import DETOUR, Direction, NetworkFault
from chaos_core.node import NodeView


class NetworkPartition(NetworkFault):
    """Cut this node from the peers.

    ``drop`` looks like a cable that was pulled: egress goes into a dummy device,
    so that the sender sees success and hears nothing. ``reject`` answers at once
    (ICMP port unreachable), as a closed port would; on egress a local UDP sender
    also gets EPERM, as from any local firewall.
    """

    kind = "network.partition"
    summary = "cut the node from chosen peers"
    lease_holder = "a set entry with a timeout, in the kernel"
    example = "peers=10.0.0.2 direction=both"
    risky = True
    needs: ClassVar[tuple[str, ...]] = (*DETOUR, "dummy", "reject")

    direction: Direction = Field(default="both", description="in, out or both")
    action: Literal["drop", "reject"] = Field(
        default="drop", description="drop silently, or reject with an ICMP error"
    )

    def draw(self) -> Draw:
        return Draw("destructive")

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        effects: tuple[Effect, ...] = self.leased_sets(node, fault_id)
        ways: tuple[Literal["in", "out"], ...] = ("in", "out")
        for way in ways:
            if self.direction not in (way, "both"):
                continue
            if self.action == "reject":
                reject = self.filtering(node, fault_id, way, Rule("REJECT"), table="filter")
                effects = (*effects, *reject)
            elif way == "out":
                effects = (*effects, *self.detour(node, fault_id, None))
            else:
                effects = (*effects, *self.filtering(node, fault_id, "in", Rule("DROP")))
        return effects
