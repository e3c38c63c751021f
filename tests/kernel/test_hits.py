"""A fault tells what it hit, by the kernel's counters, and what there was to hit."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from chaos_agent.effects import counters, hitting, ops, overflow, revert_all
from chaos_agent.linux import limits
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.host import Host
from chaos_agent.linux.xtables import FAMILIES
from chaos_core.effects import CgroupLimit, Chain, GilbertElliott, Netem, Pipe
from chaos_core.faults import network_latency, parse
from chaos_core.hits import Hits
from chaos_core.messages import Revert

PEER = "10.9.0.2"
MANGLE = "iptables-legacy -w -t mangle -A POSTROUTING"
SECOND = 1_000_000
DEAF = {"peers": f"{PEER},fd09::2", "direction": "in", "action": "drop"}
NFT = "table inet filter { chain input { type filter hook input priority 0; policy accept; }\n}\n"


@pytest.fixture(params=["xtables", "nft"])
def backend(request: pytest.FixtureRequest, net: Any, tmp_path: Path, sh: Any) -> str:  # noqa: ARG001
    """A host that uses the one or the other."""
    if request.param == "nft":
        (tmp_path / "nft").write_text(NFT)
        sh("nft", "-f", str(tmp_path / "nft"))
    return str(request.param)


@pytest.fixture(autouse=True)
def _warm(node: Any) -> None:
    """The first look at a guest's tables and routes takes longer than a lease."""
    if "CHAOS_GUEST" in os.environ:
        for family in FAMILIES:
            chain = Chain("CHAOS-doctor", family, "mangle", "OUTPUT", ())
            node.engine.host.xtables.try_rule(chain)
        node.engine.view(parse("network.latency", {"peers": PEER, "delay": "1ms"}))


@pytest.fixture(autouse=True)
def _nothing_stays(node: Any) -> Iterator[None]:
    """What a holder leaves is the machine's, and would stand in the way of other tests."""
    yield
    node.supervisor.end_all("shutdown", now_us())


@pytest.fixture
def elsewhere(net: Any, sh: Callable[..., str]) -> str:  # noqa: ARG001
    """An interface by which nothing goes."""
    sh("ip", "link", "add", "w0", "type", "veth", "peer", "name", "w1")
    for name in ("w0", "w1"):
        sh("ip", "link", "set", name, "up")
    return "w0"


def hits(node: Any, fault: str) -> Hits:
    """As the heartbeat says, after the fault has been read back."""
    node.grant("r-1")
    node.look()
    found = node.status(fault).hits
    assert isinstance(found, Hits), node.status(fault)
    return found


def end(node: Any, fault: str) -> Any:
    node.supervisor.obey(Revert(fault=fault), now_us())
    status = node.status(fault)
    assert (status.state, status.clean) == ("ended", True), status.detail
    return status


def test_what_a_rule_hit_is_counted_and_nothing_else(backend: str, node: Any, net: Any) -> None:
    fault = node.apply("network.partition", **DEAF)
    assert node.engine.host.backend == backend
    assert hits(node, fault) == Hits(count=0, unit="packets", seen=0)
    assert not net.ping_from_peer(4, net.peer[4])
    assert net.ping_from_peer(4, net.bystander[4])
    assert hits(node, fault) == Hits(count=1, unit="packets", seen=1)
    assert not net.ping_from_peer(6, net.peer[6])
    assert end(node, fault).hits.count == 2, "also what came after it was last read"


def test_on_another_interface_it_hits_nothing_of_what_is_seen(
    backend: str, node: Any, net: Any, elsewhere: str
) -> None:
    fault = node.apply("network.partition", **DEAF, interface=elsewhere)
    assert node.engine.host.backend == backend
    assert hits(node, fault).idle
    assert net.ping_from_peer(4, net.peer[4])
    assert hits(node, fault) == Hits(count=0, unit="packets", seen=1)
    assert end(node, fault).hits.missed


def test_all_of_an_interface_is_about_no_other(node: Any, net: Any, elsewhere: str) -> None:
    peers = {"peers": "0.0.0.0/0,::/0", "direction": "in", "action": "drop"}
    fault = node.apply("network.partition", **peers, interface=elsewhere)
    assert net.ping_from_peer(4, net.peer[4])
    assert hits(node, fault).idle, "nothing came in by the interface that it is about"


def test_of_a_share_what_meets_it_is_hit(backend: str, node: Any, net: Any) -> None:
    fault = node.apply("network.loss", peers=PEER, direction="in", percent="1%")
    assert node.engine.host.backend == backend
    net.ping(PEER, 20)
    found = hits(node, fault)
    assert found.count == found.seen == 20
    assert found.note.endswith("of them dropped")


def test_what_opens_connections_is_counted_in_them(node: Any, net: Any) -> None:
    fault = node.apply("network.limit", peers=PEER, count=2, period="300s")
    for _ in range(3):
        with net.socket_there(4, socket.SOCK_STREAM) as there, socket.socket() as here:
            there.bind((PEER, 0))
            there.listen()
            here.settimeout(2)
            with suppress(ConnectionRefusedError):
                here.connect(there.getsockname())
    found = hits(node, fault)
    assert (found.count, found.seen, found.unit) == (3, 3, "connections")
    assert found.note == "1 of them rejected"


@pytest.mark.guest
@pytest.mark.parametrize("direction", ["out", "in"])
def test_what_makes_the_detour_is_counted_at_the_filter(
    node: Any, net: Any, direction: str
) -> None:
    fault = node.apply("network.latency", peers=PEER, delay="5ms", direction=direction)
    assert hits(node, fault).idle
    assert len(net.ping(PEER, 7)) == 7
    assert hits(node, fault) == Hits(count=7, unit="packets", seen=7)
    assert net.echo()[4, net.bystander[4]]
    assert end(node, fault).hits.count == 8, "one more to the peer, none of the bystander's"


@pytest.mark.guest
def test_a_detour_on_another_interface_hits_nothing(node: Any, net: Any, elsewhere: str) -> None:
    """Outwards it is refused; what comes in may take another way than what goes out."""
    out = node.apply("network.latency", peers=PEER, delay="5ms", interface=elsewhere)
    assert node.status(out).state == "refused"
    assert "has no way to" in node.status(out).detail
    fault = node.apply(
        "network.latency", peers=PEER, delay="5ms", direction="in", interface=elsewhere
    )
    assert len(net.ping(PEER, 12)) == 12
    assert hits(node, fault) == Hits(count=0, unit="packets", seen=12)
    assert end(node, fault).hits.missed


@pytest.mark.guest
def test_of_every_nth_all_that_were_counted_are_exposed(node: Any, net: Any) -> None:
    fault = node.apply("network.loss", peers=PEER, every=5)
    assert len(net.ping(PEER, 3)) == 3
    assert hits(node, fault) == Hits(count=3, unit="packets", seen=3)
    assert len(net.ping(PEER, 7)) == 5
    assert hits(node, fault) == Hits(count=10, unit="packets", seen=10)


# ── what nobody asked for ─────────────────────────────────────────────────────────────────


def send(count: int, to: str = PEER, by: socket.socket | None = None) -> None:
    with by or socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(count):
            sender.sendto(b"x", (to, 9))


@pytest.mark.guest
@pytest.mark.parametrize("direction", ["out", "in"])
def test_a_full_queue_ends_a_fault_as_disturbed(
    node: Any, net: Any, monkeypatch: pytest.MonkeyPatch, direction: str
) -> None:
    """The queue is made small: a sender that fills the usual one is more than a guest can be."""
    monkeypatch.setattr(network_latency, "queue_limit", lambda _: 50)
    fault = node.apply("network.latency", peers=PEER, delay="900ms", direction=direction)
    if direction == "out":
        send(40)
    node.grant("r-1")
    node.look()
    assert node.status(fault).state == "in_force", node.status(fault).detail
    if direction == "out":
        send(200)
    else:
        sender = net.socket_there(4, socket.SOCK_DGRAM)
        sender.bind((PEER, 0))
        send(200, net.near[4], sender)
    node.grant("r-1")
    node.look()
    status = node.status(fault)
    assert (status.state, status.reason) == ("ended", "disturbed"), status
    assert "that nobody asked to drop: the queue of" in status.detail
    assert status.clean, status.detail


@pytest.mark.guest
@pytest.mark.parametrize(
    ("netem", "overflows"),
    [
        (Netem(delay=900_000, limit=50), True),
        (Netem(delay=900_000, limit=50, loss=300_000), True),
        (Netem(loss=500_000, limit=10_000), False),
        (Netem(loss=1_000_000, limit=10_000), False),
        (Netem(bursts=GilbertElliott(300_000, 300_000), limit=10_000), False),
        (Netem(delay=900_000, loss=500_000, limit=10_000), False),
        (Netem(delay=900_000, corrupt=500_000, limit=10_000), False),
    ],
)
def test_loss_that_was_asked_for_is_told_from_a_full_queue(
    host: Host,
    sh: Callable[..., str],
    wait_for: Callable[..., None],
    netem: Netem,
    overflows: bool,
) -> None:
    pipe = Pipe("v0", "chs-0000000a-0", 0x10000, 0xFF0000, 5, netem)
    ops(pipe).apply(host, pipe, now_us() + 30 * SECOND)
    sh(*f"{MANGLE} -d {PEER} -p udp -j MARK --set-xmark 0x10000/0xff0000".split())
    send(300)
    found = overflow.look(host, (pipe,), counters.read(host, (pipe,)))
    assert bool(found) == overflows, found
    wait_for(lambda: not revert_all(host, (pipe,)))


@pytest.mark.guest
@pytest.mark.parametrize("dead", ["10.9.0.250", "10.8.0.9"])
def test_a_dead_neighbour_of_somebody_elses_hides_no_idle_fault(
    node: Any, net: Any, sh: Callable[..., str], dead: str
) -> None:
    sh("ip", "neigh", "add", dead, "dev", "v0", "nud", "failed")
    sh("ipset", "create", "map", "hash:net", "skbinfo")
    sh("ipset", "add", "map", PEER, "skbmark", "0x5")
    sh(*f"{MANGLE} -j SET --map-set map dst --map-mark".split())
    fault = node.apply("network.latency", peers=PEER, delay="10ms")
    node.grant("r-1")
    net.ping(PEER, 12)
    node.grant("r-1")
    node.look()
    status = node.status(fault)
    assert (status.state, status.reason) == ("ended", "disturbed"), status
    assert "none reached the filter" in status.detail
    assert "another fault" in status.detail, "nobody else is blamed for what may be ours"


@pytest.mark.guest
@pytest.mark.parametrize("peers", ["10.7.0.2", "10.7.0.0/24"])
def test_a_gateway_that_is_sought_is_no_disturbance(
    node: Any, sh: Callable[..., str], peers: str
) -> None:
    sh("ip", "link", "set", "v0", "arp", "on")
    sh("ip", "route", "add", "10.7.0.0/24", "via", "10.9.0.99")
    fault = node.apply("network.latency", peers=peers, delay="10ms")
    sh("ping", "-c", "12", "-i", "0.002", "-W", "0.05", "10.7.0.2", check=False)
    node.grant("r-1")
    node.look()
    assert node.status(fault).state == "in_force", node.status(fault).detail
    assert hits(node, fault).count == 0


# ── what is taken ─────────────────────────────────────────────────────────────────────────


def test_a_holder_tells_what_it_has_taken(node: Any) -> None:
    fault = node.apply("memory.stress", percent="0.5%")
    node.await_in_force(fault)
    found = hits(node, fault)
    assert found.unit == "bytes"
    assert found.asked is not None
    assert found.count >= found.asked * 0.99
    end(node, fault)


@pytest.fixture
def hog() -> Iterator[Callable[[], Path]]:
    """Starts a process that takes all the CPU that its group, of a heavy weight, can get.

    This process goes before it, as the keeper's unit does by its own weight.
    """
    os.setpriority(os.PRIO_PROCESS, 0, -20)
    (limits.ROOT / "cgroup.subtree_control").write_text("+cpu +memory +pids")
    group = limits.ROOT / "hog"
    group.mkdir()
    (group / "cpu.weight").write_text("300")
    started = []

    def start() -> Path:
        enter = f"open('{group}/cgroup.procs', 'w').write('0')\n"
        words = (sys.executable, "-S", "-c", f"{enter}print(flush=True)\nwhile True: pass")
        process = subprocess.Popen(words, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return group

    yield start
    for process in started:
        process.kill()
        process.wait()
    os.setpriority(os.PRIO_PROCESS, 0, 0)
    group.rmdir()


@pytest.mark.guest
def test_a_burner_beside_a_heavier_group_says_what_it_got(
    node: Any, hog: Callable[[], Path]
) -> None:
    fault = node.apply("cpu.stress", percent="50%")
    node.await_in_force(fault)
    node.grant("r-1")
    hog()
    deadline = time.monotonic() + 20
    while not (note := hits(node, fault).note):
        node.grant("r-1")
        assert node.status(fault).state == "in_force", node.status(fault)
        assert time.monotonic() < deadline, node.status(fault)
        time.sleep(1)  # each look is a second after the one before
    assert note.startswith("asked 50% of the CPU, got ")
    assert float(note.removeprefix("asked 50% of the CPU, got ").rstrip("%")) < 40
    assert note in node.status(fault).detail
    end(node, fault)


@pytest.mark.guest
def test_a_limit_counts_how_often_it_held_its_group_up(host: Host, hog: Callable[[], Path]) -> None:
    group = hog()
    (group / "cpu.max").write_text("10000 100000")
    time.sleep(0.5)
    inode = group.stat().st_ino
    limit = CgroupLimit("hog.service", "/hog", inode, "cpu.max", "", "10000 100000", "5000 100000")
    before = hitting.origins(host, (limit,))
    assert before[limit].count > 0, "it was throttled before as well"
    ops(limit).apply(host, limit, 0)
    time.sleep(1)
    found = hitting.total(host, (limit,), counters.Counters(), before)
    assert found is not None
    assert found.unit == "throttled periods"
    assert 0 < found.count < 30, "only what came after"
    ops(limit).revert(host, limit)
