"""Memory that goes little by little, as with a program that leaks."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, field_validator

from chaos_core.effects import Effect
from chaos_core.envelope import MAX_DURATION, Draw
from chaos_core.faults import Fault
from chaos_core.faults._fields import Share
from chaos_core.faults._holders import LEASE_HOLDER, memory_holder
from chaos_core.node import NodeView
from chaos_core.units import ByteSize

# In the longest time that a fault has, more than the holder's interpreter weighs by itself.
_LEAST = ByteSize.parse("64KiB")


class MemoryLeak(Fault):
    """Anonymous memory that grows by ``rate`` a second up to ``percent`` of MemTotal, and stays.

    The envelope counts the ceiling from the start.
    """

    kind = "memory.leak"
    summary = "take more and more memory, up to a ceiling"
    lease_holder = LEASE_HOLDER
    example = "rate=10MiB percent=10%"
    needs: ClassVar[tuple[str, ...]] = ("cgroup-memory",)

    rate: ByteSize = Field(description="growth a second, like 10MiB")
    percent: Share = Field(description="where it ends, as a share of the node's total memory")

    @field_validator("rate")
    @classmethod
    def _grows(cls, rate: ByteSize) -> ByteSize:
        if rate < _LEAST:
            raise ValueError(f"must be at least {_LEAST} a second")
        return rate

    def draw(self) -> Draw:
        return Draw("memory", memory=self.percent)

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        ceiling = int(self.percent.fraction * node.memory_total)
        reached = int(self.rate * MAX_DURATION.seconds)  # in the time that any fault has
        wanted = min(ceiling, reached)
        ramp = wanted * 1_000_000 // self.rate
        return (memory_holder(node, fault_id, wanted, ramp, kind=self.kind, where="percent"),)
