"""Pipe: packets with our mark take a detour through a link of ours.

Built as link, its qdisc, link up, clsact, filter; taken down in the opposite order,
because a filter whose ifb is gone swallows every packet that it catches.

Whose clsact is it? The link says so: its alias claims the device's clsact before
it is added, and a later fault on the same device repeats the claim of an earlier
one. A link with a claim takes the clsact along, unless a filter hangs on it: that
of another fault, or of somebody else. This needs no memory but the kernel's, so it
survives a crash at any point. The filter repeats the claim, for the case that
somebody deletes our link by hand.

A packet is classified once: one that somebody's filter takes before ours makes no
detour, and one that made the detour is not seen by the filters behind ours. Where
that would leave the fault without effect, or the user's filters, it is refused.
"""

from __future__ import annotations

from collections.abc import Iterable

from chaos_agent.effects.counters import Counters
from chaos_agent.linux import tcx, waiting
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.host import Host
from chaos_agent.linux.shaping import in_ticks, tbf_in_ticks
from chaos_agent.linux.tc import Tc
from chaos_agent.linux.tcvalues import EGRESS, Link, Redirect
from chaos_core.effects import IngressPipe, Pipe, is_ours
from chaos_core.errors import ChaosError, InvalidInput, Refused
from chaos_core.hits import Hits

_DRAIN_AT_MOST = 2_000_000  # µs, of the five seconds that an abort may take
_GRACE = 200_000  # µs, for a starved node's timers
_TAIL = 8  # no distribution of netem's goes further, in jitters
_AT_A_TIME = 80_000  # µs: all other faults wait meanwhile
_PAUSE_S = 0.01  # a look lists the qdiscs of all devices


class PipeOps:
    def apply(
        self,
        host: Host,
        effect: Pipe,
        expires_at_us: int,  # noqa: ARG002 - the leased set holds the lease
        deadline_us: int | None = None,  # noqa: ARG002
    ) -> None:
        device = host.tc.link(effect.device)
        if device is None:
            raise InvalidInput(f"there is no device {effect.device}", where=effect.link)
        if host.tc.link(effect.link) or _redirects(host.tc, effect, None):
            if self.verify(host, effect) is None:
                return
            self.revert(host, effect)  # of a half-applied pipe nothing is worth keeping
        obstacle = _in_the_way(host.tc, effect, device)
        if obstacle:
            raise Refused(
                obstacle,
                where=effect.link,
                hint="use another interface or fault; docs/coexistence.md says what goes together",
            )
        link = host.tc.add_link(effect.link, effect.kind)
        shape(host.tc, effect, link)
        present = device.index in host.tc.clsact_devices()
        claim = not present or claimed(host.tc, device.index)
        host.tc.raise_link(link, device.index if claim else 0)
        if not present:
            host.tc.add_clsact(device.index)
        host.tc.add_redirect(device.index, effect.pref, effect.mark, effect.mask, link, claim=claim)

    def verify(self, host: Host, effect: Pipe) -> str | None:
        device, link = host.tc.link(effect.device), host.tc.link(effect.link)
        if device is None:
            return f"device {effect.device} is gone"
        if not device.up:
            return f"device {effect.device} is down"
        if link is None:
            return f"link {effect.link} is missing"
        if link.kind != effect.kind or not link.up:
            have = f"{link.kind} that is {'up' if link.up else 'down'}"
            return f"link {effect.link} is a {have}, not a {effect.kind} that is up"
        return (
            qdisc_differs(host.tc, effect, link)
            or _filter_differs(host.tc, effect, device, link)
            or _in_the_way(host.tc, effect, device)
        )

    def renew(self, host: Host, effect: Pipe, expires_at_us: int) -> None:
        """Nothing: without a live set entry nothing is marked."""

    def revert(self, host: Host, effect: Pipe) -> None:
        if not is_ours(effect.link):
            raise ChaosError(f"{effect.link} is not a link of ours")
        link = host.tc.link(effect.link)
        for redirect in _redirects(host.tc, effect, link):
            unhook(host.tc, redirect)
        if link is not None:
            drain(host, effect, link)
            release(host.tc, link)

    def absent(self, host: Host, effect: Pipe) -> str | None:
        link = host.tc.link(effect.link)
        if link is not None:
            return f"link {effect.link} is still there"
        names = {link.index: link.name for link in host.tc.links()}
        for redirect in _redirects(host.tc, effect, None):
            return f"filter {effect.pref} is still on {names.get(redirect.device)}"
        return None

    def count(self, host: Host, effect: Pipe, counters: Counters) -> Hits:  # noqa: ARG002
        """By all filters for the fault's bit; so a pipe of a combination has none to count."""
        filters = () if effect.combines else counters.marked(effect)
        return Hits(count=sum(redirect.packets for redirect in filters), unit="packets")


def drain(host: Host, effect: Pipe | IngressPipe, link: Link) -> None:
    """Wait for the packets that a netem or tbf holds, and that would be lost with their link.

    Nothing new goes in any more. Returns when it is empty, or has had time enough. Raises
    ChaosError when that takes longer than this may wait at a time, to be tried again.
    """
    netem, tbf, began = effect.netem, effect.tbf, now_us()
    longest = netem.delay + _TAIL * netem.jitter if netem else 0
    longest += tbf.limit * 1_000_000 // tbf.rate if tbf else 0
    until = host.draining.setdefault(link.name, began + min(_DRAIN_AT_MOST, longest + _GRACE))
    while (queued := host.tc.queued(link)) and now_us() < until:
        if now_us() > began + _AT_A_TIME:
            raise ChaosError(f"{queued} packets are still on their way through {link.name}")
        waiting.pause(_PAUSE_S)
    del host.draining[link.name]


def release(tc: Tc, link: Link) -> None:
    """Delete a link of ours, with the clsact that it claims if nothing hangs on it any more.

    Its own filters must be gone.
    """
    if link.clsact_of and not tc.has_filters(link.clsact_of):
        tc.delete_clsact(link.clsact_of)
    tc.delete_link(link)


def unhook(tc: Tc, redirect: Redirect) -> None:
    """Delete a filter of ours, and the clsact that it claims as ``release`` does."""
    tc.delete_redirect(redirect)
    if redirect.claims and not tc.has_filters(redirect.device):
        tc.delete_clsact(redirect.device)


def claimed(tc: Tc, device: int) -> bool:
    """Whether a link or a filter of ours claims the clsact of ``device`` (an ifindex)."""
    links = (link for link in tc.links() if is_ours(link.name))
    return any(link.clsact_of == device for link in links) or any(
        redirect.claims for redirect in tc.redirects(device)
    )


def _redirects(
    tc: Tc, effect: Pipe, link: Link | None, devices: Iterable[int] | None = None
) -> list[Redirect]:
    """Filters of this pipe: ours by tag, to its link, or to one that is gone.

    By default on any device: the pipe's own may have been given another name since.
    """
    return [
        redirect
        for device in (tc.clsact_devices() if devices is None else devices)
        for redirect in tc.redirects(device)
        if redirect.ours
        and redirect.parent == EGRESS
        and (
            (link is not None and redirect.leads_to(link))
            or (redirect.target, redirect.pref, redirect.mark) == (0, effect.pref, effect.mark)
        )
    ]


def shape(tc: Tc, effect: Pipe | IngressPipe, link: Link) -> None:
    """Give the pipe's link the qdiscs that were asked for, if any: a tbf goes behind a netem."""
    if effect.netem:
        tc.add_netem(link, effect.netem)
    if effect.tbf:
        tc.add_tbf(link, effect.tbf, behind_netem=effect.netem is not None)


def qdisc_differs(tc: Tc, effect: Pipe | IngressPipe, link: Link) -> str | None:
    """How the qdiscs of the pipe's link differ from what was asked for; None when they do not."""
    wrong = None
    if effect.netem:
        wrong = _differs(link, "netem", in_ticks(effect.netem), tc.netem(link))
    if effect.tbf and not wrong:
        found = tc.tbf(link, behind_netem=effect.netem is not None)
        wrong = _differs(link, "tbf", tbf_in_ticks(effect.tbf), found)
    return wrong


def _differs(
    link: Link, kind: str, wanted: dict[str, int], found: dict[str, int] | None
) -> str | None:
    if found is None:
        return f"link {link.name} has no {kind}"
    for key, value in wanted.items():
        slack = 16 if key == "buffer" else 0  # a µs: it is made of whole ones
        if abs(found[key] - value) > slack:
            return f"{kind} of {link.name} has {key} {found[key]}, not {value} (kernel units)"
    return None


def _filter_differs(tc: Tc, effect: Pipe, device: Link, link: Link) -> str | None:
    found = _redirects(tc, effect, link, [device.index])
    if len(found) != 1:
        return f"{len(found)} filters on {effect.device} redirect to {effect.link}, not 1"
    have = (found[0].pref, found[0].mark, found[0].mask, found[0].cleared, found[0].target)
    want = (effect.pref, effect.mark, effect.mask, effect.mask, link.index)
    if have != want:
        return f"filter on {effect.device} has pref, mark, mask, cleared, target {have}, not {want}"
    return None


def _in_the_way(tc: Tc, effect: Pipe, device: Link) -> str | None:
    """A filter of somebody else's that would take our packets, or that ours would rob of them."""
    for pref, kind, verdict in tc.foreign_filters(device.index):
        what = f"filter {pref} ({kind}) of somebody else's at the egress of {effect.device}"
        if pref < effect.pref and verdict != "goes on":
            return f"{what} is asked before ours and may take its packets"
        if effect.kind == "ifb" and pref > effect.pref and verdict == "unknown":
            return f"{what} would not see the packets that make the detour"
    return tcx.obstacle(device.index, effect.device, "egress") or None


OPS = PipeOps()
