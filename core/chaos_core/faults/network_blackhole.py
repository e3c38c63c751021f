"""Ports from which nothing comes back, wherever they are."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from chaos_core.effects import Effect
from chaos_core.envelope import Draw
from chaos_core.faults._network import DETOUR, Direction, Everywhere
from chaos_core.node import NodeView


class NetworkBlackhole(Everywhere):
    """Packets to and from some ports vanish, at all peers but protected ones, or at chosen ones.

    ``ports`` are those of the other side (a database that this node calls),
    ``local_ports`` this node's own (a service that others call); with both, only what
    matches both. Senders see what they see behind a firewall that drops: nothing, until
    they give up.
    """

    kind = "network.blackhole"
    summary = "swallow all packets of chosen ports"
    lease_holder = "a set entry with a timeout, in the kernel"
    example = "ports=5432"
    risky = True
    needs: ClassVar[tuple[str, ...]] = (*DETOUR, "dummy")

    direction: Direction = Field(default="both", description="in, out or both")

    @model_validator(mode="after")
    def _which(self) -> Self:
        if not (self.ports or self.local_ports):
            raise ValueError("ports: which? give ports or local_ports")
        return self

    def draw(self) -> Draw:
        return Draw("destructive")

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        return self.here(node).cut_off(node, fault_id, self.direction)
