"""LeasedSet: the kernel's hold on the lease of every network fault.

Entries carry a timeout that ends with the lease, rounded down to whole seconds,
so the kernel lets go no later than the lease says. Without a live entry nothing
matches, so nothing that hangs on the set has any effect.
"""

from __future__ import annotations

from contextlib import suppress

from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.host import Host
from chaos_agent.linux.ipsets import canonical
from chaos_core.effects import LeasedSet, PulsedSet
from chaos_core.errors import NotInForce, Unsupported


class LeasedSetOps:
    def apply(
        self,
        host: Host,
        effect: LeasedSet,
        expires_at_us: int,
        deadline_us: int | None = None,
    ) -> None:
        timeout = refuse_too_short(effect.name, earlier(expires_at_us, deadline_us))
        sets = host.sets_of(effect.backend)
        sets.create(effect.name, effect.family)
        sets.put(effect.name, effect.family, effect.entries, timeout)

    def verify(self, host: Host, effect: LeasedSet) -> str | None:
        return differs(host, effect, effect.entries)

    def renew(self, host: Host, effect: LeasedSet, expires_at_us: int) -> None:
        """Move the entries' timeouts, if all are alive. Less than a second renews nothing.

        An entry that lapses between the look and the write, well under a
        millisecond, would be put back; it is one that was alive when it was looked
        at, and it lives no longer than the lease that was granted.
        """
        problem = self.verify(host, effect)
        if problem:
            raise NotInForce(
                f"not renewed: {problem}",
                where=effect.name,
                hint="a lapsed lease takes a new apply",
            )
        timeout = seconds_left(expires_at_us)
        if timeout < 1:
            return
        host.sets_of(effect.backend).move(effect.name, effect.family, effect.entries, timeout)

    def revert(self, host: Host, effect: LeasedSet | PulsedSet) -> None:
        with suppress(Unsupported):  # a kernel without such sets has none of ours
            host.sets_of(effect.backend).destroy(effect.name)

    def absent(self, host: Host, effect: LeasedSet | PulsedSet) -> str | None:
        with suppress(Unsupported):
            if host.sets_of(effect.backend).head(effect.name):
                return f"set {effect.name} is still there"
        return None


def differs(
    host: Host, effect: LeasedSet | PulsedSet, entries: tuple[str, ...], *, settling: bool = False
) -> str | None:
    """How the set differs from one with these entries; None when it does not.

    While it is ``settling``, any of the effect's own entries may be there or not.
    """
    sets = host.sets_of(effect.backend)
    head = sets.head(effect.name)
    if head is None:
        return f"set {effect.name} is missing"
    if (head.kind, head.family) != (sets.kind, effect.family):
        return f"set {effect.name} is {head.kind} for IPv{head.family}"
    if not head.default_timeout:
        return f"set {effect.name} has entries that never time out"
    wanted = {canonical(entry) for entry in entries}
    allowed = {canonical(entry) for entry in effect.entries} if settling else wanted
    found = sets.entries(effect.name)
    for cidr, seconds in found.items():
        if cidr not in allowed:
            return f"set {effect.name} has {cidr}, which was not asked for"
        if seconds < 1:
            return f"set {effect.name}: {cidr} never times out"
    lapsed = sorted(wanted - found.keys())
    if lapsed and not settling:
        return f"set {effect.name}: {', '.join(lapsed)} lapsed"
    return None


def refuse_too_short(name: str, end_us: int) -> int:
    """The whole seconds until then. Raises NotInForce when there are none."""
    timeout = seconds_left(end_us)
    if timeout < 1:
        raise NotInForce(
            "the lease ends in less than a second, too soon for the kernel to hold it",
            where=name,
            hint="apply again under a new lease",
        )
    return timeout


def seconds_left(expires_at_us: int) -> int:
    """Whole seconds until then, rounded down: the kernel must never hold on for longer."""
    return max(0, expires_at_us - now_us()) // 1_000_000


def earlier(expires_at_us: int, deadline_us: int | None) -> int:
    return expires_at_us if deadline_us is None else min(expires_at_us, deadline_us)


OPS = LeasedSetOps()
