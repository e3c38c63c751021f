"""A slow link to the peers: a token bucket on an ifb beside the device's own qdisc."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, model_validator

from chaos_core.effects import Effect, Tbf
from chaos_core.envelope import Draw
from chaos_core.faults._network import DETOUR
from chaos_core.faults._shaping import ShapingFault
from chaos_core.node import NodeView
from chaos_core.units import Bandwidth, Duration

_LEAST, _MOST = Bandwidth.parse("64kbit"), Bandwidth.parse("10gbit")
_LONGEST_QUEUE = Duration.parse("2s")
# A bucket drops what it can never hold: a frame of 9,000 bytes must fit. And it must last
# from one tick of the slowest kernel clock (100 Hz) to the next, or the rate is not reached.
_LEAST_BURST = 10_000
_TICKS_PER_S = 100


def _reasonable(value: Bandwidth) -> Bandwidth:
    if not _LEAST <= value <= _MOST:
        raise ValueError(f"must be from {_LEAST} to {_MOST}")
    return value


class NetworkRate(ShapingFault):
    """What leaves for the peers (``out``), or comes from them (``in``), gets ``rate``: all
    together by interface and direction.

    tc-tbf(8), and not netem's rate: that one counts 64 KiB of TCP as one packet, so a limit
    in packets does not bound how long they wait. Here the limit is in bytes: a packet waits
    for ``queue`` at most, and is dropped when the queue is full, as at a slow router. How
    much is dropped depends on the sender alone, so this is destructive. The bucket lets
    10 kB, or what 10 ms take if that is more, pass at once.

    ``direction=in`` and ``both`` take what ``network.latency`` takes inwards.
    """

    kind = "network.rate"
    summary = "limit the bandwidth to or from chosen peers"
    lease_holder = "a set entry with a timeout, in the kernel"
    example = "peers=10.0.0.2 rate=1mbit"
    risky = True
    needs: ClassVar[tuple[str, ...]] = (*DETOUR, "ifb", "tbf")

    rate: Annotated[Bandwidth, AfterValidator(_reasonable)] = Field(
        description="bits per second, headers included, from 64kbit to 10gbit"
    )
    queue: Duration = Field(
        default=Duration.parse("100ms"),
        description="longest that a packet waits; what would wait longer is dropped",
    )

    @model_validator(mode="after")
    def _queue_holds_a_packet(self) -> NetworkRate:
        if self.queue > _LONGEST_QUEUE:
            raise ValueError(f"queue: must be at most {_LONGEST_QUEUE}")
        bucket = self._bucket()
        if bucket.limit < bucket.burst:  # what the bucket lets through undivided must fit
            need = -(-bucket.burst * 1_000 // bucket.rate)
            raise ValueError(f"queue: at {self.rate} it takes {need}ms or more to hold a packet")
        return self

    def _bucket(self) -> Tbf:
        rate = self.rate // 8
        burst = max(_LEAST_BURST, rate // _TICKS_PER_S)
        return Tbf(rate, burst, limit=rate * self.queue // 1_000_000)

    def draw(self) -> Draw:
        return Draw("destructive", latency=Duration(self.queue * self.ways()))

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        return self.both_ways(node, fault_id, self._bucket())
