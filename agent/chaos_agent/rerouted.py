"""Whether packets to the peers of a fault still leave by the interfaces at which it waits.

A fault whose packets make a detour has a filter on every interface by which they left when
it began. A route, a rule or a VPN that comes later leads them past it, and it would do
nothing. The kernel is asked again at each look, as long as that takes it little.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from chaos_agent.linux.host import Host
from chaos_core.effects import Effect, IngressPipe, Pipe
from chaos_core.faults import Fault
from chaos_core.node import NO_WAY, Way

_SHARE = 50  # of the time, at most one part in so many goes into asking


class Watch:
    """The ways of one fault's packets. Times are CLOCK_BOOTTIME in µs."""

    def __init__(self, fault: Fault, effects: tuple[Effect, ...], ways: Mapping[str, Way]) -> None:
        self._asks = fault.asks()
        self._ways = ways
        self._devices = {one.device for one in effects if isinstance(one, Pipe | IngressPipe)}
        self._due = 0

    def look(self, host: Host, clock: Callable[[], int]) -> str | None:
        """One line when packets go past the fault now, or nowhere. Changes nothing."""
        began = clock()
        if not self._devices or not self._asks.towards or began < self._due:
            return None
        found = host.ways.towards(self._asks.towards, self._asks.interface)
        ended = clock()
        self._due = ended + _SHARE * (ended - began)
        for peer, way in found.items():
            if text := self._differs(peer, self._ways.get(peer, NO_WAY), way):
                return text
        return None

    def _differs(self, peer: str, was: Way, now: Way) -> str | None:
        before = self._devices.intersection(was.devices)
        still = self._devices.intersection(now.devices)
        past = sorted(set(now.devices) - self._devices - {"lo"})
        if before and not now.devices:
            return f"there is no route to {_short(peer)} any more ({now.kind})"
        if before and not still:
            return (
                f"route to {_short(peer)} now leaves by {', '.join(past)},"
                f" not {', '.join(sorted(before))}"
            )
        if past and not self._asks.interface:
            return f"route to {_short(peer)} now leaves by {', '.join(past)} as well"
        return None


def _short(peer: str) -> str:
    return peer.removesuffix("/32").removesuffix("/128")
