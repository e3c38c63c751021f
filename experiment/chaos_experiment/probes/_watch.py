"""When probes look: on a schedule that no slow answer can shift.

Looks are due at absolute times, and each is made whether or not those before it were
answered: closed loops measure once while a system stands still, and so leave out what everybody
else would have waited (coordinated omission). So no look waits for the system before it begins,
and one that begins late was held up by the machine that looks. That is not the system's doing and
is not added to a latency; one that is later than its timeout has failed, since nobody looked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from chaos_core.text import printable
from chaos_core.units import SECOND
from chaos_experiment.probes import Context, Emit, Look, Probe, Seen
from chaos_experiment.probes._reasons import reason, timed_out
from chaos_experiment.series import Observation

Clock = Callable[[], int]  # µs

# As many looks of one probe may wait for answers at once; what is due beyond that has failed.
MAX_UNDER_WAY: Final = 10_000
_MAX_TEXT: Final = 300  # bytes


async def watch(
    name: str, probe: Probe, emit: Emit, clock: Clock, context: Context | None = None
) -> None:
    """Look until cancelled; nothing of the probe is left open then.

    What raises is ``emit``: nothing that the system under test does.
    """
    async with probe.session(context or Context()) as look, asyncio.TaskGroup() as looks:
        start = clock() + probe.initial_delay
        under_way: set[asyncio.Task[None]] = set()
        number = 0
        while True:
            due = start + probe.due(number)
            await asyncio.sleep(max(0, due - clock()) / SECOND)
            if len(under_way) < MAX_UNDER_WAY:
                task = looks.create_task(_tell(name, probe, emit, clock, look, due))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            else:
                emit(Observation(name, due, False, None, f"{MAX_UNDER_WAY} looks wait already"))
            number += 1


async def once(
    name: str, probe: Probe, clock: Clock, context: Context | None = None
) -> Observation:
    """One look, due now, with its retries."""
    due = clock()
    async with probe.session(context or Context()) as look:
        return await _observe(name, probe, clock, look, due)


async def _tell(name: str, probe: Probe, emit: Emit, clock: Clock, look: Look, due: int) -> None:
    emit(await _observe(name, probe, clock, look, due))


async def _observe(name: str, probe: Probe, clock: Clock, look: Look, due: int) -> Observation:
    """The look that was due then; every try has ``timeout``."""
    begun = again = clock()
    if begun - due > probe.timeout:
        late = f"looked {(begun - due) / SECOND:.1f} s late: the machine that looks is too busy"
        return Observation(name, due, False, None, late)
    seen = await _try(probe, look)
    for _ in range(probe.retries):
        if seen.ok:
            break
        again = clock()
        seen = await _try(probe, look)
    value = seen.value if seen.ok else None
    if value is not None and probe.latency:
        value += again - begun
    return Observation(name, due, seen.ok, value, printable(seen.text, _MAX_TEXT))


async def _try(probe: Probe, look: Look) -> Seen:
    try:
        async with asyncio.timeout(probe.timeout / SECOND) as limit:
            return await look()
    except Exception as error:  # whatever a library makes of a broken system is an observation
        if isinstance(error, TimeoutError) and limit.expired():
            return Seen(False, None, timed_out(probe.timeout))
        return Seen(False, None, reason(error))
