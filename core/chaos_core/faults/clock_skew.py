"""A wall clock that is wrong."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from chaos_core.effects import ClockShift, Effect, Unit
from chaos_core.envelope import Draw
from chaos_core.errors import InvalidInput, Refused
from chaos_core.faults import Fault
from chaos_core.faults._timed import LEASE_HOLDER, timed
from chaos_core.node import Asks, NodeView
from chaos_core.units import MILLISECOND, Duration

TIME_DAEMONS = tuple(
    f"{name}.service"
    for name in ("systemd-timesyncd", "chrony", "chronyd", "ntp", "ntpd", "ntpsec", "openntpd")
)
_LEAST, _MOST = Duration(10 * MILLISECOND), Duration.parse("1h")
_SIGNED = re.compile(r"([+-])(.+)")


def _offset(value: str) -> str:
    found = _SIGNED.fullmatch(value.strip())
    if not found:
        raise ValueError(f"{value!r} has no sign: write +10m (fast) or -90s (slow)")
    try:
        length = Duration.parse(found[2])
    except InvalidInput as error:
        raise ValueError(f"{error.what} ({error.hint})") from None
    if not _LEAST <= length <= _MOST:
        raise ValueError(f"must be {_LEAST} to {_MOST}, either way")
    return f"{found[1]}{length}"


Offset = Annotated[str, AfterValidator(_offset)]


class ClockSkew(Fault):
    """CLOCK_REALTIME jumps by ``offset``, and at the end by the same back.

    Time goes on meanwhile, and what passed stays: the clock is as right afterwards as it
    was. Known time daemons are stopped before and started after; another that corrects
    the clock (a hypervisor's agent) ends the fault as disturbed. Leases, durations and
    systemd's monotonic timers run by clocks that do not jump. Certificates do: one of the
    link's own that is not valid at the wrong time shows when the link has to connect anew,
    and then no lease is renewed and the fault is over. Do not cut the power: a kernel that
    keeps the hardware clock in step may have written the wrong time to it.
    """

    kind = "clock.skew"
    summary = "make the wall clock jump, and back at the end"
    lease_holder = LEASE_HOLDER
    example = "offset=+10m"
    risky = True
    needs: ClassVar[tuple[str, ...]] = ("systemd", "clock")

    offset: Offset = Field(description="+10m is fast, -90s is slow; 10ms to 1h")

    @property
    def microseconds(self) -> int:
        """The step, signed."""
        length = int(Duration.parse(self.offset[1:]))
        return -length if self.offset[0] == "-" else length

    def draw(self) -> Draw:
        return Draw("destructive")

    def asks(self) -> Asks:
        return Asks(units=TIME_DAEMONS, clock=True)

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        assert node.clock is not None, "it was asked for"
        daemons = {unit.id: unit for unit in node.units.values() if unit.active}
        for unit in daemons.values():
            if unit.frozen or unit.dependents:
                why = "is frozen" if unit.frozen else f"takes {', '.join(unit.dependents)} along"
                raise Refused(
                    f"{unit.id} keeps the clock and {why} when it is stopped", where=self.kind
                )
        stopped = tuple(sorted(daemons))
        shift = ClockShift(
            offset=self.microseconds,
            before=node.clock.difference,
            boot=node.clock.boot,
            after=stopped,
        )
        return timed(node, fault_id, *(Unit(unit, "stopped") for unit in stopped), shift)
