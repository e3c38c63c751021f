"""FixedSet: what an ingress filter must leave alone. It stands before the filter does."""

from __future__ import annotations

from contextlib import suppress

from chaos_agent.linux.host import Host
from chaos_core.effects import FixedSet
from chaos_core.errors import Unsupported


class FixedSetOps:
    def apply(
        self,
        host: Host,
        effect: FixedSet,
        expires_at_us: int,  # noqa: ARG002 - the leased set holds the lease
        deadline_us: int | None = None,  # noqa: ARG002
    ) -> None:
        host.sets.create(effect.name, effect.family, effect.kind, timeout=None)
        host.sets.keep(effect.name, effect.family, effect.entries)

    def verify(self, host: Host, effect: FixedSet) -> str | None:
        head = host.sets.head(effect.name)
        if head is None:
            return f"set {effect.name} is missing"
        if (head.kind, head.family) != (effect.kind, effect.family):
            return f"set {effect.name} is {head.kind} for IPv{head.family}"
        if head.default_timeout is not None:
            return f"set {effect.name} has entries that time out"
        differs = sorted(host.sets.kept(effect.name) ^ set(effect.entries))
        return f"set {effect.name} differs in {', '.join(differs)}" if differs else None

    def renew(self, host: Host, effect: FixedSet, expires_at_us: int) -> None:
        """Nothing: it only ever takes from the effect."""

    def revert(self, host: Host, effect: FixedSet) -> None:
        with suppress(Unsupported):  # a kernel without ipset has none of ours
            host.sets.destroy(effect.name)

    def absent(self, host: Host, effect: FixedSet) -> str | None:
        with suppress(Unsupported):
            if host.sets.head(effect.name):
                return f"set {effect.name} is still there"
        return None


OPS = FixedSetOps()
