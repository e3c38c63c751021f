"""This node's devices and routes, read from the kernel as plain values."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from chaos_agent.linux import tcx
from chaos_agent.linux.tc import Tc
from chaos_agent.linux.tcvalues import Link
from chaos_core.effects import Family, is_ours

_MAIN_TABLE = 254
_UNICAST = 1
_ANY: dict[Family, str] = {4: "0.0.0.0", 6: "::"}  # noqa: S104 - a destination, not a socket


@dataclass(frozen=True, slots=True)
class Device:
    """A network device that is not ours. ``addresses`` are without prefix length.

    ``prefs`` are the filter preferences in use on its clsact egress, ``marks`` the
    marks that filters there redirect. ``egress_taken`` and ``ingress_taken`` say why no
    filter can be added there, or would see no packets.
    """

    name: str
    index: int
    kind: str
    up: bool
    loopback: bool
    addresses: tuple[str, ...]
    prefs: frozenset[int]
    marks: frozenset[int]
    egress_taken: str = ""
    ingress_taken: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """A unicast route of the main table; one for each next hop of a multipath route."""

    family: Family
    destination: str
    device: str
    metric: int


class Routes:
    """Reads by the given rtnetlink socket."""

    def __init__(self, tc: Tc) -> None:
        self._tc = tc

    def devices(self) -> list[Device]:
        """Every device but our own."""
        addresses: dict[int, list[str]] = {}
        for message in self._tc.dump_addresses():
            text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            addresses.setdefault(message["index"], []).append(text)
        hooks = self._tc.hook_qdiscs()
        guarded = {index for index, kind in hooks.items() if kind == "clsact"}
        found = []
        for link in self._tc.links():
            if is_ours(link.name):
                continue
            filters = self._tc.dump_filters(link.index) if link.index in guarded else []
            redirects = self._tc.redirects(link.index) if link.index in guarded else []
            found.append(
                Device(
                    name=link.name,
                    index=link.index,
                    kind=link.kind,
                    up=link.up,
                    loopback=link.loopback,
                    addresses=tuple(addresses.get(link.index, ())),
                    prefs=frozenset(
                        message["info"] >> 16 for hook, message in filters if hook == "egress"
                    ),
                    marks=frozenset(redirect.mark for redirect in redirects),
                    egress_taken=_taken(link, hooks, "egress"),
                    ingress_taken=_taken(link, hooks, "ingress"),
                )
            )
        return found

    def routes(self) -> list[Route]:
        names = {link.index: link.name for link in self._tc.links()}
        families: tuple[Family, ...] = (4, 6)
        return [
            Route(family, destination, names[index], metric)
            for family in families
            for message in self._tc.dump_routes(socket.AF_INET if family == 4 else socket.AF_INET6)
            for destination, index, metric in _hops(family, message)
            if index in names
        ]


def _taken(link: Link, hooks: Mapping[int, str], side: tcx.Side) -> str:
    """What keeps filters of ours from that side of a device; empty when nothing is known to."""
    if hooks.get(link.index) == "ingress":
        return (
            f"the plain ingress qdisc on {link.name} is in the place of clsact, which the detour"
            " of this fault takes"
        )
    return tcx.obstacle(link.index, link.name, side)


def _hops(family: Family, message: Any) -> Iterator[tuple[str, int, int]]:
    """A route message as (CIDR, ifindex, metric), once for each next hop."""
    table = message.get_attr("RTA_TABLE") or message["table"]
    if table != _MAIN_TABLE or message["type"] != _UNICAST:
        return
    destination = f"{message.get_attr('RTA_DST') or _ANY[family]}/{message['dst_len']}"
    metric = message.get_attr("RTA_PRIORITY") or 0
    device = message.get_attr("RTA_OIF")
    if device is not None:
        yield destination, device, metric
    for hop in message.get_attr("RTA_MULTIPATH") or ():
        yield destination, hop["oif"], metric
