"""Network faults, measured on the wire between two VMs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Self

from chaos_core.errors import LabError
from chaos_lab.catalogue.probe import NODE, OTHER, PEER, Measure, Probe
from chaos_lab.drill.context import Drill
from chaos_lab.drill.measure import Pings, Reply, delayed, loss_percent

_QUIET_MS = 5.0  # what a bystander's round trip may differ by on a busy machine


class Wire(Probe):
    """Pings from the peer, and from a bystander that must not notice anything."""

    def __init__(self, drill: Drill, family: int = 4) -> None:
        self.drill = drill
        seat = drill.fleet.seat(NODE)
        self.address = seat.ip if family == 4 else seat.ip6
        self.pings = self.asking()
        self.others = Pings(drill.fleet, OTHER, self.address)
        self.hit: Callable[[Reply], bool] = delayed(100)

    def asking(self) -> Pings:
        """The peer's stream of questions."""
        return Pings(self.drill.fleet, PEER, self.address)

    def __enter__(self) -> Self:
        self.pings.__enter__()
        self.others.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.pings.__exit__(None, None, None)
        self.others.__exit__(None, None, None)

    def base(self) -> None:
        self.rtt = self.pings.median(2)
        self.quiet = self.others.median(1)

    def bystander(self) -> str:
        """How the bystander was disturbed; empty when it was not."""
        try:
            shift = self.others.median(2) - self.quiet
        except LabError:
            return ", the bystander is cut off too"
        return f", the bystander by {shift:.1f} ms" if abs(shift) > _QUIET_MS else ""

    def gone_after(self, since: float) -> float:
        return self.pings.clean_after(since, self.hit)


class Delay(Wire):
    """Round trips that take longer, by so many ms ± ``within``."""

    def __init__(self, drill: Drill, added: float, within: float, family: int = 4) -> None:
        super().__init__(drill, family)
        self._added, self._within = added, within
        self.hit = delayed(added / 2)

    def during(self) -> tuple[str, bool]:
        added, wrong = self.pings.median(4) - self.rtt, self.bystander()
        good = abs(added - self._added) <= self._within and not wrong
        return f"{added:+.2f} ms{wrong}", good


class Loss(Wire):
    """Pings without an answer, in percent."""

    def __init__(self, drill: Drill, low: float, high: float, family: int = 4) -> None:
        super().__init__(drill, family)
        self._low, self._high = low, high

    def during(self) -> tuple[str, bool]:
        sent, percent = loss_percent(self.drill.fleet, PEER, self.address, 4_000, 30)
        wrong = self.bystander()
        return f"{percent:.1f} % of {sent}{wrong}", self._low <= percent <= self._high and not wrong


MEASURES = (
    Measure(
        "network.latency",
        "peers={n2} delay=200ms",
        "+200 ± 4 ms, others 0",
        partial(Delay, added=200, within=4),
    ),
    Measure(
        "network.latency",
        "peers={n2_6} delay=200ms",
        "+200 ± 4 ms by IPv6",
        partial(Delay, added=200, within=4, family=6),
    ),
    Measure(
        "network.loss",
        "peers={n2} percent=50%",
        "47–53 %, others 0",
        partial(Loss, low=47, high=53),
    ),
    Measure(
        "network.partition",
        "peers={n2},{n2_6}",
        "100 %, others 0",
        partial(Loss, low=100, high=100),
    ),
)
