"""A service that gets less CPU time than it wants."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from chaos_core.effects import Effect
from chaos_core.errors import InvalidInput
from chaos_core.faults._limits import NO_OP, UNLIMITED, LimitFault
from chaos_core.faults._timed import timed
from chaos_core.node import NodeView
from chaos_core.units import Percent

_PERIOD_US = 100_000  # the kernel's default
_LEAST_QUOTA_US = 1_000  # min_cfs_quota_period, kernel/sched/core.c


def _enough(value: Percent) -> Percent:
    if value.fraction * _PERIOD_US < _LEAST_QUOTA_US:
        raise ValueError("must be at least 1%, the least that the kernel can enforce")
    return value


class CpuThrottle(LimitFault):
    """The service's processes together get at most so much CPU time (``cpu.max``).

    As in systemd's ``CPUQuota=``, 100 % is all of one CPU.
    """

    kind = "cpu.throttle"
    summary = "cap a service's CPU time"
    example = "unit=nginx percent=20%"
    needs: ClassVar[tuple[str, ...]] = ("systemd", "limit-cpu")
    file = "cpu.max"

    percent: Annotated[Percent, AfterValidator(_enough)] = Field(
        description="of one CPU, as CPUQuota=: 200% are two CPUs"
    )

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        before = self.group(node).files[self.file]
        quota, period = before.split()
        has = Fraction(node.cpus) if quota == UNLIMITED else Fraction(int(quota), int(period))
        if Fraction(int(self.percent), 1_000_000) >= has:
            raise InvalidInput(
                f"percent: {self.unit} has no more than {float(has):.0%} of one CPU, {NO_OP}",
                where=self.kind,
            )
        value = f"{int(self.percent) * _PERIOD_US // 1_000_000} {_PERIOD_US}"
        return timed(node, fault_id, self.limited(node, before, value))
