"""A wall clock that is wrong."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from chaos_core.effects import ClockShift, ClockStrobe, Effect, Unit
from chaos_core.envelope import Draw
from chaos_core.errors import InvalidInput, Refused
from chaos_core.faults import Fault
from chaos_core.faults._timed import LEASE_HOLDER, timed
from chaos_core.node import Asks, NodeView
from chaos_core.units import MILLISECOND, SECOND, Duration

TIME_DAEMONS = tuple(
    f"{name}.service"
    for name in ("systemd-timesyncd", "chrony", "chronyd", "ntp", "ntpd", "ntpsec", "openntpd")
)
_LEAST, _MOST = Duration(10 * MILLISECOND), Duration.parse("1h")
_LONGEST_SPAN = Duration.parse("60s")
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


def _span(value: Duration | None) -> Duration | None:
    if value is not None and not SECOND <= value <= _LONGEST_SPAN:
        raise ValueError(f"must be 1s to {_LONGEST_SPAN}")
    return value


Offset = Annotated[str, AfterValidator(_offset)]


class ClockSkew(Fault):
    """CLOCK_REALTIME jumps by ``offset``, and at the end by the same back.

    With ``strobe`` it jumps to and fro until then: wrong for so long, right for so long. The
    keeper makes each jump, under its lease; with nobody to make one the clock is set right by
    the timer, from wherever it is.

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

    strobe: Annotated[Duration | None, AfterValidator(_span)] = Field(
        default=None, description="jump there and back again every so often, 1s to 60s"
    )

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
        step = (self.microseconds, node.clock.difference, node.clock.boot, stopped)
        shift = ClockStrobe(*step, node.now, int(self.strobe)) if self.strobe else ClockShift(*step)
        return timed(node, fault_id, *(Unit(unit, "stopped") for unit in stopped), shift)
