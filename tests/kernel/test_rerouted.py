"""Faults hit their peers by every interface that packets leave by, and see it when these change."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from chaos_agent.effects import ops, revert_all
from chaos_agent.linux.boottime import now_us
from chaos_agent.rerouted import Watch
from chaos_core import faults
from chaos_core.effects import Pipe
from chaos_core.messages import FaultStatus, Revert

guest = pytest.mark.guest  # the detour needs fw and dummy
FAMILIES = pytest.mark.parametrize("family", [4, 6])
SAMPLED = pytest.mark.parametrize("family", [4, pytest.param(6, marks=pytest.mark.long)])
AF = {4: socket.AF_INET, 6: socket.AF_INET6}
FIRST = {4: "10.9.0.2", 6: "fd09::2"}
SECOND = {4: "10.8.0.2", 6: "fd08::2"}
OWN = {4: ("10.9.0.1", "10.8.0.1"), 6: ("fd09::1", "fd08::1")}
TARGET = {4: "10.77.0.1", 6: "fd77::1"}
PORT = 7101
_SO_BINDTODEVICE, _SO_MARK = 25, 36


class Uplinks:
    """A second link to the peer, ``w0``, and an address of the peer's behind both."""

    def __init__(self, node: Any, net: Any, sh: Callable[..., str]) -> None:
        self.node, self.net, self.sh = node, net, sh
        sh("ip", "link", "add", "w0", "type", "veth", "peer", "name", "w1")
        net.take("w1")
        net.there("ip", "link", "set", "lo", "up")
        for family in (4, 6):
            self.there(family, f"addr add {TARGET[family]} dev lo")
        self.raise_link("w0", "w1")

    def raise_link(self, here: str, there: str) -> None:
        """Give the second link's addresses to these devices, and bring them up."""
        for family, length in ((4, 24), (6, 64)):
            nodad = " nodad" if family == 6 else ""
            self.ip(family, f"addr add {OWN[family][1]}/{length} dev {here}{nodad}")
            self.there(family, f"addr add {SECOND[family]}/{length} dev {there}{nodad}")
        self.there(4, f"link set {there} up")
        self.ip(4, f"link set {here} up")

    def ip(self, family: int, words: str) -> None:
        self.sh("ip", f"-{family}", *words.split())

    def there(self, family: int, words: str) -> None:
        self.net.there("ip", f"-{family}", *words.split())

    def both(self, words: str, *, hop: dict[int, str] | None = None, **more: Any) -> None:
        """``ip`` for both families, with ``{to}`` and ``{via}`` in it."""
        for family in (4, 6):
            self.ip(family, words.format(
                to=TARGET[family], via=(hop or FIRST)[family], second=SECOND[family],
                own=OWN[family][1], **more,
            ))  # fmt: skip

    def sent(self, device: str) -> int:
        for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
            name, _, counters = line.strip().partition(":")
            if name == device:
                return int(counters.split()[9])
        raise AssertionError(f"there is no {device}")

    def arrived(
        self, family: int, *, mark: int = 0, source: str = "", device: str = "", count: int = 32
    ) -> int:
        """How many datagrams of so many flows arrive at the target, under a fresh lease."""
        found = 0
        self.node.grant("r-1")
        with self.net.socket_there(family, socket.SOCK_DGRAM) as there:
            there.bind((TARGET[family], PORT))
            there.settimeout(0.3)
            for _ in range(count):
                with socket.socket(AF[family], socket.SOCK_DGRAM) as here:
                    if mark:
                        here.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
                    if device:
                        here.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, device.encode())
                    if source:
                        here.bind((source, 0))
                    here.sendto(b"x", (TARGET[family], PORT))
            try:
                while found < count:
                    there.recv(10)
                    found += 1
            except TimeoutError:
                pass
        return found


@pytest.fixture
def uplinks(node: Any, net: Any, sh: Callable[..., str]) -> Uplinks:
    return Uplinks(node, net, sh)


def ended(node: Any, fault: str) -> FaultStatus:
    """The fault's status, once it is over. Routes that take long are asked for less often."""
    until = time.monotonic() + 10
    while node.status(fault).state == "in_force" and time.monotonic() < until:
        node.grant("r-1")
        node.look()
    status: FaultStatus = node.status(fault)
    return status


def in_force(node: Any, kind: str, **params: Any) -> str:
    fault: str = node.apply(kind, **params)
    assert node.status(fault).state == "in_force", node.status(fault).detail
    return fault


@contextmanager
def acting(node: Any, kind: str, *, number: Any = 1, **params: Any) -> Iterator[None]:
    """The fault as the agent compiles it here, for long enough on a slow machine."""
    fault = faults.parse(kind, params)
    effects = fault.compile(node.engine.view(fault), f"{number:08x}")
    host = node.engine.host
    for effect in effects:
        ops(effect).apply(host, effect, now_us() + 60_000_000)
        assert ops(effect).verify(host, effect) is None
    watch = Watch(fault, effects, node.engine.view(fault).ways)
    yield
    assert [ops(effect).verify(host, effect) for effect in effects if isinstance(effect, Pipe)]
    assert watch.look(host, now_us) is None
    assert revert_all(host, effects) == []


# ── every way ─────────────────────────────────────────────────────────────────────────────


@guest
@FAMILIES
@pytest.mark.parametrize("objects", [False, True])
def test_both_next_hops_are_hit(
    node: Any, uplinks: Uplinks, wait_for: Callable[..., None], family: int, objects: bool
) -> None:
    policy = f"net.ipv{family}.fib_multipath_hash_policy=1"
    uplinks.sh("sysctl", "-qw", policy)
    if objects:
        uplinks.ip(family, f"nexthop add id 1 via {FIRST[family]} dev v0")
        uplinks.ip(family, f"nexthop add id 2 via {SECOND[family]} dev w0")
        uplinks.sh("ip", "nexthop", "add", "id", "9", "group", "1/2")
        uplinks.ip(family, f"route add {TARGET[family]} nhid 9")
    else:
        hops = f"nexthop via {FIRST[family]} nexthop via {SECOND[family]}"
        uplinks.ip(family, f"route add {TARGET[family]} {hops}")
    wait_for(lambda: uplinks.arrived(family) == 32)
    before = uplinks.sent("v0"), uplinks.sent("w0")
    assert uplinks.arrived(family) == 32
    after = uplinks.sent("v0"), uplinks.sent("w0")
    assert all(now - was >= 3 for was, now in zip(before, after, strict=True)), "one way only"
    cuts: tuple[tuple[str, dict[str, Any]], ...] = (
        ("network.partition", {"direction": "out"}),
        ("network.loss", {"percent": "100%"}),
    )
    for kind, params in cuts:
        with acting(node, kind, peers=TARGET[family], **params):
            assert uplinks.arrived(family) == 0, kind
    assert uplinks.arrived(family) == 32


@guest
@FAMILIES
@pytest.mark.parametrize(
    ("rule", "traffic"),
    [
        ("to {to}", {}),
        ("fwmark 5", {"mark": 5}),
        ("from {own}", {"source": OWN}),
        ("oif w0", {"device": "w0"}),
    ],
)
def test_what_a_rule_sends_elsewhere_is_hit(
    node: Any,
    uplinks: Uplinks,
    wait_for: Callable[..., None],
    family: int,
    rule: str,
    traffic: dict[str, Any],
) -> None:
    uplinks.both("route add default via {via}")
    uplinks.both("route add default via {second} table 100")
    uplinks.both(f"rule add {rule} lookup 100 pref 1000")
    if "source" in traffic:
        traffic = {"source": OWN[family][1]}
    wait_for(lambda: uplinks.arrived(family, **traffic) == 32)
    before = uplinks.sent("w0")
    assert uplinks.arrived(family, **traffic) == 32
    assert uplinks.sent("w0") >= before + 32
    with acting(node, "network.partition", peers=TARGET[family], direction="out"):
        assert uplinks.arrived(family, **traffic) == 0
        assert uplinks.arrived(family) == 0
    assert uplinks.arrived(family, **traffic) == 32


@guest
@FAMILIES
@pytest.mark.parametrize("interface", ["", "blue", "w0"])
def test_what_leaves_by_a_vrf_is_hit(
    node: Any, uplinks: Uplinks, family: int, interface: str
) -> None:
    uplinks.ip(4, "link add blue type vrf table 10")
    uplinks.ip(4, "link set blue up")
    uplinks.ip(4, "link set w0 master blue")
    uplinks.ip(6, f"addr replace {OWN[6][1]}/64 dev w0 nodad")  # which the move has taken off
    uplinks.both("route add {to} via {second} table 10")
    assert uplinks.arrived(family, device="blue") == 32
    for peers in (TARGET[family], {4: "10.77.0.0/24", 6: "fd77::/64"}[family]):
        with acting(node, "network.partition", peers=peers, direction="out", interface=interface):
            assert uplinks.arrived(family, device="blue") == 0, peers
    assert uplinks.arrived(family, device="blue") == 32
    status = node.status(node.apply("network.loss", peers=TARGET[family], percent="1%",
                                    direction="in", interface="w0"))  # fmt: skip
    assert status.state == "refused"
    assert "w0 belongs to VRF blue" in status.detail


def _layered(uplinks: Uplinks, layers: str) -> str:
    """Devices on w0 and, the same, on its other end; the uppermost's name."""
    top = ("w0", "w1")
    for family in (4, 6):
        uplinks.ip(family, "addr flush dev w0")
        uplinks.there(family, "addr flush dev w1")
    for layer in layers.split():
        name = {"vlan": "vlan5", "bond": "bond0", "bridge": "br0"}[layer]
        for run, lower in ((uplinks.ip, top[0]), (uplinks.there, top[1])):
            if layer == "vlan":
                run(4, f"link add link {lower} name {name} type vlan id 5")
            else:
                mode = " mode active-backup miimon 100" if layer == "bond" else ""
                run(4, f"link add {name} type {layer}{mode}")
                run(4, f"link set {lower} down")
                run(4, f"link set {lower} master {name}")
            run(4, f"link set {lower} up")
            run(4, f"link set {name} up")
        top = (name, name)
    uplinks.raise_link(*top)
    return top[0]


@guest
@SAMPLED
@pytest.mark.parametrize("layers", ["vlan", "bond", "bridge", "bond vlan", "bridge vlan"])
def test_what_leaves_by_a_layered_device_is_hit_on_both_ways(
    node: Any, net: Any, uplinks: Uplinks, wait_for: Callable[..., None], family: int, layers: str
) -> None:
    device = _layered(uplinks, layers)
    # With a source, or the answers may come back by the other link, where no fault waits.
    uplinks.both("route add {to} via {second} src {own}")
    wait_for(lambda: uplinks.arrived(family, count=1) == 1, 10)
    with acting(node, "network.latency", peers=TARGET[family], delay="100ms", direction="both"):
        took = net.ping(TARGET[family], patience="2")
        assert len(took) == 2
        assert min(took) >= 200
    params: dict[str, Any] = {"peers": TARGET[family], "direction": "out", "interface": device}
    with acting(node, "network.partition", **params):
        assert uplinks.arrived(family) == 0
    status = node.status(node.apply("network.partition", peers=TARGET[family], interface="w0"))
    assert (status.state, "w0 of node n1 has no way to" in status.detail) == ("refused", True)
    assert f"they leave by {device}" in status.detail


# ── a way that changes ────────────────────────────────────────────────────────────────────


@guest
@SAMPLED
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("route replace {to} via {second}", "now leaves by w0"),
        ("route del {to}", "there is no route to"),
        ("rule add to {to} lookup 100 pref 1000", "now leaves by w0"),
        ("rule add fwmark 5 lookup 100 pref 1000", "now leaves by w0 as well"),
    ],
)
def test_a_route_that_changes_ends_the_fault(
    node: Any, uplinks: Uplinks, family: int, change: str, says: str, wide: bool
) -> None:
    uplinks.both("route add {to} via {via}")
    uplinks.both("route add {to} via {second} table 100")
    around = {4: "10.77.0.0/24", 6: "fd77::/64"}[family]
    if wide and "to {to} lookup" in change:
        says = "now leaves by w0 as well"  # what the main table says is not overruled for all
    fault = in_force(
        node, "network.partition", peers=around if wide else TARGET[family], direction="out"
    )
    uplinks.both("route add {to} via {via} table 77")  # to which nothing leads
    node.grant("r-1")
    node.look()
    assert node.status(fault).state == "in_force", node.status(fault).detail
    uplinks.both(change)
    status = ended(node, fault)
    assert (status.state, status.reason, status.clean) == ("ended", "disturbed", True)
    assert says in status.detail
    assert (around if wide else TARGET[family]) in status.detail
    assert node.engine.residue() == []


@guest
def test_a_hop_that_is_lost_leaves_the_fault_in_force_and_a_new_one_ends_it(
    node: Any, uplinks: Uplinks
) -> None:
    hops = f"nexthop via {FIRST[4]} nexthop via {SECOND[4]}"
    uplinks.ip(4, f"route add {TARGET[4]} {hops}")
    fault = in_force(node, "network.partition", peers=TARGET[4], direction="out")
    uplinks.ip(4, f"route replace {TARGET[4]} via {FIRST[4]}")
    node.grant("r-1")
    node.look()
    assert node.status(fault).state == "in_force", node.status(fault).detail
    assert uplinks.arrived(4) == 0
    node.supervisor.obey(Revert(fault=fault), now_us())
    fault = in_force(node, "network.partition", peers=TARGET[4], direction="out")
    uplinks.ip(4, f"route replace {TARGET[4]} {hops}")
    status = ended(node, fault)
    assert (status.state, status.reason) == ("ended", "disturbed")
    assert f"route to {TARGET[4]} now leaves by w0 as well" in status.detail


@guest
@pytest.mark.parametrize(
    ("change", "says"), [("link set w0 down", "w0 is down"), ("link del w0", "w0 is gone")]
)
def test_an_interface_that_goes_ends_the_fault_by_its_name(
    node: Any, uplinks: Uplinks, change: str, says: str
) -> None:
    fault = in_force(node, "network.partition", peers=SECOND[4], direction="out")
    uplinks.ip(4, change)
    status = ended(node, fault)
    assert (status.state, status.reason) == ("ended", "disturbed")
    assert says in status.detail


# ── everything ────────────────────────────────────────────────────────────────────────────


@guest
@pytest.mark.usefixtures("uplinks")
@pytest.mark.parametrize("kind", ["network.blackhole", "network.dns", "network.down"])
def test_a_fault_on_everything_stands_beside_one_that_shapes(
    node: Any, net: Any, kind: str
) -> None:
    params = {
        "network.blackhole": {"ports": "5432"},
        "network.dns": {"names": "db.example.com"},
        "network.down": {"interface": "w0"},
    }[kind]
    with (
        acting(node, "network.latency", number=1, peers=net.peer[4], delay="50ms"),
        acting(node, kind, number=2, **params),
    ):
        assert min(net.ping(net.peer[4])) >= 50
    assert node.engine.residue() == []
