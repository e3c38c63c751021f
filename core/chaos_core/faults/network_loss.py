"""Lost packets. Egress goes through netem, since an xtables DROP would hand the sender EPERM."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from chaos_core.effects import Effect, GilbertElliott, Netem, Rule
from chaos_core.envelope import Draw
from chaos_core.faults._fields import Share
from chaos_core.faults._network import SHAPING, Direction, queue_limit
from chaos_core.faults._shaping import ShapingFault
from chaos_core.node import NodeView
from chaos_core.units import Percent

_ALL = 1_000_000
_LEAST_TO_GOOD = 10_000  # 1 %: the bad state lasts for 100 packets on average, at most


class NetworkLoss(ShapingFault):
    """Packets to (``out``) or from (``in``) a peer are lost, in one of three ways.

    - ``percent``: each with this probability. With ``correlation``, more of them follow
      one another while the share stays the same.
    - ``p`` and ``r``, with ``loss_in_bad`` and ``loss_in_good``: the Gilbert-Elliott model
      as in tc-netem(8). It is the long-run mean that counts as loss.
    - ``every``: each n-th packet, counted by interface, protocol and published port; inwards,
      what the node forwards is counted apart.

    With ``correlation`` or ``p``, ``direction=in`` and ``both`` take what ``network.latency``
    takes inwards.
    """

    kind = "network.loss"
    summary = "lose packets to or from chosen peers"
    lease_holder = "a set entry with a timeout, in the kernel"
    example = "peers=10.0.0.2 percent=1%"
    needs: ClassVar[tuple[str, ...]] = (*SHAPING, "statistic")

    percent: Annotated[
        Share | None, Field(description="share of packets lost in each direction chosen")
    ] = None
    correlation: Percent = Field(
        default=Percent(0), description="of one packet's loss with the next one's; needs percent"
    )
    p: Annotated[
        Share | None, Field(description="probability to go from the good to the bad state")
    ] = None
    r: Annotated[
        Share | None,
        Field(description="probability to go back; 1% or more, so that bursts are short"),
    ] = None
    loss_in_bad: Annotated[
        Share | None, Field(description="1-h: packets lost in the bad state; needs p (100%)")
    ] = None
    loss_in_good: Annotated[
        Share | None, Field(description="1-k: packets lost in the good state; needs p (0%)")
    ] = None
    every: Annotated[
        int | None, Field(ge=2, le=10_000, description="every n-th packet is lost")
    ] = None
    direction: Direction = Field(default="out", description="in, out or both")

    @model_validator(mode="after")
    def _one_way_to_lose(self) -> NetworkLoss:
        ways = [self.percent, self.p, self.every]
        if sum(way is not None for way in ways) != 1:
            raise ValueError("give one of percent, every, or p with r")
        if (self.p is None) != (self.r is None):
            raise ValueError("r: goes with p, and p with r")
        if self.p is None and (self.loss_in_bad, self.loss_in_good) != (None, None):
            raise ValueError("loss_in_bad, loss_in_good: only with p and r")
        if self.correlation and self.percent is None:
            raise ValueError("correlation: only with percent")
        bursts = self._bursts()
        if bursts is None:
            return self
        if bursts.to_good < _LEAST_TO_GOOD:
            field = "correlation" if self.correlation else "r"
            raise ValueError(f"{field}: bursts would be of more than 100 packets on average")
        if not bursts.to_bad:
            raise ValueError("correlation: too close to 100% for so small a percent")
        if bursts.loss_in_good > bursts.loss_in_bad:
            raise ValueError("loss_in_good: must not be above loss_in_bad")
        return self

    def _bursts(self) -> GilbertElliott | None:
        """The chain of two states, if losses depend on one another.

        A correlated loss of share s is Gilbert's model (all is lost in the bad state) with
        p + r = 1 - correlation and p / (p + r) = s. netem's own correlation is not used: it
        averages random numbers, which are then seldom small, so that 10 % at a correlation
        of 25 % are about 2 %.
        """
        if self.p is not None and self.r is not None:
            bad = Percent(_ALL) if self.loss_in_bad is None else self.loss_in_bad
            return GilbertElliott(int(self.p), int(self.r), int(bad), int(self.loss_in_good or 0))
        if self.percent is None or not self.correlation:
            return None
        apart = Fraction(max(0, _ALL - self.correlation), _ALL)
        return GilbertElliott(int(self.percent * apart), ceil((_ALL - self.percent) * apart))

    def _mean(self) -> Percent:
        """The share that is lost in the long run, rounded up.

        Of the chain it is the mean over its stationary distribution: r/(p+r) good and
        p/(p+r) bad (Gilbert, Bell System Technical Journal 39, 1960; Elliott, 42, 1963). It
        starts in the good state, so that the mean is never above that before.
        """
        if self.every is not None:
            return Percent(ceil(Fraction(_ALL, self.every)))
        if self.percent is not None:
            return self.percent
        chain = self._bursts()
        assert chain is not None
        lost = chain.to_good * chain.loss_in_good + chain.to_bad * chain.loss_in_bad
        return Percent(ceil(Fraction(lost, chain.to_bad + chain.to_good)))

    def draw(self) -> Draw:
        return Draw("loss", loss=Percent(self._mean() * self.ways()))

    def inward(self) -> bool:
        """Losses that do not depend on one another are made by xtables."""
        return super().inward() and self._bursts() is not None

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        every, bursts = self.every or 0, self._bursts()
        if bursts:
            return self.both_ways(node, fault_id, Netem(bursts=bursts, limit=queue_limit(0)))
        effects: tuple[Effect, ...] = self.leased_sets(node, fault_id)
        if self.direction in ("out", "both"):
            # Of every n-th packet only those n-th make the detour, and none comes back.
            share = _ALL if every else int(self.percent or 0)
            netem = Netem(loss=share, limit=queue_limit(0))
            effects = (*effects, *self.detour(node, fault_id, netem, every))
        if self.direction in ("in", "both"):
            # xt_statistic draws from [0, 1); a probability of one is a plain DROP.
            share = int(self.percent or 0)
            drop = Rule("DROP", probability=share if share < _ALL else 0, every=every)
            effects = (*effects, *self.filtering(node, fault_id, "in", drop))
        return effects
