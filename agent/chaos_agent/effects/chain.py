"""Chain: rules of our own in one xtables table, entered by a jump at the head of a hook.

The chain is built and the jump inserted in one commit, and both go in one, so
there is never half a chain in force. Protected traffic returns in its first rules.
"""

from __future__ import annotations

from chaos_agent.linux.host import Host
from chaos_core.effects import Chain


class ChainOps:
    def apply(
        self,
        host: Host,
        effect: Chain,
        expires_at_us: int,  # noqa: ARG002 - the leased set holds the lease
        deadline_us: int | None = None,  # noqa: ARG002
    ) -> None:
        if self.verify(host, effect) is not None:
            host.xtables.put(effect)

    def verify(self, host: Host, effect: Chain) -> str | None:
        return host.xtables.difference(effect)

    def renew(self, host: Host, effect: Chain, expires_at_us: int) -> None:
        """Nothing: without a live set entry the chain matches nothing."""

    def revert(self, host: Host, effect: Chain) -> None:
        host.xtables.remove(effect.family, effect.table, effect.name)

    def absent(self, host: Host, effect: Chain) -> str | None:
        chains = host.xtables.chains(effect.family, effect.table)
        where = f"{effect.table} (IPv{effect.family})"
        if effect.name in chains:
            return f"chain {effect.name} is still in {where}"
        for name, entries in chains.items():
            if any(entry.target == effect.name for entry in entries):
                return f"a jump to {effect.name} is still in {name} of {where}"
        return None


OPS = ChainOps()
