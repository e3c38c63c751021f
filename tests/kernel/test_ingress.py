"""Latency of what comes from the peers: leased by the kernel, and never what is protected.

Everything is judged by times on the wire and by what the tools list.
"""

from __future__ import annotations

import socket
import statistics
import struct
import time
from collections.abc import Callable
from typing import Any

import pytest

from chaos_agent.effects import ops, sweep
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.host import Host
from chaos_agent.linux.tc import Tc
from chaos_core import faults
from chaos_core.effects import Effect, Family, IngressPipe
from chaos_core.messages import Revert
from chaos_core.node import Device, NodeView, Protected, Way

pytestmark = pytest.mark.guest
BOTH = pytest.mark.parametrize("family", [4, 6])
LATER = 60 * 1_000_000
LATE = 100  # ms


def effects(
    peers: str, *controllers: str, direction: str = "in", **more: str
) -> tuple[Effect, ...]:
    """The fault as the agent would compile it on a node with these controllers."""
    view = NodeView(
        name="n1",
        cpus=1,
        memory_total=2**30,
        devices=(Device("v0", ("10.9.0.1", "fd09::1")),),
        elsewhere=Way(("v0",)),
        protected=Protected(controllers=controllers),
    )
    given = {"peers": peers, "delay": f"{LATE}ms", "direction": direction, **more}
    return faults.parse("network.latency", given).compile(view, "0000000a")


def apply(host: Host, *wanted: Effect, lease: int = LATER) -> None:
    for effect in wanted:
        ops(effect).apply(host, effect, now_us() + lease)
        assert ops(effect).verify(host, effect) is None


def revert(host: Host, *wanted: Effect) -> None:
    for effect in reversed(wanted):
        ops(effect).revert(host, effect)
        assert ops(effect).absent(host, effect) is None


def connect_ms(net: Any, family: Family, port: int, local_port: int = 0) -> float:
    """How long a TCP connection to a port of the peer's takes, from a port of ours."""
    af = socket.AF_INET if family == 4 else socket.AF_INET6
    peer, near = net.peer[family], net.near[family]
    with (
        net.at_peer(lambda: socket.create_server((peer, port), family=af)),
        socket.socket(af) as asking,
    ):
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # No TIME_WAIT, so that the same port can call again.
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        asking.bind((near, local_port))
        began = time.perf_counter()
        asking.connect((peer, port))
        return (time.perf_counter() - began) * 1000


@BOTH
def test_what_comes_from_the_peer_is_late_and_nothing_else(
    node: Any, net: Any, users: Any, listing: Callable[[], list[str]], family: Family
) -> None:
    del users  # theirs is only listed
    before = listing()
    fault = node.apply("network.latency", peers=net.peer[family], delay=f"{LATE}ms", direction="in")
    assert node.status(fault).state == "in_force", node.status(fault).detail
    late = net.ping(net.peer[family], count=5)
    node.grant("r-1")
    assert len(late) == 5
    assert statistics.median(late) == pytest.approx(LATE, abs=4)
    assert max(net.ping(net.bystander[family])) < 20
    node.grant("r-1")
    assert listing() == before
    node.grant("r-1")
    node.look()
    assert node.status(fault).state == "in_force", node.status(fault).detail
    node.supervisor.obey(Revert(fault=fault), now_us())
    assert (node.status(fault).clean, node.status(fault).detail) == (True, "")
    assert node.engine.residue() == []
    assert listing() == before
    assert max(net.ping(net.peer[family])) < 20


def echo_ms(net: Any, family: Family, port: int) -> float:
    """How long an answer by UDP from a port of the peer's takes."""
    with (
        net.socket_there(family, socket.SOCK_DGRAM) as there,
        socket.socket(there.family, socket.SOCK_DGRAM) as asking,
    ):
        there.bind((net.peer[family], port))
        asking.settimeout(2)
        asking.connect((net.peer[family], port))
        began = time.perf_counter()
        asking.send(b"?")
        there.sendto(*there.recvfrom(10))
        asking.recv(10)
        return (time.perf_counter() - began) * 1000


@BOTH
def test_ports_choose_what_is_late(host: Host, net: Any, family: Family) -> None:
    """Theirs, ours, or both at once; by TCP and UDP, or by one of them."""

    def judge(late: set[tuple[int, int]], udp: bool, **chosen: str) -> None:
        wanted = effects(net.peer[family], **chosen)
        apply(host, *wanted)
        for theirs in (2222, 2231):
            for ours in (0, 2300):
                took = connect_ms(net, family, theirs, local_port=ours)
                assert (took >= LATE) == ((theirs, ours) in late), (chosen, theirs, ours, took)
        assert (echo_ms(net, family, 2231) >= LATE) == udp
        assert max(net.ping(net.peer[family])) < LATE / 2
        revert(host, *wanted)

    judge({(2231, 0), (2231, 2300)}, True, ports="2230-2231")
    judge({(2231, 0), (2231, 2300)}, False, ports="2230-2231", protocol="tcp")
    judge(set(), True, ports="2231", protocol="udp")
    judge({(2231, 2300)}, False, ports="2231", local_ports="2300")


@BOTH
def test_who_is_excluded_is_not_late(host: Host, net: Any, family: Family) -> None:
    everybody = {4: "10.9.0.0/24", 6: "fd09::/64"}[family]
    apply(host, *effects(everybody, exclude=net.bystander[family]))
    assert min(net.ping(net.peer[family])) >= LATE
    assert max(net.ping(net.bystander[family])) < LATE / 2


@BOTH
def test_both_ways_is_twice_as_late(host: Host, net: Any, family: Family) -> None:
    wanted = effects(net.peer[family], direction="both")
    apply(host, *wanted)
    assert statistics.median(net.ping(net.peer[family], 5)) == pytest.approx(2 * LATE, abs=8)
    assert max(net.ping(net.bystander[family])) < 20
    revert(host, *wanted)
    assert host.tc.clsact_devices() == set()
    assert max(net.ping(net.peer[family])) < 20


@BOTH
def test_ssh_is_never_late(host: Host, net: Any, family: Family) -> None:
    apply(host, *effects(net.peer[family]))
    assert connect_ms(net, family, 2222) >= LATE
    assert connect_ms(net, family, 22) < LATE / 2, "from the peer's SSH server"
    assert connect_ms(net, family, 2223, local_port=22) < LATE / 2, "to our own"


@BOTH
def test_a_controller_among_the_peers_is_never_late(host: Host, net: Any, family: Family) -> None:
    everybody = {4: "10.9.0.0/24", 6: "::/0"}[family]
    apply(host, *effects(everybody, *net.bystander.values()))
    assert min(net.ping(net.peer[family])) >= LATE
    assert max(net.ping(net.bystander[family])) < LATE / 2


def test_neighbour_discovery_is_never_late(host: Host, net: Any, sh: Callable[..., str]) -> None:
    apply(host, *effects("fd09::2,fe80::/10", interface="v0"))
    sh("ip", "-6", "neigh", "del", net.peer[6], "dev", "v0")
    first = net.ping(net.peer[6], count=1)
    assert first
    assert LATE <= first[0] < 1.8 * LATE, "the answer, and not the neighbour's advertisement"


def test_it_ends_with_its_lease_and_no_process(
    host: Host, net: Any, wait_for: Callable[..., None]
) -> None:
    apply(host, *effects("10.9.0.2"), lease=2_500_000)
    host.close()
    assert min(net.ping(net.peer[4])) >= LATE
    wait_for(lambda: max(net.ping(net.peer[4])) < 20, 2.5)
    with Host() as afresh:
        sweep.remove(afresh)
        assert sweep.find(afresh) == []
        assert afresh.tc.clsact_devices() == set()


def test_two_faults_share_a_clsact_and_end_on_their_own(
    node: Any, net: Any, listing: Callable[[], list[str]]
) -> None:
    before = listing()
    first = node.apply("network.latency", peers="10.9.0.2", delay="100ms", direction="in")
    node.grant("r-1")
    second = node.apply("network.latency", peers="10.9.0.4,fd09::4", delay="60ms", direction="in")
    node.grant("r-1")
    assert min(net.ping("10.9.0.2")) >= 100
    node.grant("r-1")
    assert 60 <= min(net.ping("10.9.0.4")) < 100
    node.grant("r-1")
    node.supervisor.obey(Revert(fault=first), now_us())
    assert node.status(first).clean, node.status(first).detail
    node.grant("r-1")
    assert max(net.ping("10.9.0.2")) < 20
    assert min(net.ping("fd09::4")) >= 60
    node.grant("r-1")
    node.look()
    assert node.status(second).state == "in_force", node.status(second).detail
    node.supervisor.obey(Revert(fault=second), now_us())
    assert node.status(second).clean, node.status(second).detail
    assert listing() == before


TOS = "filter add dev v0 ingress protocol ip pref {} u32 match ip tos 4 0xff action ok"


def test_beside_somebodys_filter_at_ingress_it_is_refused(
    node: Any, sh: Callable[..., str], listing: Callable[[], list[str]]
) -> None:
    sh("tc", "qdisc", "add", "dev", "v0", "clsact")
    sh("tc", *TOS.format(7).split())
    before = listing()
    fault = node.apply("network.latency", peers="10.9.0.2", delay="10ms", direction="in")
    status = node.status(fault)
    assert (status.state, status.clean) == ("refused", True), status.detail
    assert "filter 7 (u32) of somebody else's is at the ingress of v0" in status.detail
    assert listing() == before


def test_a_filter_that_somebody_adds_ends_it_and_stays(
    node: Any, net: Any, sh: Callable[..., str]
) -> None:
    fault = node.apply("network.latency", peers="10.9.0.2", delay="10ms", direction="in")
    sh("tc", *TOS.format(7).split())
    node.grant("r-1")
    node.look()
    status = node.status(fault)
    assert (status.state, status.clean) == ("ended", True), status.detail
    assert "of somebody else's is at the ingress" in status.detail
    assert "pref 7" in sh("tc", "filter", "show", "dev", "v0", "ingress")
    assert max(net.ping(net.peer[4])) < 10


@pytest.mark.parametrize("empty", [False, True])
def test_the_users_own_clsact_stays(host: Host, users: Any, empty: bool) -> None:
    users.add_clsact(empty=empty)
    before = users.listing()
    wanted = effects("10.9.0.2")
    apply(host, *wanted)
    revert(host, *wanted)
    assert users.listing() == before


class Crashed(Exception):
    pass


@pytest.mark.parametrize("step", ["add_netem", "raise_link", "add_clsact", "add_catch"])
def test_a_crash_at_any_step_leaves_nothing_that_cannot_be_reverted(
    host: Host, users: Any, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise Crashed

    before = users.listing()
    wanted = effects("10.9.0.2,fd09::2", "10.9.0.3")
    number = next(n for n, effect in enumerate(wanted) if isinstance(effect, IngressPipe))
    pipe = wanted[number]
    apply(host, *wanted[:number])
    monkeypatch.setattr(Tc, step, crash)
    with pytest.raises(Crashed):
        ops(pipe).apply(host, pipe, now_us() + LATER)
    monkeypatch.undo()
    assert ops(pipe).verify(host, pipe) is not None
    with Host() as afresh:
        revert(afresh, *wanted)
        assert users.listing() == before


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        ("tc qdisc change dev chs-0000000a-16 root netem delay 99ms limit 81666", "has delay"),
        ("ip link set chs-0000000a-16 down", "that is down"),
        ("ip link del chs-0000000a-16", "is missing"),
        ("tc filter del dev v0 ingress", "the filters at the ingress of v0 are []"),
        ("tc qdisc del dev v0 clsact", "the filters at the ingress of v0 are []"),
        ("ipset del chs-0000000a-42 0.0.0.0/1,tcp:22", "differs in 0.0.0.0/1,tcp:22"),
        ("ipset add chs-0000000a-41 10.9.9.0/24", "differs in 10.9.9.0/24"),
    ],
)
def test_verify_names_what_differs_and_revert_cleans_up(
    host: Host, sh: Callable[..., str], users: Any, harm: str, says: str
) -> None:
    before = users.listing()
    wanted = effects("10.9.0.2,fd09::2", "10.9.0.3")
    assert sum(isinstance(effect, IngressPipe) for effect in wanted) == 1
    apply(host, *wanted)
    sh(*harm.split())
    found = [text for effect in wanted if (text := ops(effect).verify(host, effect))]
    assert len(found) == 1
    assert says in found[0]
    revert(host, *wanted)
    assert users.listing() == before
