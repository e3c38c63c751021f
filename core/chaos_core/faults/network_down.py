"""An interface that carries nothing any more."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from chaos_core.addresses import network
from chaos_core.effects import Effect
from chaos_core.envelope import Draw
from chaos_core.errors import Refused
from chaos_core.faults._network import DETOUR, Everywhere
from chaos_core.node import Asks, NodeView


class NetworkDown(Everywhere):
    """All packets in and out of an interface vanish, but for protected traffic.

    The link itself stays up, so that the kernel can end this alone and nothing is lost
    that a link that goes down loses: its routes, its IPv6 addresses, its neighbours. It
    differs from a pulled cable in this: nobody sees the carrier go, so routes do not move
    to another interface and bonds do not fail over; ARP and neighbour discovery are
    answered. What the node forwards vanishes too, whether it comes in here or would go out.

    Refused for an interface by which the node reaches its controller, or that an open
    SSH connection uses.
    """

    kind = "network.down"
    summary = "let nothing through an interface, in or out"
    lease_holder = "a set entry with a timeout, in the kernel"
    example = "interface=eth0"
    risky = True
    needs: ClassVar[tuple[str, ...]] = (*DETOUR, "dummy")
    direction: ClassVar[Literal["both"]] = "both"

    interface: str = Field(min_length=1, description="the interface, which must not be our own way")

    def draw(self) -> Draw:
        return Draw("destructive")

    def asks(self) -> Asks:
        return replace(super().asks(), ssh=True)

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        effects = self.here(node).cut_off(node, fault_id, "both")
        self._refuse_our_way(node)
        return effects

    def _refuse_our_way(self, node: NodeView) -> None:
        device = node.device(self.interface)
        assert device is not None  # cut_off() has refused it
        for controller in node.protected.controllers:
            if self.interface in node.way(network(controller)).devices:
                self._refuse(f"is the way to the controller {controller}")
        for near, far in node.ssh:
            if near in device.addresses or self.interface in node.way(network(far)).devices:
                self._refuse(f"carries an SSH connection from {far}")

    def _refuse(self, why: str) -> None:
        raise Refused(
            f"interface: {self.interface} {why}", where=self.kind, hint="name another interface"
        )
