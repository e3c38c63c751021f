"""This node's network devices, read from the kernel as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from chaos_agent.linux import tcx
from chaos_agent.linux.fib import Fib, Port
from chaos_agent.linux.tc import Tc
from chaos_core.effects import Family, is_ours


@dataclass(frozen=True, slots=True)
class Device:
    """A network device that is not ours. ``addresses`` are without prefix length,
    ``vrf`` is the VRF that it belongs to.

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
    vrf: str = ""
    egress_taken: str = ""
    ingress_taken: str = ""


class Devices:
    """Reads by the given sockets."""

    def __init__(self, tc: Tc, fib: Fib) -> None:
        self._tc = tc
        self._fib = fib

    def all(self) -> list[Device]:
        """Every device but our own."""
        addresses: dict[int, list[str]] = {}
        families: tuple[Family, ...] = (4, 6)
        for family in families:
            for index, text in self._fib.addresses(family):
                addresses.setdefault(index, []).append(text)
        hooks = self._tc.hook_qdiscs()
        ports = self._fib.ports()
        vrfs = {port.index: port.name for port in ports if port.kind == "vrf"}
        return [
            self._device(port, addresses.get(port.index, []), vrfs, hooks)
            for port in ports
            if not is_ours(port.name)
        ]

    def _device(
        self, port: Port, addresses: list[str], vrfs: dict[int, str], hooks: Mapping[int, str]
    ) -> Device:
        guarded = hooks.get(port.index) == "clsact"
        filters = self._tc.dump_filters(port.index) if guarded else []
        redirects = self._tc.redirects(port.index) if guarded else []
        return Device(
            name=port.name,
            index=port.index,
            kind=port.kind,
            up=port.up,
            loopback=port.loopback,
            addresses=tuple(addresses),
            prefs=frozenset(message["info"] >> 16 for hook, message in filters if hook == "egress"),
            marks=frozenset(redirect.mark for redirect in redirects),
            vrf=vrfs.get(port.master, ""),
            egress_taken=_taken(port, hooks, "egress"),
            ingress_taken=_taken(port, hooks, "ingress"),
        )


def _taken(port: Port, hooks: Mapping[int, str], side: tcx.Side) -> str:
    """Why the agent cannot add a filter on that side of a device; empty when it can."""
    if hooks.get(port.index) == "ingress":
        return (
            f"the plain ingress qdisc on {port.name} is in the place of clsact, which the detour"
            " of this fault takes"
        )
    return tcx.obstacle(port.index, port.name, side)
