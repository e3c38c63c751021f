"""ClockShift: the wall clock is moved by a step, and moved back by the same.

Whether it is in force is asked of the clock, never remembered: see ``linux/clock.py``.
When somebody else has set the clock meanwhile, it is theirs, and stays.
"""

from __future__ import annotations

from chaos_agent.linux import clock, waiting
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.host import Host
from chaos_core.effects import ClockShift
from chaos_core.errors import Unsupported

_DOWN = ("inactive", "failed")
_PATIENCE_S = 1.0


class ClockShiftOps:
    def apply(
        self,
        host: Host,
        effect: ClockShift,
        expires_at_us: int,  # noqa: ARG002 - its UndoTimer's
        deadline_us: int | None = None,  # noqa: ARG002
    ) -> None:
        deadline = waiting.in_seconds(_PATIENCE_S)
        for unit in effect.after:
            # Time daemons keep the time in a file as they end, and set the clock by it again.
            while (found := host.systemd.state(unit)) and found.active not in _DOWN:
                if now_us() > deadline:
                    raise Unsupported(f"{unit}, which keeps the clock, does not stop in time")
                waiting.pause(0.01)
        if clock.steps(effect) is None:
            raise Unsupported("somebody else has just set the clock")
        clock.bring(effect, 1)

    def verify(self, host: Host, effect: ClockShift) -> str | None:  # noqa: ARG002
        found = clock.steps(effect)
        if found is None:
            return "somebody else has set the clock"
        return None if found == 1 else "the clock is not moved"

    def renew(self, host: Host, effect: ClockShift, expires_at_us: int) -> None:
        """Nothing to do: the UndoTimer before it is renewed."""

    def revert(self, host: Host, effect: ClockShift) -> None:  # noqa: ARG002
        clock.bring(effect, 0)

    def absent(self, host: Host, effect: ClockShift) -> str | None:  # noqa: ARG002
        return "the clock is still moved" if clock.steps(effect) else None


OPS = ClockShiftOps()
