"""How much one peer may send: a token bucket without a clock of its own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Bucket:
    """Lets ``burst`` through at once and ``rate`` a second in the long run."""

    rate: float
    burst: float
    level: float = 0.0  # how full it is: 0 lets a whole burst through
    last: int = 0

    def take(self, now: int) -> bool:
        """Whether one more may pass at ``now`` (µs)."""
        self.level = max(0.0, self.level - (now - self.last) * self.rate / 1_000_000)
        self.last = now
        if self.level + 1 > self.burst:
            return False
        self.level += 1
        return True
