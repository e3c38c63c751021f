"""Whether packets that are to make the detour do make it: by the kernel's own counters.

On their way out, something may stand between the chain that marks a packet and the filter
that redirects it which nothing here can read: an nftables rule that rewrites the mark, a BPF
program that is asked before any filter. On their way in, something may take packets before
our filter does. Then the fault is configured and nothing happens to the traffic. It
shows in the counters: packets are marked, or arrive, and none is redirected.

It must not take silence for loss: without traffic, or while the link address of a next hop of
the peers is sought in vain, no packet gets as far as the filter. A wide peer has many next
hops, of which one that is dead is enough to say nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, replace

from chaos_agent.effects.counters import Counters
from chaos_agent.linux.host import Host
from chaos_core.addresses import Network
from chaos_core.effects import Chain, Effect, IngressPipe, LeasedSet, Pipe, PulsedSet

_ENOUGH = 10  # packets that should have made the detour since the last one that did


@dataclass(frozen=True, slots=True)
class Counts:
    """Packets to be redirected, and those that were when their number was last seen to grow."""

    marked: int = 0
    redirected: int = 0
    arrived: int = 0
    caught: int = 0


def look(
    host: Host, effects: Sequence[Effect], last: Counts, counters: Counters
) -> tuple[Counts, str | None]:
    """The counts to compare with the next time; and one line if the detour is not made."""
    last, lost = _outward(host, effects, last, counters)
    last, missed = _inward(host, effects, last, counters)
    return last, lost or missed


def _outward(
    host: Host, effects: Sequence[Effect], last: Counts, counters: Counters
) -> tuple[Counts, str | None]:
    pipes = [effect for effect in effects if isinstance(effect, Pipe) and not effect.combines]
    if not pipes:
        return last, None
    marked = sum(counters.met(each, "MARK") for each in effects if isinstance(each, Chain))
    redirected = sum(each.packets for pipe in pipes for each in counters.marked(pipe))
    if redirected != last.redirected:
        return replace(last, marked=marked, redirected=redirected), None
    devices = sorted({pipe.device for pipe in pipes})
    if marked < last.marked + _ENOUGH or _sought(host, devices, _peers(effects)):
        return last, None
    return last, (
        f"{marked - last.marked} packets were marked and none reached the filter on"
        f" {', '.join(devices)}: something between takes the mark or the packets (another"
        " fault, a rule, or a program at the egress)"
    )


def _inward(
    host: Host, effects: Sequence[Effect], last: Counts, counters: Counters
) -> tuple[Counts, str | None]:
    pipes = [effect for effect in effects if isinstance(effect, IngressPipe)]
    if not pipes:
        return last, None
    arrived = sum(
        counters.met(each, "EXPOSED")
        for each in effects
        if isinstance(each, Chain) and each.hook == "PREROUTING"
    )
    caught = sum(
        each.packets for pipe in pipes for each in counters.caught(pipe, caught_by(host, pipe))
    )
    if caught != last.caught:
        return replace(last, arrived=arrived, caught=caught), None
    if arrived < last.arrived + _ENOUGH:
        return last, None
    return last, (
        f"{arrived - last.arrived} packets came in by"
        f" {', '.join(sorted({pipe.device for pipe in pipes}))} and none made the detour:"
        " something takes them before the filter (another fault, or a program at the ingress)"
    )


def caught_by(host: Host, pipe: IngressPipe) -> set[int]:
    """The sets of peers that its filters ask for, by their index in the kernel."""
    return {host.sets.index(catch.peers) for catch in pipe.catches} - {-1}


def _peers(effects: Sequence[Effect]) -> list[Network]:
    sets = (effect for effect in effects if isinstance(effect, LeasedSet | PulsedSet))
    return [ipaddress.ip_network(entry) for each in sets for entry in each.entries]


def _sought(host: Host, devices: Sequence[str], peers: Sequence[Network]) -> bool:
    """Whether the link address of a next hop of the peers is sought, or could not be found."""
    for name in devices:
        device = host.tc.link(name)
        missing = host.tc.unresolved(device.index) if device else set()
        if device and missing and missing & host.tc.next_hops(device.index, peers, missing):
            return True
    return False
