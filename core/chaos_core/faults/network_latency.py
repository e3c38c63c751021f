"""Delay of what leaves for the peers, by netem on an ifb beside the device's own qdisc."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from chaos_core.effects import Effect, Netem
from chaos_core.envelope import Draw
from chaos_core.faults._network import DETOUR, NetworkFault, queue_limit
from chaos_core.node import NodeView
from chaos_core.units import Duration, Percent


class NetworkLatency(NetworkFault):
    """Every packet to a peer leaves ``delay`` later, give or take ``jitter``."""

    kind = "network.latency"
    summary = "delay packets to chosen peers"
    lease_holder = "a set entry with a timeout, in the kernel"
    example = "peers=10.0.0.2 delay=50ms"
    needs: ClassVar[tuple[str, ...]] = (*DETOUR, "ifb", "netem")

    delay: Duration = Field(description="added to each packet, one way")
    jitter: Duration = Field(
        default=Duration(0), description="spread around the delay, uniform; reorders packets"
    )
    correlation: Percent = Field(
        default=Percent(0), description="how much a packet's jitter depends on the one before"
    )

    @model_validator(mode="after")
    def _sensible(self) -> NetworkLatency:
        if self.delay <= 0:
            raise ValueError("delay: must be above zero")
        if self.jitter > self.delay:
            raise ValueError("jitter: must not be above the delay")
        if self.correlation > 1_000_000 or (self.correlation and not self.jitter):
            raise ValueError("correlation: between 0% and 100%, and only with a jitter")
        return self

    def draw(self) -> Draw:
        return Draw("latency", latency=Duration(self.delay + self.jitter))

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        netem = Netem(
            delay=int(self.delay),
            jitter=int(self.jitter),
            correlation=int(self.correlation),
            limit=queue_limit(self.delay + self.jitter),
        )
        return (*self.leased_sets(node, fault_id), *self.detour(node, fault_id, netem))
