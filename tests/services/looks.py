"""One look at a real service, as an experiment takes it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from chaos_experiment.probes import Context, Probe
from chaos_experiment.probes._watch import once
from chaos_experiment.series import Observation


def clock() -> int:
    return time.monotonic_ns() // 1000


async def look(probe: Probe, context: Context | None = None) -> Observation:
    return await once("it", probe, clock, context)


async def look_until(
    probe: Probe,
    wanted: Callable[[Observation], bool],
    seconds: float = 15,
    context: Context | None = None,
) -> Observation:
    """The first observation that is as wanted; the last one, when none is in time."""
    until = time.monotonic() + seconds
    while True:
        seen = await look(probe, context)
        if wanted(seen) or time.monotonic() > until:
            return seen
        await asyncio.sleep(0.1)
