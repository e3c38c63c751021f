"""What netem and a token bucket do to packets, measured on the wire between two VMs."""

from __future__ import annotations

import time
from functools import partial
from statistics import median

from chaos_lab.catalogue.network import Delay, Loss, Wire
from chaos_lab.catalogue.probe import PEER, Measure
from chaos_lab.catalogue.services import PORT
from chaos_lab.drill.context import Drill
from chaos_lab.drill.measure import Answers, Pings, Reply
from chaos_lab.fleet import Fleet


class Doubles(Pings):
    """Pings of which one that is answered twice looks like one that is not answered."""

    def take(self, at: float, line: str) -> None:
        if "(DUP!)" not in line:
            super().take(at, line)
        elif self.replies:
            self.replies[-1] = Reply(at, self.replies[-1].seq, None)


class Copies(Wire):
    """Pings with two answers, in percent."""

    def __init__(self, drill: Drill, low: float, high: float) -> None:
        super().__init__(drill)
        self._low, self._high = low, high

    def asking(self) -> Pings:
        return Doubles(self.drill.fleet, PEER, self.address)

    def during(self) -> tuple[str, bool]:
        start = len(self.pings.replies)
        time.sleep(15)
        found = [reply.rtt is None for reply in self.pings.replies[start:]]
        percent, wrong = 100 * sum(found) / len(found), self.bystander()
        good = self._low <= percent <= self._high and not wrong
        return f"{percent:.1f} % of {len(found)}{wrong}", good


_PIECE = 200_000
_FETCH = """
import itertools, socket, sys, time
for number in itertools.count(1):
    try:
        with socket.create_connection((sys.argv[1], int(sys.argv[2])), 5) as asked:
            asked.sendall(b'GET /usr/bin/python3 HTTP/1.0\\r\\n\\r\\n')
            start, left = time.perf_counter(), int(sys.argv[3])
            while left > 0:
                left -= len(asked.recv(left)) or left
        print(number, (time.perf_counter() - start) * 1000, flush=True)
    except OSError:
        print(number, 'none', flush=True)
    time.sleep(0.05)
"""


class Fetches(Answers):
    """The time in which ``_PIECE`` bytes come from a service."""

    def __init__(self, fleet: Fleet, source: str, address: str, port: int) -> None:
        self.interval = 0.05
        self.replies = []
        argv = ["python3", "-u", "-c", _FETCH, address, str(port), str(_PIECE)]
        super(Pings, self).__init__(fleet.popen(source, argv))


class Rate(Wire):
    """Mbit/s of TCP payload, from the time that a piece of it takes."""

    def __init__(self, drill: Drill, low: float, high: float) -> None:
        super().__init__(drill)
        self._low, self._high = low, high

    def asking(self) -> Pings:
        return Fetches(self.drill.fleet, PEER, self.address, PORT)

    def during(self) -> tuple[str, bool]:
        start = len(self.pings.replies)
        time.sleep(15)
        took = [one.rtt for one in self.pings.replies[start:] if one.rtt is not None]
        rate, wrong = _PIECE * 8 / median(took) / 1000, self.bystander()
        return f"{rate:.2f} Mbit/s{wrong}", self._low <= rate <= self._high and not wrong


MEASURES = (
    Measure(
        "network.corrupt",
        "peers={n2_6} percent=50%",  # ping counts IPv4's answers with a wrong checksum, too
        "42–50 % of pings by IPv6 fail a checksum, others 0",
        partial(Loss, low=42, high=50, family=6),
    ),
    Measure(
        "network.duplicate",
        "peers={n2} percent=50%",
        "35–65 % of pings answered twice, others 0",
        partial(Copies, low=35, high=65),
    ),
    Measure(
        "network.reorder",
        "peers={n2} percent=25% delay=200ms",
        "+200 ± 4 ms for most, others 0",
        partial(Delay, added=200, within=4),
    ),
    Measure(
        "network.rate",
        "peers={n2} rate=1mbit queue=200ms",
        "0.8–1.1 Mbit/s of TCP, others 0",
        partial(Rate, low=0.8, high=1.1),
    ),
    Measure(
        "network.loss",
        "peers={n2} every=4",
        "24–28 %, others 0",  # the watching pings come in the pauses after a loss: seldom lost
        partial(Loss, low=24, high=28),
    ),
    Measure(
        "network.loss",
        "peers={n2} p=5% r=20%",
        "13–25 % in bursts, others 0",  # and take part of each burst
        partial(Loss, low=13, high=25),
    ),
    Measure(
        "network.latency",
        "peers={n2} delay=200ms jitter=20ms distribution=normal",
        "+200 ± 12 ms, others 0",
        partial(Delay, added=200, within=12),
    ),
    Measure(
        "network.latency",
        "peers={n2} delay=200ms direction=in",
        "+200 ± 4 ms, others 0",
        partial(Delay, added=200, within=4),
    ),
    Measure(
        "network.latency",
        "peers={n2_6} delay=100ms direction=both",
        "+200 ± 4 ms by IPv6, others 0",
        partial(Delay, added=200, within=4, family=6),
    ),
)
