"""By which interfaces packets to a network leave this node, as the kernel says.

Of a single address the kernel is asked, as ``ip route get fibmatch`` does: once for a plain
packet of this node's, and once for each kind of packet that the rules tell apart (by mark,
source, interface, user, protocol, port), so that policy routing, VPNs and VRFs are in it.
Of a network all tables are read that a rule can lead to. All next hops count.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace

from chaos_agent.linux.fib import UNICAST, Fib, Listed, Packet, Rule
from chaos_core.addresses import Network, network
from chaos_core.effects import Family, is_ours
from chaos_core.node import Way

_MOST_PACKETS = 32  # kinds of packets that the rules tell apart
_LOCAL_TABLE = 255
_NOWHERE = ("none", "blackhole", "unreachable", "prohibit")


class Ways:
    """Asks by the given socket. What it knows of a node is read afresh for each call."""

    def __init__(self, fib: Fib) -> None:
        self._fib = fib

    def towards(self, networks: Iterable[str], interface: str = "") -> dict[str, Way]:
        """The way to each, as seen also from sockets that are bound to ``interface``.

        Raises Unsupported when there are too many routes to go through.
        """
        asked = {text: network(text) for text in networks}
        found: dict[str, Way] = {}
        for family in _families(asked.values()):
            tables = _Tables(self._fib, family, _index(interface))
            found |= {text: tables.way(net) for text, net in asked.items() if net.version == family}
        return {text: found[text] for text in asked}


class _Tables:
    """The rules and routes of one family; routes are read when first needed."""

    def __init__(self, fib: Fib, family: Family, interface: int) -> None:
        self._fib = fib
        self._family = family
        self._interface = interface
        self._rules = fib.rules(family)
        has_vrfs = any(rule.vrfs for rule in self._rules)
        self._vrfs = {one.index: one.table for one in fib.ports("vrf")} if has_vrfs else {}
        self._routes: list[Listed] | None = None
        self._own: list[tuple[int, str]] | None = None

    def way(self, net: Network) -> Way:
        if net.num_addresses == 1:
            return self._to_address(str(net.network_address))
        if self._interface:
            bound = self._fib.ask(
                self._family, str(net.network_address + 1), Packet(oif=self._interface)
            )
            if bound.kind == UNICAST and self._interface in bound.hops:
                return _way([self._interface])
        return self._to_network(net)

    # ── single addresses ──────────────────────────────────────────────────────────────

    def _to_address(self, destination: str) -> Way:
        plain = self._fib.ask(self._family, destination, Packet())
        if plain.kind not in (UNICAST, *_NOWHERE):
            return Way(kind=plain.kind)
        others = (
            self._fib.ask(self._family, destination, packet)
            for packet in self._packets(destination)
        )
        hops = [hop for one in (plain, *others) if one.kind == UNICAST for hop in one.hops]
        return _way(hops, plain.kind)

    def _packets(self, destination: str) -> list[Packet]:
        """A packet for each rule that some packets meet and others to the same place do not."""
        found: dict[Packet, None] = {}
        tables: set[int] = set()  # reached by source: one source is enough
        address = ipaddress.ip_address(destination)
        if self._interface:
            found[Packet(oif=self._interface)] = None
        for rule in self._rules:
            if rule.vrfs:
                found |= dict.fromkeys(Packet(oif=vrf) for vrf in self._vrfs)
                continue
            if rule.to and not rule.inverted and address not in ipaddress.ip_network(rule.to):
                continue
            if rule.source or rule.iif not in ("", "lo"):
                if rule.table in tables:
                    continue
                tables.add(rule.table)
            found |= dict.fromkeys(self._meeting(rule))
        found.pop(Packet(), None)
        return list(found)[:_MOST_PACKETS]

    def _meeting(self, rule: Rule) -> Iterator[Packet]:
        """Packets that this rule matches, if such can be thought of."""
        packet = rule.packet()
        if rule.oif:
            packet = replace(packet, oif=_index(rule.oif))
        entry = "" if rule.iif == "lo" else rule.iif
        if not rule.source and not entry:
            yield packet
            return
        own = self._addresses()
        if rule.source:
            inside = ipaddress.ip_network(rule.source)
            sources = [text for _, text in own if ipaddress.ip_address(text) in inside]
            if sources and not entry:
                yield replace(packet, source=sources[0])
                return
            source = str(inside[0] if inside.num_addresses == 1 else inside[1])
        else:
            source = next((_beside(text) for at, text in own if at == _index(entry)), "")
        # Not from this node: what it forwards. It came by where the way back leads to.
        index = _index(entry) if entry else 0
        if not index and source:
            index = next(iter(self._fib.ask(self._family, source, Packet()).hops), 0)
        if index and (source or self._family == 6):
            yield replace(packet, source=source, iif=index)

    def _addresses(self) -> list[tuple[int, str]]:
        if self._own is None:
            self._own = [
                (index, text)
                for index, text in self._fib.addresses(self._family)
                if not ipaddress.ip_address(text).is_link_local
            ]
        return self._own

    # ── networks ──────────────────────────────────────────────────────────────────────

    def _to_network(self, net: Network) -> Way:
        """In each table the best route that holds all of ``net``, and all that are inside it.

        What is on a link alone (fe80::/10) counts only when it is asked for.
        """
        if self._routes is None:
            self._routes = self._fib.routes(self._family)
        tables = {*(rule.table for rule in self._rules), *self._vrfs.values()} - {_LOCAL_TABLE}
        low = int(net.network_address)
        hops: set[int] = set()
        best: dict[int, list[Listed]] = {}
        for route in self._routes:
            apart = net.max_prefixlen - min(route.length, net.prefixlen)
            if route.table not in tables or route.network >> apart != low >> apart:
                continue
            if route.length > net.prefixlen:
                if net.is_link_local or not self._on_link_alone(route):
                    hops.update(route.hops)
                continue
            known = best.setdefault(route.table, [route])
            if route.rank() < known[0].rank():
                best[route.table] = [route]
            elif route.rank() == known[0].rank():
                known.append(route)
        holding = [route for routes in best.values() for route in routes]
        hops.update(hop for route in holding for hop in route.hops)
        return _way(hops, holding[0].kind if holding else "none")

    def _on_link_alone(self, route: Listed) -> bool:
        """fe80::/10 and ff00::/8."""
        return self._family == 6 and (route.network >> 118 == 0x3FA or route.network >> 120 == 0xFF)


def _families(networks: Iterable[Network]) -> tuple[Family, ...]:
    versions = {net.version for net in networks}
    both: tuple[Family, ...] = (4, 6)
    return tuple(family for family in both if family in versions)


def _way(hops: Iterable[int], otherwise: str = "none") -> Way:
    """The way by these devices, but for our own: they carry nothing that we did not send there."""
    names = set()
    for hop in set(hops):
        with suppress(OSError):
            names.add(socket.if_indextoname(hop))
    devices = tuple(sorted(name for name in names if not is_ours(name)))
    if devices:
        return Way(devices)
    return Way(kind="none" if otherwise == UNICAST else otherwise)


def _index(name: str) -> int:
    """0 when there is no such device."""
    with suppress(OSError):
        return socket.if_nametoindex(name) if name else 0
    return 0


def _beside(address: str) -> str:
    """An address that is likely to be on the same link."""
    return str(ipaddress.ip_address(int(ipaddress.ip_address(address)) ^ 3))
