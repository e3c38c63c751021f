"""Nothing reaches the peers, nothing arrives from them, or both."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from chaos_core.effects import Effect
from chaos_core.envelope import Draw
from chaos_core.errors import InvalidInput
from chaos_core.faults._network import DETOUR, Direction, NetworkFault, Peers
from chaos_core.node import NodeView
from chaos_core.topology import Shape


class NetworkPartition(NetworkFault):
    """Cut this node from the peers.

    ``drop`` looks like a cable that was pulled: egress goes into a dummy device,
    so that the sender sees success and hears nothing. ``reject`` answers at once
    (ICMP port unreachable), as a closed port would; on egress a local UDP sender
    also gets EPERM, as from any local firewall. It stands in the tables' ``filter`` INPUT,
    OUTPUT and FORWARD.

    With a ``topology`` the nodes of the run are cut off from each other, and those on the
    smaller side carry the fault: ``one`` (the first node is alone), ``halves``, ``majority``
    or ``minority`` (what the first node is in), ``bridge`` (two halves that see each other
    only through the first), ``ring`` (each sees another majority), ``groups``.
    """

    kind = "network.partition"
    summary = "cut the node from chosen peers"
    lease_holder = "a set entry with a timeout, in the kernel"
    example = "peers=10.0.0.2 direction=both"
    risky = True
    needs: ClassVar[tuple[str, ...]] = (*DETOUR, "dummy", "reject")

    peers: Peers = Field(
        default=(),
        description="the other side: addresses, CIDRs, host names, nodes or labels (role=db)",
    )
    topology: Shape | Literal[""] = Field(
        default="", description="instead of peers: how the nodes of the run fall apart"
    )
    groups: Annotated[str, Field(max_length=1000)] = Field(
        default="", description="for topology=groups: like n1+n2|n3"
    )
    direction: Direction = Field(default="both", description="in, out or both")
    action: Literal["drop", "reject"] = Field(
        default="drop", description="drop silently, or reject with an ICMP error"
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if bool(self.peers) == bool(self.topology):
            raise ValueError("give either peers or a topology, like peers=10.0.0.2")
        if self.groups and self.topology != "groups":
            raise ValueError("groups: go with topology=groups")
        return self

    def draw(self) -> Draw:
        return Draw("destructive")

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        if self.topology:
            raise InvalidInput(
                "topology: only the controller, which knows the nodes, makes peers of it",
                where=self.kind,
                hint="give peers here",
            )
        return self.cut_off(node, fault_id, self.direction, reject=self.action == "reject")
