"""Pipe: packets with our mark take a detour through a link of ours.

Built as link, netem, link up, clsact, filter; taken down in the opposite order,
because a filter whose ifb is gone swallows every packet that it catches.

Whose clsact is it? The link says so: its alias claims the device's clsact before
it is added, and a later fault on the same device repeats the claim of an earlier
one. A link with a claim takes the clsact along, unless a filter hangs on it: that
of another fault, or of somebody else. This needs no memory but the kernel's, so it
survives a crash at any point. (If somebody deletes our link by hand, its claim
is lost and an empty clsact may stay; the engine's comparison then says so.)
"""

from __future__ import annotations

from chaos_agent.linux.host import Host
from chaos_agent.linux.tc import Tc
from chaos_agent.linux.tcvalues import Link, Redirect, action_index, in_ticks
from chaos_core.effects import LINK_PREFIX, Pipe
from chaos_core.errors import ChaosError, InvalidInput


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
        if host.tc.link(effect.link) or _redirects(host.tc, effect, device, None):
            if self.verify(host, effect) is None:
                return
            self.revert(host, effect)  # of a half-applied pipe nothing is worth keeping
        link = host.tc.add_link(effect.link, "dummy" if effect.netem is None else "ifb")
        if effect.netem is not None:
            host.tc.add_netem(link, effect.netem)
        present = device.index in host.tc.clsact_devices()
        claim = not present or _claimed(host.tc, device.index)
        host.tc.raise_link(link, device.index if claim else 0)
        if not present:
            host.tc.add_clsact(device.index)
        host.tc.add_redirect(device.index, effect.pref, effect.mark, effect.mask, link)

    def verify(self, host: Host, effect: Pipe) -> str | None:
        device, link = host.tc.link(effect.device), host.tc.link(effect.link)
        if device is None:
            return f"device {effect.device} is gone"
        if link is None:
            return f"link {effect.link} is missing"
        kind = "dummy" if effect.netem is None else "ifb"
        if link.kind != kind or not link.up:
            state = "up" if link.up else "down"
            return f"link {effect.link} is a {link.kind} that is {state}, not a {kind} that is up"
        return _netem_differs(host.tc, effect, link) or _filter_differs(
            host.tc, effect, device, link
        )

    def renew(self, host: Host, effect: Pipe, expires_at_us: int) -> None:
        """Nothing: without a live set entry nothing is marked."""

    def revert(self, host: Host, effect: Pipe) -> None:
        if not effect.link.startswith(LINK_PREFIX):
            raise ChaosError(f"{effect.link} is not a link of ours")
        device = host.tc.link(effect.device)
        link = host.tc.link(effect.link)
        if device is not None:
            for redirect in _redirects(host.tc, effect, device, link):
                host.tc.delete_redirect(redirect)
        if link is not None:
            release(host.tc, link)

    def absent(self, host: Host, effect: Pipe) -> str | None:
        link = host.tc.link(effect.link)
        if link is not None:
            return f"link {effect.link} is still there"
        device = host.tc.link(effect.device)
        if device is not None and _redirects(host.tc, effect, device, None):
            return f"filter {effect.pref} is still on {effect.device}"
        return None


def release(tc: Tc, link: Link) -> None:
    """Delete a link of ours, with the clsact that it claims if nothing hangs on it any more.

    Its own filters must be gone.
    """
    if link.clsact_of and not tc.has_filters(link.clsact_of):
        tc.delete_clsact(link.clsact_of)
    tc.delete_link(link)


def _claimed(tc: Tc, device: int) -> bool:
    """Whether a link of ours claims the clsact of ``device`` (an ifindex)."""
    return any(
        link.clsact_of == device and link.name.startswith(LINK_PREFIX) for link in tc.links()
    )


def _redirects(tc: Tc, effect: Pipe, device: Link, link: Link | None) -> list[Redirect]:
    """Filters of this pipe: ours by tag, to its link, or to one that is gone."""
    return [
        redirect
        for redirect in tc.redirects(device.index)
        if redirect.ours
        and (
            (link is not None and redirect.action == action_index(link.index))
            or (redirect.pref, redirect.mark) == (effect.pref, effect.mark)
        )
    ]


def _netem_differs(tc: Tc, effect: Pipe, link: Link) -> str | None:
    if effect.netem is None:
        return None
    found = tc.netem(link)
    if found is None:
        return f"link {effect.link} has no netem"
    for key, wanted in in_ticks(effect.netem).items():
        slack = 0 if key == "limit" else 1  # a tick of 64 ns, or 2^-32, of rounding
        if abs(found[key] - wanted) > slack:
            return f"netem of {effect.link} has {key} {found[key]}, not {wanted} (kernel units)"
    return None


def _filter_differs(tc: Tc, effect: Pipe, device: Link, link: Link) -> str | None:
    found = _redirects(tc, effect, device, link)
    if len(found) != 1:
        return f"{len(found)} filters on {effect.device} redirect to {effect.link}, not 1"
    have = (found[0].pref, found[0].mark, found[0].mask, found[0].target)
    want = (effect.pref, effect.mark, effect.mask, link.index)
    if have != want:
        return f"filter on {effect.device} has pref, mark, mask, target {have}, not {want}"
    return None


OPS = PipeOps()
