"""Whether packets that get our mark do arrive at the pipe: by the kernel's own counters.

Between the chain that marks a packet and the filter that redirects it, something of
somebody else's may stand that nothing here can read: an nftables rule that rewrites
the mark, a BPF program that is asked before any filter. Then everything of ours is in
place and nothing happens to the traffic. It shows in the counters: packets are marked
and none is redirected.

It must not take silence for loss: without traffic, or while the neighbour's link
address is sought in vain, no packet gets as far as the filter.
"""

from __future__ import annotations

from dataclasses import dataclass

from chaos_agent.linux.host import Host
from chaos_core.effects import Chain, Effect, Pipe

_ENOUGH = 10  # packets marked since one was last redirected


@dataclass(frozen=True, slots=True)
class Counts:
    """Packets marked and redirected when the latter was last seen to grow."""

    marked: int = 0
    redirected: int = 0


def look(host: Host, effects: tuple[Effect, ...], last: Counts) -> tuple[Counts, str | None]:
    """The counts to compare with the next time; and one line if the marks lead nowhere."""
    pipes = [effect for effect in effects if isinstance(effect, Pipe)]
    if not pipes:
        return last, None
    # In this order: what was marked by now is redirected, or on its way, by then.
    marked = sum(
        host.chains(effect.backend).marked(effect)
        for effect in effects
        if isinstance(effect, Chain)
    )
    devices = {pipe.device: host.tc.link(pipe.device) for pipe in pipes}
    indices = [device.index for device in devices.values() if device]
    own = _own_mark(effects)
    redirected = sum(
        redirect.packets
        for index in indices
        for redirect in host.tc.redirects(index)
        if redirect.ours and redirect.mark & own
    )
    if redirected != last.redirected or marked < last.marked + _ENOUGH:
        grown = redirected != last.redirected
        return Counts(marked, redirected) if grown else last, None
    if any(host.tc.unresolved(index) for index in indices):
        return last, None
    return last, (
        f"{marked - last.marked} packets were marked and none reached the filter on"
        f" {', '.join(devices)}: something between them takes the mark or the packets"
    )


def _own_mark(effects: tuple[Effect, ...]) -> int:
    """The bit that the fault's own rules set; pipes of combinations have those of others too."""
    chains = (effect for effect in effects if isinstance(effect, Chain))
    return next((rule.mark for chain in chains for rule in chain.rules if rule.mark), 0)
