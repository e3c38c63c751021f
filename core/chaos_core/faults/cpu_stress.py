"""CPU taken from the whole node, never more than the cgroup quota gives."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

from pydantic import Field

from chaos_core.effects import LINK_PREFIX, Effect, Holder
from chaos_core.envelope import Draw
from chaos_core.errors import InvalidInput
from chaos_core.faults import Fault
from chaos_core.faults._fields import Ramp, Share
from chaos_core.node import NodeView
from chaos_core.units import Duration

_PERIOD_US = 100_000  # the kernel's default CFS bandwidth period
_LEAST_QUOTA_US = 1_000  # the kernel's own limit


class CpuStress(Fault):
    """Busy processes under a quota of ``percent`` of all the node's CPUs together."""

    kind = "cpu.stress"
    summary = "take a share of the whole node's CPU"
    lease_holder = "a SIGKILL timer of the burner's own, in the kernel; and its parent's death"
    example = "percent=15%"
    needs: ClassVar[tuple[str, ...]] = ("cgroup-cpu",)

    percent: Share = Field(description="share of the whole node, 100% being every CPU")
    cores: Annotated[int, Field(ge=0, le=4096)] = Field(
        default=0, description="how many cores are busy at once; 0 is as few as the share takes"
    )
    ramp: Ramp = Field(
        default=Duration(0), description="get there evenly over this time, from a tenth of a CPU on"
    )

    def draw(self) -> Draw:
        return Draw("cpu", cpu=self.percent)

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        cpus = self.percent.fraction * node.cpus
        quota = math.floor(cpus * _PERIOD_US)
        if quota < _LEAST_QUOTA_US:
            raise InvalidInput(
                f"percent: {self.percent} of {node.cpus} CPU(s) is less than a quota can be",
                where=self.kind,
                hint="1% of one CPU is the least",
            )
        if self.cores and not math.ceil(cpus) <= self.cores <= node.cpus:
            raise InvalidInput(
                f"cores: {self.percent} of {node.cpus} CPU(s) keeps {math.ceil(cpus)} to"
                f" {node.cpus} of them busy, not {self.cores}",
                where=self.kind,
            )
        return (
            Holder(
                name=f"{LINK_PREFIX}{fault_id}",
                work="burn",
                workers=self.cores or min(node.cpus, math.ceil(cpus)),
                cpu_quota=quota,
                cpu_period=_PERIOD_US,
                ramp=int(self.ramp),
            ),
        )
