"""IngressPipe: what enters a device from the peers takes a detour through a link of ours.

Filters on clsact ingress are asked before xtables. So what is protected is spared by the
filter itself: it asks for the peers' leased set and for the absence of the protected ones.
Without a live entry nothing is caught, and the plumbing does nothing.

A packet that made the detour is not classified at ingress again. So with anything of
somebody else's there it is refused: their filters would not see the packets, or ours not.

Link and clsact are added, claimed and taken away as in ``pipe``, by the same tags.
"""

from __future__ import annotations

from chaos_agent.effects import detour
from chaos_agent.effects.counters import Counters
from chaos_agent.effects.pipe import claimed, drain, qdisc_differs, release, shape, unhook
from chaos_agent.linux import tcx
from chaos_agent.linux.catching import SetMatch
from chaos_agent.linux.host import Host
from chaos_agent.linux.tcvalues import INGRESS, Link, Redirect
from chaos_core.effects import Catch, IngressPipe, is_ours
from chaos_core.errors import ChaosError, InvalidInput, Refused
from chaos_core.hits import Hits


class IngressPipeOps:
    def apply(
        self,
        host: Host,
        effect: IngressPipe,
        expires_at_us: int,  # noqa: ARG002 - the leased set holds the lease
        deadline_us: int | None = None,  # noqa: ARG002
    ) -> None:
        device = host.tc.link(effect.device)
        if device is None:
            raise InvalidInput(f"there is no device {effect.device}", where=effect.link)
        if host.tc.link(effect.link) or _ours(host, effect, None):
            if self.verify(host, effect) is None:
                return
            self.revert(host, effect)  # of a half-applied pipe nothing is worth keeping
        obstacle = _in_the_way(host, effect, device)
        if obstacle:
            raise Refused(
                obstacle,
                where=effect.link,
                hint="use direction=out or another interface; docs/coexistence.md says what"
                " goes together",
            )
        link = host.tc.add_link(effect.link, "ifb")
        shape(host.tc, effect, link)
        present = device.index in host.tc.clsact_devices()
        claim = not present or claimed(host.tc, device.index)
        host.tc.raise_link(link, device.index if claim else 0)
        if not present:
            host.tc.add_clsact(device.index)
        for catch in effect.catches:
            asked = _asked(host, catch)
            if any(one.index < 0 for one in asked):
                raise ChaosError(f"a set of {catch} is gone", where=effect.link)
            host.tc.add_catch(device.index, catch.family, asked, link, claim=claim)

    def verify(self, host: Host, effect: IngressPipe) -> str | None:
        device, link = host.tc.link(effect.device), host.tc.link(effect.link)
        if device is None:
            return f"device {effect.device} is gone"
        if not device.up:
            return f"device {effect.device} is down"
        if link is None:
            return f"link {effect.link} is missing"
        if link.kind != "ifb" or not link.up:
            have = f"{link.kind} that is {'up' if link.up else 'down'}"
            return f"link {effect.link} is a {have}, not an ifb that is up"
        return (
            qdisc_differs(host.tc, effect, link)
            or _filters_differ(host, effect, device, link)
            or _in_the_way(host, effect, device)
        )

    def renew(self, host: Host, effect: IngressPipe, expires_at_us: int) -> None:
        """Nothing: without a live set entry nothing is caught."""

    def revert(self, host: Host, effect: IngressPipe) -> None:
        if not is_ours(effect.link):
            raise ChaosError(f"{effect.link} is not a link of ours")
        link = host.tc.link(effect.link)
        for redirect in _ours(host, effect, link):
            unhook(host.tc, redirect)
        if link is not None:
            drain(host, effect, link)
            release(host.tc, link)

    def absent(self, host: Host, effect: IngressPipe) -> str | None:
        if host.tc.link(effect.link) is not None:
            return f"link {effect.link} is still there"
        if _ours(host, effect, None):
            return f"a filter to {effect.link} is still there"
        return None

    def count(self, host: Host, effect: IngressPipe, counters: Counters) -> Hits:
        filters = counters.caught(effect, detour.caught_by(host, effect))
        return Hits(count=sum(redirect.packets for redirect in filters), unit="packets")


def _asked(host: Host, catch: Catch) -> tuple[SetMatch, ...]:
    """What a filter asks of a packet, in order."""
    safe = host.sets.index(catch.safe_ports)
    nets = [SetMatch(host.sets.index(catch.safe_nets), "src", True)] if catch.safe_nets else []
    sides = ((catch.ports, "src,src"), (catch.local_ports, "src,dst"))
    ports = [SetMatch(host.sets.index(name), side) for name, side in sides if name]
    return (
        SetMatch(host.sets.index(catch.peers), "src"),
        *ports,
        *nets,
        SetMatch(safe, "src,src", True),
        SetMatch(safe, "src,dst", True),
    )


def _ours(host: Host, effect: IngressPipe, link: Link | None) -> list[Redirect]:
    """The filters of this pipe on any device: to its link, or to one that is gone, by its sets."""
    peers = {host.sets.index(catch.peers) for catch in effect.catches} - {-1}
    return [
        redirect
        for device in host.tc.clsact_devices()
        for redirect in host.tc.redirects(device)
        if redirect.ours
        and redirect.parent == INGRESS
        and (
            (link is not None and redirect.leads_to(link))
            or (redirect.target == 0 and {one.index for one in redirect.sets} & peers)
        )
    ]


def _filters_differ(host: Host, effect: IngressPipe, device: Link, link: Link) -> str | None:
    found = _ours(host, effect, link)
    wanted = [_asked(host, catch) for catch in effect.catches]
    have = [(one.device, one.target, one.sets) for one in found]
    if sorted(have, key=repr) != sorted(((device.index, link.index, w) for w in wanted), key=repr):
        return f"the filters at the ingress of {effect.device} are {have}, not of {wanted}"
    return None


def _in_the_way(host: Host, effect: IngressPipe, device: Link) -> str | None:
    for pref, kind, _ in host.tc.foreign_filters(device.index, INGRESS):
        return f"filter {pref} ({kind}) of somebody else's is at the ingress of {effect.device}"
    return tcx.obstacle(device.index, effect.device, "ingress") or None


OPS = IngressPipeOps()
