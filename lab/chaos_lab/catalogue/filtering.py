"""What the packet filter does to calls and lookups, measured on the wire between VMs."""

from __future__ import annotations

import time
from functools import partial
from typing import Self

from chaos_lab.catalogue.network import Wire
from chaos_lab.catalogue.probe import NODE, OTHER, PEER, Measure, Probe
from chaos_lab.catalogue.services import PORT
from chaos_lab.drill.context import Drill
from chaos_lab.drill.measure import Answers, Pings, Stream, delayed

_HIT = delayed(250)
_LONG_S = 10
_NOISE = 0.02  # of what is asked on a busy machine has its answer too late


def unanswered(stream: Pings, seconds: float) -> tuple[int, int]:
    """How many had no answer over the next ``seconds``, and how many there were."""
    start = len(stream.replies)
    time.sleep(seconds)
    found = stream.replies[start:]
    return sum(reply.rtt is None for reply in found), len(found)


class Calls(Probe):
    """Calls of a service on the node: the peer's, and a bystander's, which are all answered.

    ``low`` and ``high`` are what share of the peer's are not, in percent.
    """

    def __init__(self, drill: Drill, low: float, high: float) -> None:
        self._low, self._high = low, high
        self.calls = self.asking(drill, PEER)
        self.others = self.asking(drill, OTHER)

    def asking(self, drill: Drill, source: str) -> Pings:
        return Answers(drill.fleet, source, drill.ip(NODE), PORT)

    def __enter__(self) -> Self:
        self.calls.__enter__()
        self.others.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.calls.__exit__(None, None, None)
        self.others.__exit__(None, None, None)

    def base(self) -> None:
        for stream in (self.calls, self.others):
            stream.wait(lambda reply: reply.rtt is not None)

    def during(self) -> tuple[str, bool]:
        self.calls.wait(_HIT)
        start = len(self.others.replies)
        missing, asked = unanswered(self.calls, _LONG_S)
        percent, wrong = 100 * missing / asked, self.bystander(start)
        good = self._low <= percent <= self._high and not wrong
        return f"{percent:.1f} % of {asked}{wrong}", good

    def bystander(self, start: int) -> str:
        """How many of the bystander's have had no answer since; empty when it is but noise."""
        found = self.others.replies[start:]
        missing = sum(reply.rtt is None for reply in found)
        return f", {missing} of {len(found)} bystanders" if missing > len(found) * _NOISE else ""

    def gone_after(self, since: float) -> float:
        return self.calls.clean_after(since, _HIT)


class Admitted(Calls):
    """Calls that are answered, a second."""

    def during(self) -> tuple[str, bool]:
        self.calls.wait(_HIT)
        start = len(self.others.replies)
        missing, asked = unanswered(self.calls, _LONG_S)
        rate, wrong = (asked - missing) / _LONG_S, self.bystander(start)
        good = self._low <= rate <= self._high and not wrong
        return f"{rate:.1f} of {asked / _LONG_S:.1f} a second{wrong}", good


class Flaps(Wire):
    """Pings without an answer over two turns, in percent."""

    def __init__(self, drill: Drill, low: float, high: float) -> None:
        super().__init__(drill)
        self._low, self._high = low, high

    def during(self) -> tuple[str, bool]:
        missing, asked = unanswered(self.pings, 2 * _LONG_S)
        percent, wrong = 100 * missing / asked, self.bystander()
        good = self._low <= percent <= self._high and not wrong
        return f"{percent:.1f} % of {asked}{wrong}", good


_RESOLVE = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver:
    resolver.bind(('', 53))
    while True:
        query, asker = resolver.recvfrom(512)
        resolver.sendto(query, asker)
"""
_LOOK_UP = """
import itertools, socket, struct, sys, time
name = b''.join(bytes([len(one)]) + one.encode() for one in sys.argv[2].split('.')) + bytes(1)
for number in itertools.count(1):
    start = time.perf_counter()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(0.3)
        query = struct.pack('!6H', 7, 256, 1, 0, 0, 0) + name + bytes([0, 1, 0, 1])
        asker.sendto(query, (sys.argv[1], 53))
        try:
            asker.recv(512)
            print(number, (time.perf_counter() - start) * 1000, flush=True)
        except OSError:
            print(number, 'none', flush=True)
    time.sleep(0.05)
"""


class Asked(Answers):
    """Answers to a VM's lookups of a name at another one."""

    def __init__(self, drill: Drill, name: str) -> None:
        self.interval = 0.05
        self.replies = []
        argv = ["python3", "-u", "-c", _LOOK_UP, drill.ip(PEER), name]
        Stream.__init__(self, drill.fleet.popen(NODE, argv))


class Lookups(Calls):
    """The node's lookups of a name; of another name, all are answered."""

    def __init__(self, drill: Drill, low: float, high: float) -> None:
        self._resolver = drill.fleet.popen(PEER, ["python3", "-c", _RESOLVE])
        super().__init__(drill, low, high)

    def asking(self, drill: Drill, source: str) -> Pings:
        return Asked(drill, "db.example.com" if source == PEER else "example.com")

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._resolver.kill()
        self._resolver.wait()


MEASURES = (
    Measure(
        "network.blackhole",
        f"peers={{n2}} local_ports={PORT}",
        "100 % of calls unanswered, others 0",
        partial(Calls, low=100, high=100),
    ),
    Measure(
        "network.reject",
        f"peers={{n2}} local_ports={PORT} direction=in share=50%",
        "35–65 % of calls refused, others 0",
        partial(Calls, low=35, high=65),
    ),
    Measure(
        "tamper.payload",
        f"peers={{n2}} local_ports={PORT} find=200 replace=500",
        "100 % of answers say 500 and not 200, others 0",
        partial(Calls, low=100, high=100),
    ),
    Measure(
        "network.limit",
        f"peers={{n2}} local_ports={PORT} direction=in count=2 period=1s",
        "1.7–2.3 calls a second answered, others all",
        partial(Admitted, low=1.7, high=2.3),
    ),
    Measure(
        "network.flap",
        "peers={n2} down=9s up=1s",
        "87–93 % of pings lost over two turns, others 0",
        partial(Flaps, low=87, high=93),
    ),
    Measure(
        "network.dns",
        "names=db.example.com",
        "100 % of lookups unanswered, of others 0",
        partial(Lookups, low=100, high=100),
    ),
)
