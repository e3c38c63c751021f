"""How much a fault has hit: what its effects count, added up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chaos_agent.effects import Counting, Eventful, ops
from chaos_agent.effects.counters import Counters
from chaos_agent.linux.host import Host
from chaos_core.effects import Effect
from chaos_core.hits import Hits, add

Origins = Mapping[Effect, Hits]


def origins(host: Host, effects: Sequence[Effect]) -> dict[Effect, Hits]:
    """What had happened before the fault of that which only grows."""
    found = {}
    for effect in effects:
        verbs = ops(effect)
        hits = verbs.events(host, effect) if isinstance(verbs, Eventful) else None
        if hits:
            found[effect] = hits
    return found


def total(
    host: Host, effects: Sequence[Effect], counters: Counters, before: Origins
) -> Hits | None:
    """The sum over the effects; None when none of them is counted."""
    return add(_one(host, effect, counters, before) for effect in effects)


def _one(host: Host, effect: Effect, counters: Counters, before: Origins) -> Hits | None:
    verbs = ops(effect)
    if isinstance(verbs, Counting):
        return verbs.count(host, effect, counters)
    if isinstance(verbs, Eventful) and effect in before:
        now = verbs.events(host, effect)
        grown = now.count - before[effect].count if now else 0
        return now.model_copy(update={"count": max(0, grown)}) if now else None
    return None
