"""What this node looks like, as sorted lines of text that can be compared.

Taken before a fault and after its revert: of what is ours the two must be equal, or the node
is quarantined; what of others' differs is told. Two kinds of things are in it: whatever of the
user's a fault could have harmed (its devices with their qdiscs and filters, the rules of its
tables, units), and everything that carries our tag, anywhere. What no fault can harm stays out
of it, like other links and sets: on a host with containers they come and go all the time.

Left out is what changes by itself: counters, timeouts, process ids, handles of jumps.
So is the clsact that a link of ours claims: it stands and falls with that link, unless
somebody has hung a filter of theirs on it. A
table that nobody has opened yet equals one that is empty.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos_agent.linux import clock, limits, processes
from chaos_agent.linux.host import Host
from chaos_agent.linux.tcvalues import read_redirect
from chaos_core.effects import (
    CHAIN_PREFIX,
    LINK_PREFIX,
    CgroupLimit,
    Chain,
    ClockShift,
    Effect,
    Family,
    IngressPipe,
    LeasedSet,
    Pipe,
    Stop,
    Unit,
    is_ours,
)
from chaos_core.errors import Unsupported

Snapshot = dict[str, list[str]]

RUN_DIRECTORY = Path("/run/chaos")
_FAMILIES: tuple[Family, ...] = (4, 6)
_OURS = re.compile(rf"(?:{LINK_PREFIX}|{CHAIN_PREFIX})([0-9a-f]{{8}}|doctor)\b")
# Statistics, and what the kernel counts within options, filters and actions.
_VOLATILE_ATTRIBUTES = re.compile(r"STATS|_TM$|_PCNT$|^UNKNOWN$|TIMEOUT|BYTES|PACKETS|LINENO")
_OPAQUE = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){8,}")  # unread: counters may be in it
_EMPTY = "empty"
_COUNTED = re.compile(r'"(?:packets|bytes|used|expires)": \d+,?')
_CLSACT = ("egress", "ingress")
_HELD = f"{LINK_PREFIX}{0:08x}"  # tags what a fault holds changed and what has no name of ours
_VOLATILE_FIELDS = frozenset({"direct_pkts", "refcnt", "bindcnt", "header"})


@dataclass(frozen=True, slots=True)
class Scope:
    """The foreign things that a fault could harm: devices, tables and units, by name; and
    limits of cgroups, the clock and processes, by what is done to them."""

    devices: frozenset[str] = frozenset()
    tables: frozenset[str] = frozenset()
    nft: bool = False  # every table of nftables
    units: frozenset[str] = frozenset()
    limits: frozenset[CgroupLimit] = frozenset()
    clocks: frozenset[ClockShift] = frozenset()
    victims: frozenset[tuple[int, ...]] = frozenset()


def scope_of(effects: Iterable[Effect]) -> Scope:
    """What the effects touch."""
    effects = tuple(effects)
    return Scope(
        devices=frozenset(
            effect.device for effect in effects if isinstance(effect, Pipe | IngressPipe)
        ),
        tables=frozenset(
            effect.table
            for effect in effects
            if isinstance(effect, Chain) and effect.backend == "xtables"
        ),
        nft=any(
            effect.backend == "nft" for effect in effects if isinstance(effect, Chain | LeasedSet)
        ),
        units=frozenset(effect.unit for effect in effects if isinstance(effect, Unit)),
        limits=frozenset(effect for effect in effects if isinstance(effect, CgroupLimit)),
        victims=frozenset(
            victim for effect in effects if isinstance(effect, Stop) for victim in effect.victims
        ),
        clocks=frozenset(effect for effect in effects if isinstance(effect, ClockShift)),
    )


def take(host: Host, scope: Scope) -> Snapshot:
    """The node as it is now, JSON-able. Each list is sorted."""
    traffic = _Traffic(host, scope)
    parts = {
        "links": traffic.links(),
        "qdiscs": traffic.qdiscs(),
        "filters": traffic.filters(),
        "rules": _rules(host, scope),
        "nft": _nft(host, scope),
        "sets": _sets(host),
        "cgroups": _cgroups(host),
        "processes": _processes(host, scope),
        "files": _files(),
        "units": _units(host, scope),
        "limits": _limits(scope),
        "clock": _clock(scope),
    }
    return {name: sorted(lines) for name, lines in parts.items()}


def without(snapshot: Snapshot, faults: Iterable[str]) -> Snapshot:
    """The snapshot less the lines that carry the id of one of these faults."""
    others = set(faults)
    return {
        name: [line for line in lines if not others & set(_OURS.findall(line))]
        for name, lines in snapshot.items()
    }


def tagged(snapshot: Snapshot) -> Snapshot:
    """What a fault itself changes while it is in force: what carries our tag, and units."""
    return {
        name: [line for line in lines if name == "units" or _OURS.search(line)]
        for name, lines in snapshot.items()
    }


def foreign(snapshot: Snapshot) -> Snapshot:
    """What it must leave alone even then: the rest."""
    return {
        name: [line for line in lines if name != "units" and not _OURS.search(line)]
        for name, lines in snapshot.items()
    }


def diff(before: Snapshot, after: Snapshot) -> list[str]:
    """``+ …`` for what is there now and was not, ``- …`` for what is gone; empty when equal.

    Things of ours that are gone are no difference: another fault may have ended.
    """
    lines = []
    for name in sorted(before.keys() | after.keys()):
        old, new = Counter(before.get(name, ())), Counter(after.get(name, ()))
        gone = sorted((old - new).elements())
        lines += [f"- {name}: {line}" for line in gone if not _OURS.search(line)]
        lines += [f"+ {name}: {line}" for line in sorted((new - old).elements())]
    return lines


def our_doing(before: Snapshot, after: Snapshot) -> list[str]:
    """``diff`` of what a fault brings or changes itself.

    And ``+ …`` for each clsact without a filter on it where there was none: ours by all odds,
    though the link and the filter that claimed it are gone.
    """
    was = {line.removesuffix(_EMPTY) for line in before.get("qdiscs", ())}
    return [
        *diff(tagged(before), tagged(after)),
        *(
            f"+ qdiscs: {line}"
            for line in after.get("qdiscs", ())
            if line.endswith(_EMPTY) and line.removesuffix(_EMPTY) not in was
        ),
    ]


class _Traffic:
    """Links, qdiscs and filters in scope, each read once: netlink is most of a snapshot's time."""

    def __init__(self, host: Host, scope: Scope) -> None:
        self._host = host
        self._scope = scope
        self._all = host.tc.links()
        self._names = {link.index: link.name for link in self._all}
        devices = [link.index for link in self._all if link.name in scope.devices]
        self._dumped = {index: host.tc.dump_filters(index) for index in devices}
        self._redirects = {
            index: [
                redirect
                for hook, message in dumped
                if hook in _CLSACT and (redirect := read_redirect(message))
            ]
            for index, dumped in self._dumped.items()
        }

    def links(self) -> Iterator[str]:
        for link in self._all:
            if link.name in self._scope.devices or is_ours(link.name):
                yield f"{link.name} {link.kind} {'up' if link.up else 'down'}".replace("  ", " ")

    def qdiscs(self) -> Iterator[str]:
        claimed = {link.clsact_of for link in self._all if is_ours(link.name)}
        claimed |= {
            each.device for found in self._redirects.values() for each in found if each.claims
        }
        named = {i for i, n in self._names.items() if n in self._scope.devices or is_ours(n)}
        for message in self._host.tc.dump_qdiscs(named):
            index, kind = message["index"], message.get_attr("TCA_KIND")
            name = self._names[index]
            empty = kind == "clsact" and not self._others_filters(index)
            if empty and index in claimed:
                continue
            options = _plain(message.get_attr("TCA_OPTIONS"))
            parent = f"parent {message['parent']:x}"
            yield f"{name} {kind} {message['handle'] >> 16:x}: {parent} {options}{_EMPTY * empty}"

    def filters(self) -> Iterator[str]:
        tagged = {index: name for index, name in self._names.items() if is_ours(name)}
        for index, dumped in self._dumped.items():
            ours = {
                (redirect.parent, redirect.pref, redirect.handle): self._names.get(
                    redirect.target, f"{LINK_PREFIX}{0:08x}"
                )
                for redirect in self._redirects[index]
                if redirect.ours or redirect.target in tagged
            }
            heads = {(parent, pref, 0): owner for (parent, pref, _), owner in ours.items()}
            for hook, message in dumped:
                pref, handle = message["info"] >> 16, message["handle"]
                kind = message.get_attr("TCA_KIND")
                owner = (heads | ours).get((message["parent"], pref, handle))
                options = f"to {owner}" if owner else _plain(message.get_attr("TCA_OPTIONS"))
                yield f"{self._names[index]} {hook} {kind} pref {pref} handle {handle:x} {options}"

    def _others_filters(self, device: int) -> bool:
        """Whether anything but ours hangs on the device's clsact."""
        ours = {
            (redirect.parent, redirect.pref)
            for redirect in self._redirects.get(device, ())
            if redirect.ours
        }
        return any(
            hook in _CLSACT and (message["parent"], message["info"] >> 16) not in ours
            for hook, message in self._dumped.get(device, ())
        )


def _rules(host: Host, scope: Scope) -> Iterator[str]:
    for family in _FAMILIES:
        for table in host.xtables.tables(family):
            where = f"IPv{family} {table}"
            in_scope = table in scope.tables
            if not in_scope and not any(map(is_ours, host.xtables.names(family, table))):
                continue  # without a chain of ours no rule can refer to one
            policies, chains = host.xtables.read(family, table)
            for chain, entries in chains.items():
                ours = is_ours(chain)
                tagged = [e.text for e in entries if ours or is_ours(e.target)]
                yield from (f"{where} {chain} {text}" for text in tagged)
                if ours or (in_scope and policies.get(chain) != "ACCEPT"):
                    yield f"{where} chain {chain} {policies.get(chain, '')}".rstrip()
                if in_scope and not ours:
                    others = [e.text for e in entries if not is_ours(e.target)]
                    yield from (f"{where} {chain} {n}: {text}" for n, text in enumerate(others, 1))


def _nft(host: Host, scope: Scope) -> Iterator[str]:
    """nftables' tables, chains, rules and sets in scope, without what counts or times out."""
    with suppress(Unsupported):
        for family, table in host.nft.tables():
            if is_ours(table) or scope.nft:
                for kind, body in host.nft.table(family, table):
                    yield f"{kind} {family} {table} {_steady(kind, body)}"


def _steady(kind: str, body: dict[str, Any]) -> str:
    dropped = {"handle", "family", "table", *(["elem"] if _changes(kind, body) else [])}
    text = json.dumps({k: v for k, v in body.items() if k not in dropped}, sort_keys=True)
    return _COUNTED.sub("", text)


def _changes(kind: str, body: dict[str, Any]) -> bool:
    """Whether the elements of a set come and go by themselves."""
    return kind in ("set", "map") and bool({"timeout", "dynamic"} & set(body.get("flags", ())))


def _sets(host: Host) -> Iterator[str]:
    with suppress(Unsupported):
        for head in host.sets.heads():
            if is_ours(head.name):
                yield f"{head.name} {head.kind} IPv{head.family} timeout {head.default_timeout}"


def _cgroups(host: Host) -> list[str]:
    with suppress(Unsupported):
        return host.cgroups.names()
    return []


def _units(host: Host, scope: Scope) -> Iterator[str]:
    """A unit that is starting will run, which is all that can be said of it in time."""
    for name in scope.units:
        found = host.systemd.state(name)
        active = found.active.replace("activating", "active") if found else "gone"
        yield f"{name} {active} {found.freezer if found else ''}".rstrip()
    yield from (f"timer {name}" for name in host.systemd.armed())
    yield from (f"hook {name}" for name in host.systemd.jobs())


def _limits(scope: Scope) -> Iterator[str]:
    """Limits that are not what they were before the fault; one of our value is tagged."""
    for limit in scope.limits:
        found = limits.read(limit)
        if found not in (None, limit.before):
            whose = _HELD if found == limit.value else "others"
            yield f"{limit.group}/{limit.file} {limit.key} {found} ({whose})"


def _clock(scope: Scope) -> Iterator[str]:
    """The clock, if it is not where it was before the fault."""
    for shift in scope.clocks:
        found = clock.steps(shift)
        if found != 0:
            yield (
                "set (others)"
                if found is None
                else f"moved by {found} × {shift.offset} µs ({_HELD})"
            )


def _processes(host: Host, scope: Scope) -> Iterator[str]:
    """This keeper's holders; and of the user's those that went on before the fault and do not."""
    yield from (f"holder {name}" for name in (*host.children.names(), *host.workers.names()))
    for pid, _ in processes.stopped(scope.victims):
        yield f"{pid} is stopped ({_HELD})"


def _files() -> Iterator[str]:
    if RUN_DIRECTORY.is_dir():
        yield from (str(path) for path in RUN_DIRECTORY.rglob(f"{LINK_PREFIX}*"))


def _plain(message: Any) -> str:
    """A netlink message's fields and attributes, without what changes by itself."""
    if message is None:
        return ""
    if not hasattr(message, "keys"):
        return "" if _OPAQUE.fullmatch(str(message)) else str(message)
    parts = [f"{key}={message[key]}" for key in message.keys() - _VOLATILE_FIELDS - {"attrs"}]
    nested = [
        f"{attribute[0]}({_plain(attribute[1])})"
        for attribute in message.get("attrs", ())
        if not _VOLATILE_ATTRIBUTES.search(attribute[0])
    ]
    return " ".join([*sorted(parts), *nested])
