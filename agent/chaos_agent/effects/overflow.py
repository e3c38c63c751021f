"""Whether the queue of a detour was full, so that packets were lost that nobody asked to lose.

The kernel says so where it redirects: a packet that the target's qdisc had no room for counts
as an overlimit of the redirect. What netem loses on purpose it reports as taken, so that the
two are told apart also where loss was asked for; its own counter of drops has both in one.
A token bucket drops what exceeds its rate, which is asked for, and is not looked at.

What this cannot see: a copy that netem makes of a packet and has no room for is not counted,
and what the device's own qdisc drops after the detour is the device's business.
"""

from __future__ import annotations

from collections.abc import Sequence

from chaos_agent.effects.counters import Counters
from chaos_agent.effects.detour import caught_by
from chaos_agent.linux.host import Host
from chaos_core.effects import Effect, IngressPipe, Netem, Pipe


def look(host: Host, effects: Sequence[Effect], counters: Counters) -> str | None:
    """One line that says how many packets a full queue has dropped; None when it has none."""
    for effect in effects:
        match effect:
            case Pipe(netem=Netem(limit=limit)):
                link = host.tc.link(effect.link)
                filters = [each for each in counters.marked(effect) if link and each.leads_to(link)]
            case IngressPipe(netem=Netem(limit=limit)):
                filters = list(counters.caught(effect, caught_by(host, effect)))
            case _:
                continue
        dropped = sum(each.refused for each in filters)
        if dropped:
            return (
                f"{dropped} packets were dropped on {effect.device} that nobody asked to drop:"
                f" the queue of {effect.link} was full (its limit is {limit} packets)"
            )
    return None
