"""Each way to harm packets on their way out, counted at the other side, packet by packet.

A stream of numbered datagrams to the peer is compared with what arrives there, or the
other way round, beside one to the bystander, which must arrive whole and in order. The
bounds are five standard deviations of what is asked for, so that about one run in a
million fails by chance.
"""

from __future__ import annotations

import math
import select
import socket
import struct
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from chaos_agent.effects import ops, sweep
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.host import Host
from chaos_core.distributions import Distribution, table
from chaos_core.effects import Family, GilbertElliott, Netem, Pipe, Tbf
from chaos_core.messages import Revert

guest = pytest.mark.guest
BOTH = pytest.mark.parametrize("family", [4, 6])
WAYS = pytest.mark.parametrize("way", ["out", "in"])
PORT = 4000
SIZE = 1000
HEADERS = {4: 14 + 20 + 8, 6: 14 + 40 + 8}
_SO_NO_CHECK = 11
_SO_RCVBUFFORCE = 33
_SO_TIMESTAMPNS = 35


class Wire:
    """Datagrams from here to ``far``, or ``back``, with what arrives and how late."""

    def __init__(self, net: Any, family: Family, far: str, port: int, *, back: bool) -> None:
        af = socket.AF_INET if family == 4 else socket.AF_INET6
        here = socket.socket(af, socket.SOCK_DGRAM)
        there = net.at_peer(lambda: socket.socket(af, socket.SOCK_DGRAM))
        here.bind((net.near[family], port))
        there.bind((far, port))
        ends: tuple[socket.socket, socket.socket] = (there, here) if back else (here, there)
        self._sender, self._receiver = ends
        self._sender.connect(self._receiver.getsockname()[:2])
        self._receiver.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 2**24)
        self._receiver.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self.arrived: list[tuple[bytes, float]] = []  # with seconds since it was sent

    def without_checksum(self) -> None:
        self._sender.setsockopt(socket.SOL_SOCKET, _SO_NO_CHECK, 1)

    def send(self, number: int, size: int = SIZE) -> None:
        self._sender.send(struct.pack("!Id", number, time.time()).ljust(size, b"\0"))

    def take(self, patience: float = 0) -> None:
        """What has arrived; with ``patience`` until nothing has for so many seconds."""
        while select.select([self._receiver], [], [], patience)[0]:
            data, told, *_ = self._receiver.recvmsg(2048, 64)
            seconds, nanoseconds = struct.unpack("qq", told[0][2])
            sent = struct.unpack_from("!Id", data)[1]
            self.arrived.append((data, seconds + nanoseconds / 1e9 - sent))

    def numbers(self) -> list[int]:
        return [int(struct.unpack_from("!I", data)[0]) for data, _ in self.arrived]

    def close(self) -> None:
        self._sender.close()
        self._receiver.close()


class Field:
    """A fault in force, and streams beside it that keep its lease alive."""

    def __init__(self, node: Any, net: Any, family: Family) -> None:
        self._node, self._net, self._family = node, net, family
        self._renewed = 0.0

    def run(
        self, count: int, *, back: bool = False, patience: float = 0.2, pause: float = 0
    ) -> Wire:
        """What becomes of so many datagrams; those of the bystander must all arrive in order."""
        wire, beside = (
            Wire(self._net, self._family, far[self._family], port, back=back)
            for far, port in ((self._net.peer, PORT), (self._net.bystander, PORT + 1))
        )
        try:
            for number in range(count):
                wire.send(number)
                if number % 20 == 0:
                    beside.send(number)
                    beside.take()
                    wire.take()
                    time.sleep(pause)
                    self.renew()
            wire.take(patience)
            beside.take(0.1)
            assert beside.numbers() == list(range(0, count, 20)), "the bystander is hit"
        finally:
            wire.close()
            beside.close()
        return wire

    def renew(self) -> None:
        """As the controller does it, now and then."""
        if time.monotonic() > self._renewed + 0.3:
            self._node.grant("r-1")
            self._renewed = time.monotonic()


@pytest.fixture
def fault(node: Any, net: Any, listing: Callable[[], list[str]]) -> Callable[..., Any]:
    """A fault on the peer: in force before and after its measurement, and then gone."""

    @contextmanager
    def applied(kind: str, family: Family, **params: Any) -> Iterator[Field]:
        before = listing()
        made = node.apply(kind, peers=net.peer[family], **params)
        assert node.status(made).state == "in_force", node.status(made).detail
        field = Field(node, net, family)
        yield field
        field.renew()
        node.look()
        assert node.status(made).state == "in_force", node.status(made).detail
        node.supervisor.obey(Revert(fault=made), now_us())
        assert (node.status(made).clean, node.status(made).detail) == (True, "")
        assert node.engine.residue() == []
        assert listing() == before
        after = field.run(100)
        assert after.numbers() == list(range(100))
        assert not any(data[12:].strip(b"\0") for data, _ in after.arrived)

    return applied


def about(share: float, count: int) -> Any:
    """That share, give or take five deviations of so many independent trials."""
    return pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / count))


# ── corrupt, duplicate, reorder ───────────────────────────────────────────────────────────


@guest
@BOTH
def test_a_flipped_bit_is_caught_by_the_receivers_checksum(fault: Any, family: Family) -> None:
    with fault("network.corrupt", family, percent="20%") as field:
        wire = field.run(3000)
        lost = 1 - len(wire.arrived) / 3000
        # Some bits no checksum covers: the sender's MAC, and IPv6's traffic class and hop limit.
        uncovered = 10 / (SIZE + HEADERS[family])
        assert lost == about(0.2 * (1 - uncovered), 3000)
        assert not any(data[12:].strip(b"\0") for data, _ in wire.arrived)


@guest
def test_without_a_checksum_exactly_one_bit_is_seen_to_be_another(fault: Any, net: Any) -> None:
    with fault("network.corrupt", 4, percent="20%"):
        wire = Wire(net, 4, net.peer[4], PORT, back=False)
        wire.without_checksum()
        for number in range(2000):
            wire.send(number)
        wire.take(0.3)
        wire.close()
        bits = Counter(int.from_bytes(data[12:], "big").bit_count() for data, _ in wire.arrived)
        assert set(bits) == {0, 1}
        assert bits[1] / 2000 == about(0.2 * (SIZE - 12) / (SIZE + HEADERS[4]), 2000)


@guest
@WAYS
@BOTH
def test_duplicates_are_as_many_as_asked_for_and_nothing_is_lost(
    fault: Any, family: Family, way: str
) -> None:
    with fault("network.duplicate", family, percent="30%", direction=way) as field:
        copies = Counter(field.run(3000, back=way == "in").numbers())
        assert set(copies) == set(range(3000))
        assert set(copies.values()) == {1, 2}
        assert sum(copies.values()) / 3000 - 1 == about(0.3, 3000)


@guest
@WAYS
@BOTH
def test_as_many_packets_as_asked_for_overtake_others(fault: Any, family: Family, way: str) -> None:
    params = {"percent": "20%", "delay": "300ms", "direction": way}
    with fault("network.reorder", family, **params) as field:
        wire = field.run(1500, back=way == "in", patience=0.6)
        numbers = wire.numbers()
        assert sorted(numbers) == list(range(1500))
        ahead, least = 0, 1500
        for number in reversed(numbers):
            ahead += number > least
            least = min(least, number)
        assert ahead / 1500 == about(0.2, 1500)
        late = [seconds for _, seconds in wire.arrived if seconds >= 0.3]
        assert len(late) / 1500 == about(0.8, 1500)


# ── rate ──────────────────────────────────────────────────────────────────────────────────


@guest
@WAYS
def test_the_rate_is_kept_and_nobody_waits_longer_than_the_queue(fault: Any, way: str) -> None:
    with fault("network.rate", 4, rate="1mbit", queue="100ms", direction=way) as field:
        back = way == "in"
        wire = field.run(
            200, back=back, patience=0.4
        )  # far more than the bucket and the queue hold
        held = (10_000 + 12_500) / (SIZE + HEADERS[4])
        assert held - 2 <= len(wire.arrived) <= held + 12  # and what drained meanwhile
        assert max(seconds for _, seconds in wire.arrived) < 0.15
        wire = field.run(
            1600, back=back, patience=0.2, pause=0.03
        )  # 80 × 20 datagrams, thrice the rate
        numbers = [sent + seconds for _, sent, seconds in _stamps(wire)]
        spent = numbers[-1] - numbers[0]
        assert spent > 1.5
        rate = len(numbers) * (SIZE + HEADERS[4]) * 8 / spent
        assert 850_000 < rate < 1_000_000 * (1 + 0.1 / spent) + 20_000


def _stamps(wire: Wire) -> list[tuple[int, float, float]]:
    return [(*struct.unpack_from("!Id", data), late) for data, late in wire.arrived]


@guest
def test_tcp_gets_the_rate_too(fault: Any, net: Any) -> None:
    with fault("network.rate", 6, rate="1mbit", queue="200ms") as field:
        listener = net.at_peer(lambda: socket.create_server(("::", PORT), family=socket.AF_INET6))
        with listener, socket.create_connection((net.peer[6], PORT)) as sender:
            there, _ = listener.accept()
            with there:
                sender.setblocking(False)
                received, begun = 0, time.monotonic()
                while (spent := time.monotonic() - begun) < 4:
                    readable, writable, _ = select.select([there], [sender], [], 0.05)
                    if writable:
                        sender.send(bytes(4096))
                    if readable:
                        received += len(there.recv(2**20))
                    field.renew()
        assert 0.7 < (received - 10_000) * 8 / 1_000_000 / spent < 1


# ── loss ──────────────────────────────────────────────────────────────────────────────────


def lost_of(wire: Wire, count: int) -> list[bool]:
    arrived = set(wire.numbers())
    return [number not in arrived for number in range(count)]


@guest
@WAYS
def test_gilbert_elliott_loses_its_mean_in_bursts(fault: Any, way: str) -> None:
    count, model = 6000, {"p": "4%", "r": "20%", "loss_in_bad": "90%", "loss_in_good": "1%"}
    with fault("network.loss", 6, **model, direction=way) as field:
        lost = lost_of(field.run(count, back=way == "in"), count)
    bad = 0.04 / 0.24
    mean = bad * 0.9 + (1 - bad) * 0.01
    # The variance of independent losses times how long a state lasts: (1 + 0.76) / (1 - 0.76).
    apart = math.sqrt(mean * (1 - mean) * 7.4 / count)
    assert sum(lost) / count == pytest.approx(mean, abs=5 * apart)
    # After a loss the state is bad with near certainty, and stays so with 80 %.
    again = sum(a and b for a, b in pairwise(lost)) / sum(lost)
    was_bad = bad * 0.9 / mean
    after = was_bad * 0.8 + (1 - was_bad) * 0.04
    assert again == pytest.approx(after * 0.9 + (1 - after) * 0.01, abs=0.1)


@guest
def test_correlated_loss_keeps_its_share(fault: Any) -> None:
    count = 6000
    with fault("network.loss", 4, percent="20%", correlation="60%") as field:
        lost = lost_of(field.run(count), count)
    apart = math.sqrt(0.2 * 0.8 * 4 / count)  # (1 + 0.6) / (1 - 0.6)
    assert sum(lost) / count == pytest.approx(0.2, abs=5 * apart)
    again = sum(a and b for a, b in pairwise(lost)) / sum(lost)
    assert again == pytest.approx(0.2 + 0.6 * 0.8, abs=0.08)


@BOTH
def test_every_nth_packet_that_arrives_is_lost(fault: Any, family: Family) -> None:
    with fault("network.loss", family, every=10, direction="in") as field:
        lost = lost_of(field.run(1000, back=True), 1000)
        assert [number for number, gone in enumerate(lost, 1) if gone] == [*range(10, 1001, 10)]


@guest
@BOTH
def test_every_nth_packet_that_leaves_is_lost(fault: Any, family: Family) -> None:
    with fault("network.loss", family, every=7, direction="both") as field:
        for back in (False, True):
            lost = lost_of(field.run(700, back=back), 700)
            assert [n for n, gone in enumerate(lost, 1) if gone] == [*range(7, 701, 7)], back


@BOTH
def test_every_nth_packet_is_counted_by_nftables_too(
    node: Any, net: Any, sh: Callable[..., str], family: Family
) -> None:
    sh("nft", "add table inet mine")  # nothing of xtables is in use, so that it is the backend
    fault = node.apply("network.loss", peers=net.peer[family], every=10, direction="in")
    assert node.status(fault).state == "in_force", node.status(fault).detail
    assert "numgen inc mod 10 9" in sh("nft", "list", "ruleset")
    lost = lost_of(Field(node, net, family).run(500, back=True), 500)
    assert [number for number, gone in enumerate(lost, 1) if gone] == [*range(10, 501, 10)]
    node.look()
    assert node.status(fault).state == "in_force", node.status(fault).detail
    node.supervisor.obey(Revert(fault=fault), now_us())
    assert node.status(fault).clean, node.status(fault).detail


# ── latency by a table ────────────────────────────────────────────────────────────────────


def apart(delays: list[float], distribution: Distribution) -> float:
    """The Kolmogorov-Smirnov distance between delays, in jitters, and a distribution."""
    entries = [entry / 8192 for entry in table(distribution)] or [n / 500 - 1 for n in range(1000)]
    ordered = sorted(delays)
    return max(
        abs(bisect_right(entries, delay) / len(entries) - place / len(ordered))
        for place, delay in enumerate(ordered, 1)
    )


@guest
@pytest.mark.parametrize("shape", ["normal", "pareto", "paretonormal"])
def test_delays_are_spread_as_the_table_says(fault: Any, shape: Distribution) -> None:
    """The kernel takes the table and never shows it again: here is what it does with it."""
    asked = {"delay": "450ms", "jitter": "100ms", "distribution": shape}
    with fault("network.latency", 6 if shape == "pareto" else 4, **asked) as field:
        wire = field.run(2000, pause=0.01, patience=0.5)
    assert len(wire.arrived) == 2000
    delays = [(late - 0.45) / 0.1 for _, late in wire.arrived]
    shapes: tuple[Distribution, ...] = ("uniform", "normal", "pareto", "paretonormal")
    distances = {other: apart(delays, other) for other in shapes}
    assert distances[shape] < 0.08, distances  # 0.055 is 1 in 100,000
    assert min(distances, key=lambda other: distances[other]) == shape, distances


def test_the_tables_are_those_of_iproute2() -> None:
    for shape in ("normal", "pareto", "paretonormal"):
        file = next(
            path
            for pattern in ("usr/lib/*/tc", "usr/lib/tc", "usr/share/tc")
            for path in Path("/").glob(f"{pattern}/{shape}.dist")
        )
        lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
        theirs = [int(word) for line in lines for word in line.split()]
        ours = table(shape)
        assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) <= 1
        assert max(ours) == max(theirs)


# ── read back ─────────────────────────────────────────────────────────────────────────────


def pipe(netem: Netem | None = None, tbf: Tbf | None = None) -> Pipe:
    return Pipe("v0", "chs-0000000a-0", 0x01000000, 0x0F000000, 1, netem, tbf)


@guest
@pytest.mark.usefixtures("net")
@pytest.mark.parametrize(
    ("effect", "shown"),
    [
        (pipe(Netem(corrupt=30_000)), "limit 1000 corrupt 3%"),
        (pipe(Netem(duplicate=15_000, limit=7)), "limit 7 duplicate 1.5%"),
        (
            pipe(Netem(delay=10_000, reorder=250_000, reorder_correlation=500_000)),
            "delay 10ms reorder 25% 50% gap 1",
        ),
        (
            pipe(Netem(bursts=GilbertElliott(40_000, 200_000, 900_000, 10_000))),
            "loss gemodel p 4% r 20% 1-h 90% 1-k 1%",
        ),
        (pipe(Netem(delay=50_000, jitter=9_000, distribution="pareto")), "delay 50ms  9ms"),
        (pipe(tbf=Tbf(125_000, 10_000, 12_500)), "rate 1Mbit burst 10000b lat 20ms"),
    ],
)  # fmt: skip
def test_what_was_asked_for_is_what_tc_shows_and_verify_reads(
    host: Host, sh: Callable[..., str], effect: Pipe, shown: str
) -> None:
    ops(effect).apply(host, effect, now_us())
    assert ops(effect).verify(host, effect) is None
    assert shown in sh("tc", "qdisc", "show", "dev", effect.link)
    ops(effect).revert(host, effect)
    assert ops(effect).absent(host, effect) is None


@guest
@pytest.mark.usefixtures("net")
@pytest.mark.parametrize(
    ("effect", "harm", "says"),
    [
        (pipe(Netem(corrupt=30_000)), "netem corrupt 4%", "has prob_corrupt"),
        (pipe(Netem(corrupt=30_000)), "netem corrupt 3% duplicate 1%", "has duplicate"),
        (pipe(Netem(corrupt=30_000)), "netem corrupt 3% rate 1mbit", "has rate"),
        (
            pipe(Netem(delay=1000, reorder=250_000)),
            "netem delay 1ms reorder 25% 40%",
            "has corr_reorder",
        ),
        (
            pipe(Netem(bursts=GilbertElliott(40_000, 200_000))),
            "netem loss gemodel 4% 20% 99%",
            "has h",
        ),
        (pipe(Netem(bursts=GilbertElliott(40_000, 200_000))), "netem loss 4%", "has loss"),
        (pipe(tbf=Tbf(125_000, 10_000, 12_500)), "tbf rate 2mbit burst 20kb limit 12500", "rate"),
        (pipe(tbf=Tbf(125_000, 10_000, 12_500)), "tbf rate 1mbit burst 10000 limit 1mb", "limit"),
        (pipe(tbf=Tbf(125_000, 10_000, 12_500)), "tbf rate 1mbit burst 9kb limit 12500", "buffer"),
        (pipe(tbf=Tbf(125_000, 10_000, 12_500)), "pfifo", "has no tbf"),
    ],
)
def test_verify_names_what_somebody_changed(
    host: Host, sh: Callable[..., str], effect: Pipe, harm: str, says: str
) -> None:
    ops(effect).apply(host, effect, now_us())
    sh("tc", "qdisc", "replace", "dev", effect.link, "root", *harm.split())
    assert says in (ops(effect).verify(host, effect) or "nothing")
    ops(effect).revert(host, effect)
    assert ops(effect).absent(host, effect) is None


# ── together ──────────────────────────────────────────────────────────────────────────────

TOGETHER = (
    ("network.corrupt", {"percent": "100%"}),
    ("network.reorder", {"percent": "1%", "delay": "200ms"}),
    ("network.latency", {"delay": "200ms", "jitter": "20ms", "distribution": "pareto"}),
    ("network.rate", {"rate": "1mbit"}),
)


@guest
@pytest.mark.usefixtures("users")
def test_they_stand_beside_the_users_own_and_lapse_with_nobody_alive(
    node: Any, net: Any, listing: Callable[[], list[str]], wait_for: Callable[..., None]
) -> None:
    before = listing()
    peers = zip(net.peers(4), net.peers(6), strict=True)
    for (kind, params), addresses in zip(TOGETHER, peers, strict=False):
        fault = node.apply(kind, peers=",".join(addresses), **params)
        assert node.status(fault).state == "in_force", node.status(fault).detail
        node.grant("r-1")
    looks = [net.echo() for _ in range(6)]
    for family in (4, 6):
        # A flip in the MAC of the sender, say, is one that nobody checks: one in seven.
        assert None in {times[family, net.peer[family]] for times in looks}
        assert all(times[family, net.bystander[family]] for times in looks)
    assert listing() == before
    node.engine.host.close()  # and nobody renews anything
    wait_for(lambda: all(late and late < 100 for late in net.echo(others=3).values()), 4)
    with Host() as afresh:
        sweep.remove(afresh)
        assert sweep.find(afresh) == []
    assert listing() == before


@guest
@BOTH
@WAYS
def test_what_is_on_its_way_arrives_when_a_delay_ends(
    node: Any, net: Any, family: Family, way: str
) -> None:
    fault = node.apply("network.latency", peers=net.peer[family], delay="400ms", direction=way)
    node.await_in_force(fault)
    wire = Wire(net, family, net.peer[family], PORT, back=way == "in")
    try:
        for number in range(600):
            wire.send(number)
            time.sleep(0.001)
            if number == 450:
                node.supervisor.obey(Revert(fault=fault), now_us())
        assert node.status(fault).state == "ended"
        wire.take(0.5)
        assert sorted(wire.numbers()) == list(range(600))
        assert max(late for _, late in wire.arrived) > 0.35
    finally:
        wire.close()
