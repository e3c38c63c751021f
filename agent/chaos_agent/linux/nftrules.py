"""Sets and chains of ours in nftables: all of a fault and family in one table of its own.

The table is called ``chs-<fault>``, so one delete removes all. Its base chains are asked
just before those of the user's at the same hook; a verdict of theirs does not keep a
packet from ours, nor ours one from theirs but for DROP and REJECT.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from chaos_agent.linux.ipsets import SetHead, canonical
from chaos_agent.linux.nft import Command, Gone, Nft
from chaos_core.effects import CHAIN_PREFIX, LINK_PREFIX, Chain, Family, Rule, is_ours
from chaos_core.errors import ChaosError, NotInForce, Unsupported

SET_TYPE = "interval"
_FAMILY: dict[Family, str] = {4: "ip", 6: "ip6"}
_FAMILIES: dict[str, Family] = {"ip": 4, "ip6": 6}
_TYPE = {4: "ipv4_addr", 6: "ipv6_addr"}
# nf_ip_hook_priorities, less one: NF_IP_PRI_RAW, MANGLE, FILTER, NAT_DST and SECURITY.
_PRIORITY = {"raw": -301, "mangle": -151, "filter": -1, "nat": -101, "security": 49}
_REJECT = {4: "icmp", 6: "icmpv6"}
_REJECT_PREFIX = {4: "icmp-", 6: "icmp6-"}  # of xtables' names for the same
_USUAL_REFUSALS = [
    {"reject": {"type": kind, "expr": "port-unreachable"}} for kind in _REJECT.values()
]
_ICMPV6 = {
    "133": "nd-router-solicit",
    "134": "nd-router-advert",
    "135": "nd-neighbor-solicit",
    "136": "nd-neighbor-advert",
    "137": "nd-redirect",
}
_MILLION = 1_000_000
_DEFAULT_TIMEOUT_S = 3_600  # longer than any fault


def table_of(name: str) -> str:
    """The table that holds a set or a chain of ours of that name."""
    if not is_ours(name):
        raise ChaosError(f"{name} is no name of ours")
    fault = name.removeprefix(LINK_PREFIX).removeprefix(CHAIN_PREFIX).partition("-")[0]
    return f"{LINK_PREFIX}{fault}"


class NftSets:
    """Leased sets. The same calls as those of ``IpSets``."""

    kind = SET_TYPE

    def __init__(self, nft: Nft) -> None:
        self._nft = nft

    def create(self, name: str, family: Family) -> None:
        """Create the set and its table unless they exist.

        Every entry is put in with a timeout. The set's own is for what nft 0.9 gives none: the
        end of an interval, which must not be gone before its beginning.
        """
        where = {"family": _FAMILY[family], "table": table_of(name), "name": name}
        self._nft.run(
            {"add": {"table": {"family": _FAMILY[family], "name": table_of(name)}}},
            {"add": {"set": {**where, "type": _TYPE[family], "timeout": _DEFAULT_TIMEOUT_S,
                             "flags": ["interval", "timeout"]}}},
        )  # fmt: skip

    def put(self, name: str, family: Family, cidrs: Iterable[str], timeout: int) -> None:
        """Add entries, in whole seconds from now, at least 1: all of them or none."""
        self._nft.run(self._add(name, family, cidrs, timeout))

    def move(self, name: str, family: Family, cidrs: tuple[str, ...], timeout: int) -> None:
        """Move the timeouts of live entries. Raises NotInForce when one has lapsed meanwhile."""
        bare = [_value(cidr) for cidr in cidrs]
        try:
            self._nft.run(
                {"delete": {"element": {**self._where(name, family), "elem": bare}}},
                self._add(name, family, cidrs, timeout),
            )
        except Gone:
            raise NotInForce(f"set {name}: an entry lapsed", where=name) from None

    def empty(self, name: str, family: Family) -> None:
        """Take all entries out of one of our sets. Idempotent, also without the set."""
        with suppress(Gone):
            self._nft.run({"flush": {"set": self._where(name, family)}})

    def head(self, name: str) -> SetHead | None:
        """The set called ``name``, or None."""
        return next((head for head in self.heads() if head.name == name), None)

    def heads(self) -> list[SetHead]:
        """Every set in tables of ours."""
        return [
            SetHead(
                name=body["name"],
                kind=SET_TYPE if SET_TYPE in body.get("flags", ()) else str(body["type"]),
                family=_FAMILIES[body["family"]],
                default_timeout=body.get("timeout") if "timeout" in body["flags"] else None,
            )
            for family, table in self._nft.tables()
            if is_ours(table)
            for kind, body in self._nft.table(family, table)
            if kind == "set"
        ]

    def entries(self, name: str) -> dict[str, int]:
        """Live entries as CIDR → seconds left. Empty without the set."""
        return {
            _cidr(element["elem"]["val"]): max(1, int(element["elem"].get("expires", 0)))
            for family in _FAMILIES
            for kind, body in self._nft.table(family, table_of(name))
            if kind == "set" and body["name"] == name
            for element in body.get("elem", ())
        }

    def destroy(self, name: str) -> None:
        """Remove the table of the set, with all that is in it, if it is there."""
        for family in _FAMILIES:
            remove_table(self._nft, family, table_of(name), holding=name)

    def _add(self, name: str, family: Family, cidrs: Iterable[str], timeout: int) -> Command:
        if timeout < 1:
            raise ChaosError("a timeout of 0 would be for ever", where=name)
        elements = [{"elem": {"val": _value(cidr), "timeout": timeout}} for cidr in cidrs]
        return {"add": {"element": {**self._where(name, family), "elem": elements}}}

    def _where(self, name: str, family: Family) -> dict[str, str]:
        return {"family": _FAMILY[family], "table": table_of(name), "name": name}


class NftChains:
    """Chains of ours. The same calls as those of ``Xtables``."""

    def __init__(self, nft: Nft) -> None:
        self._nft = nft
        self._counted: dict[tuple[Family, str], tuple[int, ...]] = {}

    def put(self, chain: Chain) -> None:
        """Make the chain what ``chain`` says, in one transaction. Raises Unsupported."""
        self.remove(chain.family, chain.table, chain.name)
        self._nft.run(
            {"add": {"table": {"family": _FAMILY[chain.family], "name": table_of(chain.name)}}},
            {"add": {"chain": {**_where(chain), "name": chain.name, **_hook(chain)}}},
            *(
                {"add": {"rule": {**_where(chain), "chain": chain.name, "expr": expression}}}
                for expression in _expressions(chain)
            ),
        )

    def remove(self, family: Family, table: str, name: str) -> None:  # noqa: ARG002
        """Remove one of our chains, and with the last thing in it their table. Idempotent."""
        self._counted.pop((family, name), None)
        listed = self._nft.table(_FAMILY[family], table_of(name))
        chain = [b for kind, b in listed if kind == "chain" and b["name"] == name]
        others = [b for kind, b in listed if kind in ("chain", "set", "map") and b not in chain]
        if listed and not others:
            remove_table(self._nft, _FAMILY[family], table_of(name))
        elif chain:
            where = {"family": _FAMILY[family], "table": table_of(name), "name": name}
            self._nft.run({"flush": {"chain": where}}, {"delete": {"chain": where}})

    def difference(self, chain: Chain) -> str | None:
        """One line that says how the kernel differs from ``chain``; None when it does not."""
        where = f"table {_FAMILY[chain.family]} {table_of(chain.name)}"
        found, rules = self._found(chain.family, chain.name)
        if found is None:
            return f"chain {chain.name} is missing in {where}"
        self._counted[chain.family, chain.name] = tuple(map(_met, rules))
        for key, wanted in _hook(chain).items():
            if found.get(key) != wanted:
                return f"chain {chain.name} has {key} {found.get(key)}, not {wanted}"
        have, want = [_plain(rule) for rule in rules], [_plain(e) for e in _expressions(chain)]
        if len(have) != len(want):
            return f"chain {chain.name} has {len(have)} rules, not {len(want)}"
        for number, (one, other) in enumerate(zip(have, want, strict=True), 1):
            if one != other:
                return f"rule {number} of {chain.name} is {one}, not {other}"
        return None

    def leftover(self, chain: Chain) -> str | None:
        """One line when something of the chain is still there."""
        if self._found(chain.family, chain.name)[0] is None:
            return None
        return f"chain {chain.name} is still in table {_FAMILY[chain.family]}"

    def last_packets(self, chain: Chain) -> tuple[int, ...]:
        """The same as ``packets``, as it was when ``difference`` was last asked."""
        return self._counted.get((chain.family, chain.name), ())

    def packets(self, chain: Chain) -> tuple[int, ...]:
        """How many packets each rule has met, in order (RETURN: 0). Empty when it is not there."""
        found, rules = self._found(chain.family, chain.name)
        return tuple(map(_met, rules)) if found else ()

    def try_rule(self, chain: Chain) -> None:
        """Commit ``chain`` without a hook and take it away again. Raises Unsupported."""
        table = {"family": _FAMILY[chain.family], "name": table_of(chain.name)}
        try:
            self._nft.run(
                {"add": {"table": table}},
                {"add": {"chain": {**_where(chain), "name": chain.name}}},
                *(
                    {"add": {"rule": {**_where(chain), "chain": chain.name, "expr": expression}}}
                    for expression in _expressions(chain)
                ),
            )
        finally:
            self.remove(chain.family, chain.table, chain.name)

    def _found(self, family: Family, name: str) -> tuple[Command | None, list[Any]]:
        """The chain and its rules' expressions, as listed."""
        listed = self._nft.table(_FAMILY[family], table_of(name))
        chain = next((b for kind, b in listed if kind == "chain" and b["name"] == name), None)
        return chain, [b["expr"] for kind, b in listed if kind == "rule" and b["chain"] == name]


def remove_table(nft: Nft, family: str, name: str, holding: str = "") -> None:
    """Delete a table of ours, if it is there (and has a set of that name)."""
    if not is_ours(name):
        raise ChaosError(f"{name} is not a table of ours")
    found = nft.table(family, name)
    sets = [body["name"] for kind, body in found if kind == "set"]
    if found and (not holding or holding in sets):
        nft.run({"delete": {"table": {"family": family, "name": name}}})


# ── a Rule as nftables writes it ──────────────────────────────────────────────────────────


def _where(chain: Chain) -> dict[str, str]:
    return {"family": _FAMILY[chain.family], "table": table_of(chain.name)}


def _hook(chain: Chain) -> dict[str, Any]:
    return {
        "type": "nat" if chain.table == "nat" else "filter",
        "hook": chain.hook.lower(),
        "prio": _PRIORITY[chain.table] + (2 if chain.end else 0),
        "policy": "accept",
    }


def _expressions(chain: Chain) -> list[list[Command]]:
    if any(rule.target == "NFQUEUE" for rule in chain.rules):
        raise Unsupported("packets are not queued to a process by nftables here")
    return [[*_matches(rule, chain.family), *_verdict(rule, chain.family)] for rule in chain.rules]


_KNOWN = frozenset(
    {
        *("target", "source", "destination", "protocol", "source_ports", "destination_ports"),
        *("icmpv6_type", "in_device", "out_device", "match_set", "set_side", "probability"),
        *("mark", "mask", "reject_with", "uid", "syn", "per_day", "burst", "every"),
        *("to_port", "own", "original_ports", "original_side"),
    }
)


def _matches(rule: Rule, family: Family) -> Iterator[Command]:
    for part in dataclasses.fields(rule):
        if part.name not in _KNOWN and getattr(rule, part.name) != part.default:
            raise Unsupported(f"{part.name.replace('_', ' ')} cannot be matched by nftables here")
    ip = _FAMILY[family]
    ports = [("sport", rule.source_ports), ("dport", rule.destination_ports)]
    if rule.icmpv6_type:
        yield _is(_payload("icmpv6", "type"), _ICMPV6.get(rule.icmpv6_type, rule.icmpv6_type))
    elif rule.protocol and not (rule.source_ports or rule.destination_ports or rule.syn):
        yield _is(_meta("l4proto"), rule.protocol.replace("icmpv6", "ipv6-icmp"))
    for field, address in (("saddr", rule.source), ("daddr", rule.destination)):
        if address:
            yield _is(_payload(ip, field), _value(address))
    for key, device in (("iifname", rule.in_device), ("oifname", rule.out_device)):
        if device:
            yield _is(_meta(key), device)
    for field, ranges in ports:
        if ranges:
            yield _is(_payload(rule.protocol, field), _ports(ranges))
    if rule.syn:
        # Two at a time: 0.9 takes no list here.
        some = {"|": [{"|": [{"|": ["fin", "syn"]}, "rst"]}, "ack"]}
        flags = {"&": [_payload("tcp", "flags"), some]}
        yield _is(flags, "syn")
    if rule.uid is not None:
        yield _is(_meta("skuid"), rule.uid)
    if rule.match_set:
        field = "saddr" if rule.set_side == "src" else "daddr"
        yield _is(_payload(ip, field), f"@{rule.match_set}")
    if rule.own:
        address_type = {"fib": {"result": "type", "flags": [f"{rule.own[0]}addr"]}}
        yield _is(address_type, "local")
    if rule.original_ports:
        yield _is(_ct("status"), "dnat", "in")
        yield _is(_ct("direction"), "original" if rule.original_side == "dst" else "reply")
        yield _is(_ct("proto-dst", dir="original"), _ports(rule.original_ports))
    if rule.probability:
        dice = {"numgen": {"mode": "random", "mod": _MILLION, "offset": 0}}
        yield _is(dice, rule.probability, "<")
    if rule.every:
        counter = {"numgen": {"mode": "inc", "mod": rule.every, "offset": 0}}
        yield _is(counter, rule.every - 1)
    if rule.per_day:
        yield {"limit": {"rate": rule.per_day, "burst": rule.burst, "per": "day"}}


def _verdict(rule: Rule, family: Family) -> Iterator[Command]:
    if rule.target == "RETURN":
        yield {"return": None}
        return
    yield {"counter": {"packets": 0, "bytes": 0}}
    if rule.target in ("SEEN", "EXPOSED"):
        return
    if rule.target == "DROP":
        yield {"drop": None}
    elif rule.target == "REDIRECT":
        yield {"redirect": {"port": rule.to_port}}
    elif rule.reject_with == "tcp-reset":
        yield {"reject": {"type": "tcp reset"}}
    elif rule.target == "REJECT":
        why = rule.reject_with.removeprefix(_REJECT_PREFIX[family]) or "port-unreachable"
        yield {"reject": {"type": _REJECT[family], "expr": why}}
    else:
        yield {"mangle": {"key": _meta("mark"), "value": {"|": [_meta("mark"), rule.mark]}}}


def _is(left: Command, right: Any, operator: str = "==") -> Command:
    return {"match": {"op": operator, "left": left, "right": right}}


def _meta(key: str) -> Command:
    return {"meta": {"key": key}}


def _ct(key: str, **more: str) -> Command:
    return {"ct": {"key": key, **more}}


def _payload(protocol: str, field: str) -> Command:
    return {"payload": {"protocol": protocol, "field": field}}


def _ports(ranges: tuple[str, ...]) -> Any:
    listed: list[Any] = []
    for text in sorted(ranges, key=lambda text: int(text.partition(":")[0])):
        low, _, high = text.partition(":")
        listed.append({"range": [int(low), int(high)]} if high else int(low))
    return {"set": listed} if len(listed) > 1 else listed[0]


def _value(cidr: str) -> Any:
    net = ipaddress.ip_network(cidr)
    if net.prefixlen == net.max_prefixlen:
        return str(net.network_address)
    return {"prefix": {"addr": str(net.network_address), "len": net.prefixlen}}


def _cidr(value: Any) -> str:
    match value:
        case {"prefix": {"addr": address, "len": length}}:
            return canonical(f"{address}/{length}")
        case {"range": [first, last]}:  # the agent adds addresses and prefixes only
            return f"{first}-{last}"
        case _:
            return canonical(str(value))


def _met(expression: list[Command]) -> int:
    """What the rule's own counter says."""
    return sum(part["counter"]["packets"] for part in expression if "counter" in part)


def _plain(expression: list[Command]) -> list[Command]:
    """Without what counts. A reset implies TCP, so that match is not listed.

    Several flags are a list, or with nftables 0.9 and since 1.1 what joins them; the usual
    refusal is written out, or before 1.0 left out.
    """
    implied = (
        [_is(_meta("l4proto"), "tcp")] if {"reject": {"type": "tcp reset"}} in expression else []
    )
    return [_steady(part) for part in expression if part not in implied]


def _steady(part: Command) -> Command:
    if "counter" in part:
        return {"counter": None}
    return {"reject": None} if part in _USUAL_REFUSALS else _unjoined(part)


def _unjoined(part: Any) -> Any:
    """The same with names that are joined, as in ``(a | b) | c``, as a sorted list of them."""
    if names := _joined(part):
        return sorted(names)
    if isinstance(part, list):
        return [_unjoined(one) for one in part]
    if not isinstance(part, dict):
        return part
    return {key: _unjoined(value) for key, value in part.items()}


def _joined(part: Any) -> list[str]:
    """The names in a list of such, or in what joins them; none for anything else."""
    match part:
        case {"|": [*parts]} | [*parts]:
            names = [[one] if isinstance(one, str) else _joined(one) for one in parts]
            return [name for one in names for name in one] if all(names) else []
    return []
