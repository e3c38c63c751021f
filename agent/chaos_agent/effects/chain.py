"""Chain: rules of our own at the head of a hook, in xtables or in nftables.

The chain is built and the jump inserted in one commit, and both go in one, so
there is never half a chain in force. Protected traffic returns in its first rules.
"""

from __future__ import annotations

from chaos_agent.effects.counters import Counters
from chaos_agent.linux.cgroupfs import unified_id
from chaos_agent.linux.host import Host
from chaos_core.effects import Chain
from chaos_core.errors import Refused
from chaos_core.hits import Hits

_PASSING = ("RETURN", "SEEN", "EXPOSED")
_STRIKING = {
    "DROP": "dropped",
    "REJECT": "rejected",
    "REDIRECT": "redirected",
    "NFQUEUE": "changed",
}


class ChainOps:
    def apply(
        self,
        host: Host,
        effect: Chain,
        expires_at_us: int,  # noqa: ARG002 - the leased set holds the lease
        deadline_us: int | None = None,  # noqa: ARG002
    ) -> None:
        obstacle = host.xtables.obstacle(effect)
        if obstacle:
            mask = (
                "give that rule a mask without these bits, or set network.mark_mask"
                " in agent.toml to bits that nobody else uses"
            )
            queue = "rules in table security and this fault do not go together"
            hint = queue if effect.table == "security" else mask
            raise Refused(obstacle, where=effect.name, hint=hint)
        if self.verify(host, effect) is not None:
            host.chains(effect.backend).put(effect)

    def verify(self, host: Host, effect: Chain) -> str | None:
        hits = [rule for rule in effect.rules if rule.target not in _PASSING]
        for rule in hits:
            if rule.cgroup and unified_id(rule.cgroup) != rule.cgroup_id:
                return f"cgroup {rule.cgroup} is gone, or was made anew"
        for device in sorted({rule.in_device or rule.out_device for rule in hits} - {""}):
            link = host.tc.link(device)
            if link is None or not link.up:
                return f"device {device} is {'down' if link else 'gone'}"
        return host.chains(effect.backend).difference(effect)

    def renew(self, host: Host, effect: Chain, expires_at_us: int) -> None:
        """Nothing: without a live set entry the chain matches nothing."""

    def revert(self, host: Host, effect: Chain) -> None:
        host.chains(effect.backend).remove(effect.family, effect.table, effect.name)

    def absent(self, host: Host, effect: Chain) -> str | None:
        return host.chains(effect.backend).leftover(effect)

    def count(self, host: Host, effect: Chain, counters: Counters) -> Hits | None:  # noqa: ARG002
        """Of a share, what meets it is hit. What gets a mark is counted where it is redirected."""
        targets = {rule.target for rule in effect.rules}
        if "SEEN" not in targets:
            return None
        struck = counters.met(effect, *_STRIKING)
        hit, note = struck, ""
        if "EXPOSED" in targets and "MARK" in targets:  # of every n-th packet the others
            hit = max(0, counters.met(effect, "EXPOSED") - counters.met(effect, "MARK"))
        elif "EXPOSED" in targets and (struck_at := targets & set(_STRIKING)):
            hit = max(struck, counters.met(effect, "EXPOSED"))
            note = f"{struck} of them {_STRIKING[min(struck_at)]}" if hit else ""
        opening = effect.table == "nat" or all(
            rule.syn for rule in effect.rules if rule.target == "SEEN"
        )
        return Hits(
            count=hit,
            unit="connections" if opening else "packets",
            seen=counters.met(effect, "SEEN"),
            note=note,
        )


OPS = ChainOps()
