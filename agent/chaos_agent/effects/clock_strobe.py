"""ClockStrobe: the wall clock is moved and moved back by turns, under its lease.

A turn is one step of the clock, under the lock that undoing takes too. What is in the clock is
asked of the clock each time, so the undo of a steady shift undoes this one, from either turn;
whoever makes a turn late, after the lease, takes it back.
"""

from __future__ import annotations

from chaos_agent.effects.clock_shift import ClockShiftOps
from chaos_agent.linux import clock
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.host import Host
from chaos_core.effects import ClockStrobe

_LATE = 500_000  # µs after the end of a turn in which the keeper may still be about to act


class ClockStrobeOps(ClockShiftOps):
    def turn(self, host: Host, effect: ClockStrobe, expires_at_us: int) -> int:  # noqa: ARG002
        moved, since = effect.turn(now_us())
        clock.bring(effect, int(moved))
        if now_us() >= expires_at_us:  # it was stopped in the middle
            clock.bring(effect, 0)
        return since + effect.span

    def verify(self, host: Host, effect: ClockStrobe) -> str | None:  # type: ignore[override]  # noqa: ARG002
        found, now = clock.steps(effect), now_us()
        if found is None:
            return "somebody else has set the clock"
        moved, since = effect.turn(now)
        if found == int(moved) or now < since + _LATE:
            return None
        return f"the clock is {'not ' * moved}moved, {(now - since) / 1e6:.1f} s into its turn"


OPS = ClockStrobeOps()
