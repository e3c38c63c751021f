"""When an experiment must end by itself. Pure; it fails closed.

A condition that holds without a break for as long as it says is a breach, and so is one
that nobody could evaluate for the grace: who cannot see must not go on hurting.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from chaos_core.units import Duration
from chaos_experiment.conditions import Condition, Held, Reading
from chaos_experiment.series import Series


@dataclass(frozen=True, slots=True)
class Breach:
    """Which condition, and the figure that decided it."""

    condition: Condition
    measured: str

    def __str__(self) -> str:
        return self.condition.told(self.measured)


@dataclass(slots=True)
class Guard:
    """The abort conditions of one experiment, with what they were since when.

    ``last`` is how each was seen last: a breach, or none (yet).
    """

    conditions: tuple[Condition, ...]
    grace: Duration
    last: dict[Condition, Reading] = field(default_factory=dict)
    _bad_since: dict[Condition, int] = field(default_factory=dict)
    _blind_since: dict[Condition, int] = field(default_factory=dict)

    def watch(self, series: Series, now: int, health: float | None) -> Breach | None:
        """Look at every condition; the first breach, if there is one."""
        breaches = [self._look(each, series, now, health) for each in self.conditions]
        return next((breach for breach in breaches if breach is not None), None)

    def _look(
        self, condition: Condition, series: Series, now: int, health: float | None
    ) -> Breach | None:
        reading = condition.read(series, now, health)
        held, measured = reading.held, reading.measured
        if held is Held.NO:
            self._bad_since.pop(condition, None)
        if held is not Held.UNKNOWN:
            self._blind_since.pop(condition, None)
        breached = False
        if held is Held.YES:
            # Not seeing in between is no break: a system may be too sick to be looked at.
            breached = now - self._bad_since.setdefault(condition, now) >= condition.hold
        elif held is Held.UNKNOWN:
            breached = now - self._blind_since.setdefault(condition, now) >= self.grace
            if breached:
                measured = f"cannot be evaluated for {self.grace}: {measured}"
        self.last[condition] = Reading(held if breached else Held.NO, measured)
        return Breach(condition, measured) if breached else None
