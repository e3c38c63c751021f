"""Memory taken from the node in touched pages, the first to go when it runs out."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from chaos_core.effects import Effect
from chaos_core.envelope import Draw
from chaos_core.faults import Fault
from chaos_core.faults._fields import OptionalShare, Ramp
from chaos_core.faults._holders import LEASE_HOLDER, memory_holder
from chaos_core.node import NodeView
from chaos_core.units import ByteSize, Duration, Percent


class MemoryStress(Fault):
    """Memory, as a share of MemTotal or in bytes; capped by a cgroup, OOM-killed first.

    Bytes are checked against the envelope by the node, which knows its total. Anonymous, or in
    the page cache as a file in memory without a name: ``Cached`` and ``Shmem`` in /proc/meminfo.
    The kernel can drop neither; they are swapped out where there is swap.
    """

    kind = "memory.stress"
    summary = "take a share of the node's memory"
    lease_holder = LEASE_HOLDER
    example = "percent=10%"
    needs: ClassVar[tuple[str, ...]] = ("cgroup-memory",)

    percent: OptionalShare = Field(
        default=Percent(0), description="share of the node's total memory"
    )
    size: ByteSize = Field(default=ByteSize(0), description="or so much, like 512MiB")
    mode: Literal["anonymous", "pagecache"] = Field(
        default="anonymous", description="what sort of memory"
    )
    ramp: Ramp = Field(default=Duration(0), description="get there evenly over this time")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if bool(self.percent) == bool(self.size):
            raise ValueError("percent: must be above 0%, or give size instead")
        return self

    def draw(self) -> Draw:
        return Draw("memory", memory=self.percent, memory_size=self.size)

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        wanted = self.size or int(self.percent.fraction * node.memory_total)
        return (
            memory_holder(
                node,
                fault_id,
                int(wanted),
                int(self.ramp),
                kind=self.kind,
                where="size",
                work="hold" if self.mode == "anonymous" else "cache",
            ),
        )
