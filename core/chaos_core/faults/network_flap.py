"""A link that comes and goes."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from chaos_core.effects import Effect, LeasedSet, PulsedSet
from chaos_core.faults._fields import Share
from chaos_core.faults.network_partition import NetworkPartition
from chaos_core.node import NodeView
from chaos_core.units import SECOND, Duration


class NetworkFlap(NetworkPartition):
    """A partition by turns: the peers are out of reach for ``down``, then in reach for ``up``.

    It starts with ``down`` and goes on until the end; the fault is in force while the
    pattern runs, also when the peers are in reach. Instead of ``down`` and ``up``:
    ``share`` of each ``period``. No span is shorter than 1 s, which is what the kernel's
    sets can count. If the agent dies, the peers come into reach with the lease or within
    a second of the end of the span, whichever is first, and stay so.
    """

    kind = "network.flap"
    summary = "cut the node from chosen peers, on and off"
    lease_holder = NetworkPartition.lease_holder
    example = "peers=10.0.0.2 down=2s up=3s"
    risky = True
    needs: ClassVar[tuple[str, ...]] = NetworkPartition.needs

    down: Duration = Field(default=Duration(0), description="out of reach for so long, at least 1s")
    up: Duration = Field(default=Duration(0), description="then in reach for so long, at least 1s")
    share: Share | None = Field(default=None, description="instead: out of reach for this share")
    period: Duration = Field(
        default=Duration.parse("10s"), description="with share: of each such time"
    )

    @model_validator(mode="after")
    def _pattern(self) -> Self:
        if bool(self.down or self.up) == (self.share is not None):
            raise ValueError("down: give either down and up, or share")
        for name, span in zip(("down", "up"), self._spans(), strict=True):
            if span < SECOND:
                raise ValueError(
                    f"{name}: {span} is shorter than 1s, the least that the kernel's sets can count"
                )
        return self

    def _spans(self) -> tuple[Duration, Duration]:
        if self.share is None:
            return self.down, self.up
        down = Duration(self.period * self.share // 1_000_000)
        return down, Duration(self.period - down)

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        down, up = map(int, self._spans())
        return tuple(
            PulsedSet(
                *(effect.name, effect.family, effect.entries, node.now, down, up, effect.backend)
            )
            if isinstance(effect, LeasedSet)
            else effect
            for effect in super().compile(node, fault_id)
        )
