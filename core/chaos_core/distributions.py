"""How a delay's jitter may be spread: the tables that netem scales by the jitter.

An entry of 8192 (the kernel's NETEM_DIST_SCALE) is one jitter above the delay; the kernel
picks each of the 4096 entries with the same probability. The formulas are those of
iproute2's netem/normal.c, pareto.c and paretonormal.c, which are NISTnet's: the inverse
of the cumulative distribution function, scaled to mean 0, as 16-bit integers.
"""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist
from typing import Literal

Distribution = Literal["uniform", "normal", "pareto", "paretonormal"]
SCALE = 8192
_SIZE = 4096
_LEAST, _MOST = -(2**15), 2**15 - 1  # of 16 bits; four jitters either way
_SHAPE = 3  # Pareto's a; its mean is then 3/2


@cache
def table(distribution: Distribution) -> tuple[int, ...]:
    """The entries in ascending order. None for ``uniform``, which netem does by itself."""
    match distribution:
        case "uniform":
            return ()
        case "normal":
            return tuple(map(_normal, range(_SIZE)))
        case "pareto":
            return tuple(map(_pareto, range(_SIZE)))
        case "paretonormal":
            return tuple(int((_normal(n, clip=False) + 3 * _pareto(n)) / 4) for n in range(_SIZE))


def longest(distribution: Distribution, delay: int, jitter: int) -> int:
    """The longest delay that can come of it, in the unit of ``delay`` and ``jitter``."""
    largest = max(table(distribution), default=SCALE)
    return delay - (-jitter * largest // SCALE)  # rounded up


def _normal(entry: int, *, clip: bool = True) -> int:
    """iproute2 keeps every fourth of 16384 steps of the cumulative function."""
    value = round(NormalDist().inv_cdf((entry * 4 + 0.5) / (_SIZE * 4)) * SCALE)
    return max(_LEAST, min(_MOST, value)) if clip else value


def _pareto(entry: int) -> int:
    value = math.pow(1 - entry / _SIZE, -1 / _SHAPE)
    return min(_MOST, round((value - 1.5) * 4 / 3 * SCALE))
