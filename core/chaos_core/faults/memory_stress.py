"""Memory taken from the node in touched pages, the first to go when it runs out."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from chaos_core.effects import LINK_PREFIX, Effect, Holder
from chaos_core.envelope import Draw
from chaos_core.faults import Fault
from chaos_core.faults._fields import Share
from chaos_core.node import NodeView

# What the kernel charges to the cgroup beside the pages asked for: page tables, stacks, slab.
_SLACK_BYTES = 4 * 2**20
_SLACK_SHARE = 100  # one hundredth


class MemoryStress(Fault):
    """Anonymous memory of ``percent`` of MemTotal, capped by a cgroup, OOM-killed first."""

    kind = "memory.stress"
    summary = "take a share of the node's memory"
    lease_holder = "a SIGKILL timer of the holder's own, in the kernel; and its parent's death"
    example = "percent=10%"
    needs: ClassVar[tuple[str, ...]] = ("cgroup-memory",)

    percent: Share = Field(description="share of the node's total memory")

    def draw(self) -> Draw:
        return Draw("memory", memory=self.percent)

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        wanted = int(self.percent.fraction * node.memory_total)
        return (
            Holder(
                name=f"{LINK_PREFIX}{fault_id}",
                work="hold",
                memory=wanted,
                memory_max=wanted + wanted // _SLACK_SHARE + _SLACK_BYTES,
            ),
        )
