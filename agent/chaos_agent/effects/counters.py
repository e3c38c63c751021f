"""The kernel's counters of a fault's rules and filters, read once for all who ask.

Chains come from what ``verify`` has read a moment before, unless it is to be ``fresh``: a
second read of a table costs as much as the first. They are read before the filters, so what
a chain has counted by now is at the filter, or on its way, by then.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from chaos_agent.linux.host import Host
from chaos_agent.linux.tcvalues import EGRESS, INGRESS, Redirect
from chaos_core.effects import Chain, Effect, IngressPipe, Pipe


@dataclass(frozen=True, slots=True)
class Counters:
    """Packets that each rule of a chain has met, in order; and the agent's filters by device."""

    chains: dict[Chain, tuple[int, ...]] = field(default_factory=dict)
    redirects: dict[str, tuple[Redirect, ...]] = field(default_factory=dict)

    def met(self, chain: Chain, *targets: str) -> int:
        """How many packets the chain's rules with these targets have met."""
        counts = self.chains.get(chain, ())
        pairs = zip(chain.rules, counts, strict=False)
        return sum(count for rule, count in pairs if rule.target in targets)

    def marked(self, pipe: Pipe) -> tuple[Redirect, ...]:
        """The filters for packets with the pipe's mark, also with other faults' marks."""
        found = self.redirects.get(pipe.device, ())
        return _once(
            one for one in found if one.parent == EGRESS and one.mark & pipe.mark == pipe.mark
        )

    def caught(self, pipe: IngressPipe, peers: set[int]) -> tuple[Redirect, ...]:
        """The filters for what comes from the sets ``peers`` (by index in the kernel)."""
        found = self.redirects.get(pipe.device, ())
        return _once(
            one
            for one in found
            if one.parent == INGRESS and {each.index for each in one.sets} & peers
        )


def read(host: Host, effects: Sequence[Effect], *, fresh: bool = False) -> Counters:
    """All that these effects need."""
    chains = {
        effect: host.chains(effect.backend).packets(effect)
        if fresh
        else host.chains(effect.backend).last_packets(effect)
        for effect in effects
        if isinstance(effect, Chain)
    }
    names = dict.fromkeys(e.device for e in effects if isinstance(e, Pipe | IngressPipe))
    devices = {name: host.tc.link(name) for name in names}
    return Counters(
        chains,
        {
            name: tuple(one for one in host.tc.redirects(device.index) if one.ours)
            for name, device in devices.items()
            if device
        },
    )


def _once(redirects: Iterable[Redirect]) -> tuple[Redirect, ...]:
    """Filters that share an action share its counters: one of each."""
    return tuple({one.action: one for one in redirects}.values())
