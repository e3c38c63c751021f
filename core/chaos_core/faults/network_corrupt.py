"""Bits that flip on the way, by netem on an ifb beside the device's own qdisc."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from chaos_core.effects import Effect, Netem
from chaos_core.envelope import Draw
from chaos_core.faults._fields import Share
from chaos_core.faults._network import SHAPING, NetworkFault, queue_limit
from chaos_core.node import NodeView


class NetworkCorrupt(NetworkFault):
    """One bit of a packet to a peer is flipped, anywhere from the link's header on.

    A receiver throws away what fails a checksum, so this is loss, at most: a flip that
    no checksum covers (a MAC's, IPv6's hop limit, UDP without a checksum) gets through. It
    is done on the way out only: on the way in, a network card that has checked the sum
    already would let every flip through, to the application.
    """

    kind = "network.corrupt"
    summary = "flip a bit in packets to chosen peers"
    lease_holder = "a set entry with a timeout, in the kernel"
    example = "peers=10.0.0.2 percent=1%"
    needs: ClassVar[tuple[str, ...]] = SHAPING

    percent: Share = Field(description="share of packets in which one bit is flipped")

    def draw(self) -> Draw:
        return Draw("loss", loss=self.percent)

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        netem = Netem(corrupt=int(self.percent), limit=queue_limit(0))
        return (*self.leased_sets(node, fault_id), *self.detour(node, fault_id, netem))
