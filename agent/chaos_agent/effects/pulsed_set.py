"""PulsedSet: a leased set whose entries the keeper puts in and takes out by turns.

The kernel holds the lease as with a LeasedSet, and the end of a span as well: an entry
times out with the lease, or less than a second after its span if that is sooner. So a
keeper that dies or stops leaves no entries, and nothing puts them in again.
"""

from __future__ import annotations

from chaos_agent.effects import leased_set
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.host import Host
from chaos_core.effects import PulsedSet
from chaos_core.errors import NotInForce

_LATE = 500_000  # µs after the end of a span in which the keeper may still be about to act


class PulsedSetOps:
    def apply(
        self,
        host: Host,
        effect: PulsedSet,
        expires_at_us: int,
        deadline_us: int | None = None,
    ) -> None:
        end = leased_set.earlier(expires_at_us, deadline_us)
        leased_set.refuse_too_short(effect.name, end)
        host.sets_of(effect.backend).create(effect.name, effect.family)
        self.turn(host, effect, end)

    def turn(self, host: Host, effect: PulsedSet, expires_at_us: int) -> int:
        sets, now = host.sets_of(effect.backend), now_us()
        entries_in, _, until = effect.span(now)
        timeout = min(leased_set.seconds_left(expires_at_us), -(-(until - now) // 1_000_000))
        if not entries_in:
            sets.empty(effect.name, effect.family)
        elif timeout:
            put = sets.move if sets.entries(effect.name) else sets.put
            put(effect.name, effect.family, effect.entries, timeout)
        return until

    def verify(self, host: Host, effect: PulsedSet) -> str | None:
        now = now_us()
        entries_in, since, _ = effect.span(now)
        wanted = effect.entries if entries_in else ()
        settling = effect.since < since and now < since + _LATE  # the first span was applied
        return leased_set.differs(host, effect, wanted, settling=settling)

    def renew(self, host: Host, effect: PulsedSet, expires_at_us: int) -> None:
        """Move the entries' timeouts if they are in. What has lapsed is not put in again."""
        problem = self.verify(host, effect)
        if problem:
            raise NotInForce(
                f"not renewed: {problem}",
                where=effect.name,
                hint="a lapsed lease takes a new apply",
            )
        if effect.span(now_us())[0]:
            self.turn(host, effect, expires_at_us)

    def revert(self, host: Host, effect: PulsedSet) -> None:
        leased_set.OPS.revert(host, effect)

    def absent(self, host: Host, effect: PulsedSet) -> str | None:
        return leased_set.OPS.absent(host, effect)


OPS = PulsedSetOps()
