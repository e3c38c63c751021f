"""What is chosen is hit, and what goes by another way is not: interfaces, senders, topologies."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Self

from chaos_lab.catalogue.filtering import unanswered
from chaos_lab.catalogue.network import Delay, Wire
from chaos_lab.catalogue.probe import NODE, OTHER, PEER, Measure, Probe
from chaos_lab.catalogue.services import PORT
from chaos_lab.drill.context import Drill
from chaos_lab.drill.measure import Answers, Pings, delayed
from chaos_lab.layout import PREFIX_LEN, PREFIX_LEN6

_ALL = (NODE, PEER, OTHER)
_NOISE = 0.02  # of what is asked on a busy machine has its answer too late
_SECONDS = 5


@contextmanager
def second_wire(drill: Drill) -> Iterator[None]:
    """The node and its peer have a second interface meanwhile, with addresses of its own.

    It is not wholly as before afterwards: one that was up once keeps its queue.
    """
    for name in (NODE, PEER):
        seat = drill.fleet.seat(name)
        lines = (
            f"addr replace {seat.side_ip}/{PREFIX_LEN} dev eth1",
            f"addr replace {seat.side_ip6}/{PREFIX_LEN6} dev eth1 nodad",
            "link set eth1 up",
        )
        drill.fleet.exec(name, ["ip", "-batch", "-"], input="\n".join(lines) + "\n")
    yield
    for name in (NODE, PEER):
        for argv in (["ip", "link", "set", "eth1", "down"], ["ip", "addr", "flush", "dev", "eth1"]):
            drill.fleet.exec(name, argv)


class SideDown(Wire):
    """The peer's pings by the node's second interface; the bystander's come by the first."""

    def __init__(self, drill: Drill, family: int = 4) -> None:
        seat = drill.fleet.seat(NODE)
        self.side = seat.side_ip if family == 4 else seat.side_ip6
        self._wire = second_wire(drill)
        self._wire.__enter__()  # the questions are asked from now on
        super().__init__(drill, family)

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._wire.__exit__(None, None, None)

    def asking(self) -> Pings:
        return Pings(self.drill.fleet, PEER, self.side)

    def during(self) -> tuple[str, bool]:
        self.pings.wait(self.hit)
        missing, asked = unanswered(self.pings, _SECONDS)
        wrong = self.bystander()
        return f"{100 * missing / asked:.1f} % of {asked}{wrong}", missing == asked and not wrong


class TwoWays(Delay):
    """The peer's pings by both interfaces; the bystander's come by the first."""

    def __init__(self, drill: Drill, added: float, within: float) -> None:
        self._wire = second_wire(drill)
        self._wire.__enter__()
        super().__init__(drill, added, within)
        self.side = Pings(drill.fleet, PEER, drill.fleet.seat(NODE).side_ip)

    def __enter__(self) -> Self:
        super().__enter__()
        self.side.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self.side.__exit__(None, None, None)
        self._wire.__exit__(None, None, None)

    def base(self) -> None:
        super().base()
        self.side_rtt = self.side.median(1)

    def during(self) -> tuple[str, bool]:
        text, good = super().during()
        added = self.side.median(2) - self.side_rtt
        return f"{text} and {added:+.2f} ms", good and abs(added - self._added) <= self._within

    def gone_after(self, since: float) -> float:
        return max(super().gone_after(since), self.side.clean_after(since, self.hit))


class OneSender(Delay):
    """What ``app.service`` sends to the peer; what the node's kernel sends to it is not late."""

    def __init__(self, drill: Drill, added: float, within: float) -> None:
        super().__init__(drill, added, within)
        self.others = Pings(drill.fleet, PEER, self.address)

    def asking(self) -> Pings:
        return Answers(self.drill.fleet, PEER, self.address, PORT)


class Apart(Probe):
    """Pings between each two of the nodes. ``cut`` are the pairs between which none get through."""

    def __init__(self, drill: Drill, cut: Iterable[tuple[str, str]]) -> None:
        self._cut = set(cut)
        self.pings = {
            (a, b): Pings(drill.fleet, a, drill.ip(b))
            for a, b in ((PEER, NODE), (OTHER, NODE), (OTHER, PEER))
        }
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for stream in self.pings.values():
            self._stack.enter_context(stream)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def base(self) -> None:
        for stream in self.pings.values():
            stream.wait(lambda reply: reply.rtt is not None)

    def during(self) -> tuple[str, bool]:
        for pair in self._cut:
            self.pings[pair].wait(delayed(100))
        starts = {pair: len(stream.replies) for pair, stream in self.pings.items()}
        time.sleep(_SECONDS)
        text, good = [], True
        for pair, stream in self.pings.items():
            found = stream.replies[starts[pair] :]
            missing = sum(reply.rtt is None for reply in found)
            text.append(f"{'–'.join(pair)} {100 * missing / max(1, len(found)):.0f} %")
            lost = missing == len(found) > 0
            good = good and (lost if pair in self._cut else missing <= len(found) * _NOISE)
        return ", ".join(text), good

    def gone_after(self, since: float) -> float:
        return max(self.pings[pair].clean_after(since, delayed(100)) for pair in self._cut)


MEASURES = (
    Measure(
        "network.down",
        "interface=eth1",
        "100 % of pings by it, by eth0 0",
        SideDown,
    ),
    Measure(
        "network.down",
        "interface=eth1 peers=::/0",
        "100 % of pings by it by IPv6, by eth0 0",
        partial(SideDown, family=6),
    ),
    Measure(
        "network.latency",
        "peers={n2},{n2_side} delay=200ms",
        "+200 ± 4 ms by each of two interfaces, others 0",
        partial(TwoWays, added=200, within=4),
    ),
    Measure(
        "network.latency",
        "peers={n2} delay=150ms unit=app",
        "+150 ± 15 ms for what the service sends, the kernel's pings to the same peer 0",
        partial(OneSender, added=150, within=15),
    ),
    Measure(
        "network.latency",
        "peers={n2} delay=150ms uid=65534",
        "+300 ± 30 ms for what the user's service answers, of which the half is its handshake,"
        " the kernel's pings to the same peer 0",
        partial(OneSender, added=300, within=30),
    ),
    Measure(
        "network.partition",
        "topology=groups groups=n1|n2|n3",
        "100 % between each two of n1, n2, n3",
        partial(Apart, cut=((PEER, NODE), (OTHER, NODE), (OTHER, PEER))),
        nodes=_ALL,
    ),
    Measure(
        "network.partition",
        "topology=bridge",
        "100 % between n1 and n3, by the bridge n2 0",
        partial(Apart, cut=((OTHER, NODE),)),
        nodes=(PEER, NODE, OTHER),
    ),
    Measure(
        "network.partition",
        "topology=majority",
        "100 % between n1 and both others, between those 0",
        partial(Apart, cut=((PEER, NODE), (OTHER, NODE))),
        nodes=(OTHER, PEER, NODE),
    ),
)
