"""Delay of packets to or from the peers, by netem on an ifb beside the device's own qdisc."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from chaos_core.distributions import Distribution, longest
from chaos_core.effects import Effect, Netem
from chaos_core.envelope import Draw
from chaos_core.faults._network import SHAPING, queue_limit
from chaos_core.faults._shaping import ShapingFault
from chaos_core.node import NodeView
from chaos_core.units import Duration, Percent

_LONGEST_JITTER = Duration.parse("2s")  # the kernel keeps it as nanoseconds in 31 bits


class NetworkLatency(ShapingFault):
    """Every packet to (``out``) or from (``in``) a peer is late by ``delay`` ± ``jitter``.

    Inwards it takes the kernel's ``em_ipset``, by which tc asks sets: so packets are chosen by
    address and at most 64 ports a side, a protocol by its ports, and an interface on which
    somebody has a filter at ingress is refused.

    With a ``distribution`` other than uniform, ``jitter`` is a deviation and the longest
    delays are beyond it: by 3.5 of them (normal), 4 (pareto) and 3.9 (paretonormal). That
    is what counts for the envelope. What would be less than no delay is none.
    """

    kind = "network.latency"
    summary = "delay packets to chosen peers"
    lease_holder = "a set entry with a timeout, in the kernel"
    example = "peers=10.0.0.2 delay=50ms"
    needs: ClassVar[tuple[str, ...]] = SHAPING

    delay: Duration = Field(description="added to each packet, one way")
    jitter: Duration = Field(
        default=Duration(0), description="spread around the delay; reorders packets"
    )
    correlation: Percent = Field(
        default=Percent(0), description="how much a packet's jitter depends on the one before"
    )
    distribution: Distribution = Field(
        default="uniform", description="how the jitter is spread around the delay"
    )

    @model_validator(mode="after")
    def _sensible(self) -> NetworkLatency:
        if self.delay <= 0:
            raise ValueError("delay: must be above zero")
        if self.jitter > self.delay:
            raise ValueError("jitter: must not be above the delay")
        if self.correlation > 1_000_000 or (self.correlation and not self.jitter):
            raise ValueError("correlation: between 0% and 100%, and only with a jitter")
        if self.jitter > _LONGEST_JITTER:
            raise ValueError(f"jitter: must be at most {_LONGEST_JITTER}")
        if self.distribution != "uniform" and not self.jitter:
            raise ValueError("distribution: only with a jitter")
        return self

    def _longest(self) -> Duration:
        return Duration(longest(self.distribution, self.delay, self.jitter))

    def draw(self) -> Draw:
        return Draw("latency", latency=Duration(self._longest() * self.ways()))

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        netem = Netem(
            delay=int(self.delay),
            jitter=int(self.jitter),
            correlation=int(self.correlation),
            distribution=self.distribution,
            limit=queue_limit(self._longest()),
        )
        return self.both_ways(node, fault_id, netem)
