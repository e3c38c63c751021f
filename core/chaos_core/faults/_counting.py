"""Rules that only count what a chain could have hit.

A fault on the wrong interface has rules that nothing meets, and so has one without any
traffic. The first has done nothing, the second had nothing to do. So before the rules that
hit stand others that let every packet go on and count it:

- SEEN: all that the rules are about, by whatever device and without a share;
- EXPOSED, where rules hit a share only: all that meets the share.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

from chaos_core.effects import Chain, Rule

_HITTING = ("MARK", "DROP", "REJECT", "REDIRECT", "NFQUEUE")


def counted(rules: Iterable[Rule], *, anywhere: bool = True) -> tuple[Rule, ...]:
    """The same rules behind those that count for them; none count for CT, which hits nothing.

    Without ``anywhere`` a device is part of what the rules are about, as the interface is of
    a fault that hits all of its traffic.
    """
    given = tuple(rules)
    hitting = [rule for rule in given if rule.target in _HITTING]
    shares = [rule for rule in given if rule.probability or rule.every or rule.per_day]
    seen = [bare(rule, "SEEN") for rule in hitting]
    if anywhere:
        seen = [replace(rule, in_device="", out_device="") for rule in seen]
    exposed = [bare(rule, "EXPOSED") for rule in shares]
    return (*dict.fromkeys((*seen, *exposed)), *given)


def bare(rule: Rule, target: Literal["SEEN", "EXPOSED"]) -> Rule:
    """A rule that counts what that one is about: its matches without its share."""
    return replace(
        rule, target=target, probability=0, every=0, per_day=0, burst=0, mark=0, mask=0,
        reject_with="", to_port=0, zone=0, queue=0,
    )  # fmt: skip


def counts_only(chain: Chain) -> bool:
    """Whether every packet goes on through the chain as it came."""
    return not any(rule.target in (*_HITTING, "CT") for rule in chain.rules)
