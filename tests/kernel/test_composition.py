"""Two faults on the same packets, measured: both act, or the second is refused by name.

Numbered datagrams go to the peer while both faults are in force, in either order. What
arrives must be what the two together leave of it, and a fault that is refused must leave
the first one as it was.
"""

from __future__ import annotations

import itertools
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from chaos_agent.linux.boottime import now_us
from chaos_core.messages import Revert

guest = pytest.mark.guest
COUNT, SIZE, PORT = 30, 1000, 4000
BURST, RATE = 10_000, 500_000  # of network.rate below: bytes at once, bits a second


@dataclass(frozen=True)
class Seen:
    """What came of the datagrams: copies of each number, how late in seconds, and intact or not."""

    copies: dict[int, int]
    late: list[float]
    took: float
    intact: bool


def lost(seen: Seen) -> bool:
    return not seen.copies


def late_by(seconds: float) -> Callable[[Seen], bool]:
    return lambda seen: min(seen.late) >= seconds


def some_lost(seen: Seen) -> bool:
    return 0 < len(seen.copies) <= COUNT // 2


def doubled(seen: Seen) -> bool:
    return max(seen.copies.values()) == 2


def slow(seen: Seen) -> bool:
    sent = sum(seen.copies.values()) * (SIZE + 28)
    return seen.took >= (sent - 2 * BURST) * 8 / RATE


# kind → its parameters, what it does to datagrams (alone and beside others), and by how many
# seconds it makes each of them late at least.
KINDS: dict[str, tuple[dict[str, str], Callable[[Seen], bool], float]] = {
    "network.latency": ({"delay": "60ms"}, late_by(0.06), 0.06),
    "network.loss": ({"every": "2"}, some_lost, 0),
    "network.duplicate": ({"percent": "50%"}, doubled, 0),
    "network.rate": ({"rate": "500kbit", "queue": "2s"}, slow, 0),
    "network.corrupt": ({"percent": "50%"}, lambda seen: not seen.intact, 0),
    "network.reorder": ({"percent": "1%", "delay": "40ms"}, lambda seen: max(seen.late) > 0.04, 0),
    "network.partition": ({"direction": "out"}, lost, 0),
    "network.blackhole": ({"ports": str(PORT), "direction": "out"}, lost, 0),
    "network.flap": ({"down": "20s", "up": "1s", "direction": "out"}, lost, 0),
}
CUTS = ("network.partition", "network.blackhole", "network.flap")
# What one netem, or one netem with a token bucket behind it, cannot do for two faults.
REFUSED = {
    frozenset({"network.rate"}),
    frozenset({"network.duplicate"}),
    frozenset({"network.reorder"}),
    frozenset({"network.reorder", "network.latency"}),
}


def applied(node: Any, kind: str, **params: str) -> str:
    """The fault in force, with fresh leases for all; on a busy machine an apply takes long."""
    fault: str = node.apply(kind, **params)
    node.grant("r-1")
    assert node.status(fault).state == "in_force", node.status(fault).detail
    return fault


def answered(node: Any, net: Any, address: str) -> list[float]:
    """Round trips in ms of three pings to the address, under fresh leases."""
    node.grant("r-1")
    found: list[float] = net.ping(address, 3)
    return found


def measure(node: Any, net: Any) -> Seen:
    """Send the datagrams to the peer under fresh leases, and wait for what arrives."""
    node.grant("r-1")
    there = net.at_peer(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    there.bind((net.peer[4], PORT))
    there.settimeout(0.6)  # a busy machine stands still for a while
    here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    here.setsockopt(socket.SOL_SOCKET, 11, 1)  # SO_NO_CHECK: a flipped bit arrives, too
    here.bind((net.near[4], 0))
    copies: dict[int, int] = {}
    late, intact, arrived = [], True, 0.0
    started = time.monotonic()
    for number in range(COUNT):
        data = struct.pack("!Id", number, time.monotonic())
        here.sendto(data.ljust(SIZE, b"\0"), (net.peer[4], PORT))
    try:
        while True:
            data = there.recv(2048)
            arrived = time.monotonic()
            number, sent = struct.unpack_from("!Id", data)
            whole = number in range(COUNT) and not data[12:].strip(b"\0")
            intact = intact and whole
            late.append(arrived - sent)
            copies[number] = copies.get(number, 0) + 1
    except TimeoutError:
        pass
    finally:
        here.close()
        there.close()
    return Seen(copies, late, arrived - started, intact)


def holds(kinds: tuple[str, ...], seen: Seen) -> None:
    """Each of them acts as if it were alone, but for what the other has taken away."""
    if set(kinds) & set(CUTS):
        assert lost(seen), kinds
        return
    least = sum(KINDS[kind][2] for kind in kinds)
    if "network.corrupt" in kinds:  # its flips may hit the number, the time or the headers
        assert not seen.intact, kinds
        return
    assert all(late >= least for late in seen.late), (kinds, min(seen.late))
    for kind in kinds:
        assert KINDS[kind][1](seen), (kind, kinds, seen)


@guest
@pytest.mark.parametrize("first", KINDS)
def test_of_every_two_that_shape_what_goes_out_both_act_or_the_second_is_refused(
    node: Any, net: Any, first: str
) -> None:
    for second in list(KINDS)[list(KINDS).index(first) :]:  # the unit tests have both orders
        one = applied(node, first, peers=net.peer[4], **KINDS[first][0])
        if frozenset({first, second}) in REFUSED:
            two = node.apply(second, peers=net.peer[4], **KINDS[second][0])
            status = node.status(two)
            assert (status.state, status.code) == ("refused", "refused"), (first, second, status)
            assert one in status.detail
            holds((first,), measure(node, net))
        else:
            applied(node, second, peers=net.peer[4], **KINDS[second][0])
            holds((first, second), measure(node, net))
            node.supervisor.obey(Revert(fault=one), now_us())
            holds((second,), measure(node, net))
        node.supervisor.obey(Revert(), now_us())
        assert node.supervisor.quarantine == []
        assert node.engine.residue() == []


@guest
def test_delay_and_loss_to_one_peer_at_once_whichever_ends_first(
    node: Any, net: Any, listing: Callable[[], list[str]]
) -> None:
    """The most common network experiment there is."""
    before = listing()
    params = {"network.latency": {"delay": "40ms"}, "network.partition": {"direction": "out"}}
    for order in itertools.permutations(params):
        made = {kind: applied(node, kind, peers=net.peer[4], **params[kind]) for kind in order}
        for _ in range(3):
            assert not answered(node, net, net.peer[4])
            node.look()
        statuses = [node.status(each) for each in made.values()]
        assert {status.state for status in statuses} == {"in_force"}
        counts = {status.hits.count for status in statuses}
        assert len(counts) == 1, "each packet is hit by both, and counted once for each"
        assert counts.pop() > 0, "in force and idle"
        node.grant("r-1")
        node.supervisor.obey(Revert(fault=made["network.partition"]), now_us())
        times = answered(node, net, net.peer[4])
        assert len(times) == 3
        assert min(times) >= 40
        node.supervisor.obey(Revert(), now_us())
        assert node.supervisor.quarantine == []
        assert listing() == before


@guest
def test_one_of_two_inside_a_larger_net(node: Any, net: Any) -> None:
    wide = applied(node, "network.partition", peers="10.9.0.0/29", direction="out")
    applied(node, "network.latency", peers=net.bystander[4], delay="300ms")
    assert not answered(node, net, net.peer[4])
    assert not answered(node, net, net.bystander[4])
    node.supervisor.obey(Revert(fault=wide), now_us())
    assert max(answered(node, net, net.peer[4])) < 300
    assert min(answered(node, net, net.bystander[4])) >= 300
    node.supervisor.obey(Revert(), now_us())
    assert node.supervisor.quarantine == []


@guest
def test_a_fault_on_everything_stands_beside_one_that_shapes(node: Any, net: Any) -> None:
    """A link of the first fault has a route of its own, which leads nowhere."""
    applied(node, "network.latency", peers=net.peer[4], delay="40ms")
    applied(node, "network.blackhole", ports="9")
    applied(node, "network.loss", peers="0.0.0.0/0,::/0", percent="1%")
    node.supervisor.obey(Revert(), now_us())
    assert node.supervisor.quarantine == []


@guest
def test_what_comes_in_is_shaped_once_and_lost_beside_that(node: Any, net: Any) -> None:
    one = applied(node, "network.latency", peers=net.peer[4], delay="40ms", direction="in")
    two = node.apply("network.rate", peers=net.peer[4], rate="1mbit", direction="in")
    assert node.status(two).state == "refused"
    assert one in node.status(two).detail
    applied(node, "network.latency", peers=net.peer[4], delay="30ms")
    assert min(answered(node, net, net.peer[4])) >= 70
    applied(node, "network.loss", peers=net.peer[4], percent="100%", direction="in")
    assert not answered(node, net, net.peer[4])
    node.supervisor.obey(Revert(), now_us())
    assert node.supervisor.quarantine == []


@guest
def test_more_faults_than_the_mark_has_bits_are_refused(node: Any, net: Any) -> None:
    peers = (net.peer[4], net.bystander[4], *net.others[4])
    for peer in peers[:4]:
        applied(node, "network.latency", peers=peer, delay="10ms")
    status = node.status(node.apply("network.latency", peers=peers[4], delay="10ms"))
    assert status.state == "refused"
    assert "network.mark_mask" in status.detail
    node.supervisor.obey(Revert(), now_us())
    assert node.supervisor.quarantine == []
