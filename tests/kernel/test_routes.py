"""What a fault may know of this node's devices, and by which of them packets leave."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chaos_agent.linux import netlink
from chaos_agent.linux.host import Host
from chaos_core.errors import Unsupported
from chaos_core.node import Way

FAMILIES = pytest.mark.parametrize("family", [4, 6])
# Beyond the two links of this node: by the first, v0, or by the second, w0.
FIRST = {4: "10.9.0.2", 6: "fd09::2"}
SECOND = {4: "10.8.0.2", 6: "fd08::2"}
TARGET = {4: "10.77.0.1", 6: "fd77::1"}
AROUND = {4: "10.77.0.0/24", 6: "fd77::/64"}


@pytest.fixture
def uplinks(net: Any, sh: Callable[..., str]) -> Any:
    """A second link of this node's, w0."""
    sh("ip", "link", "add", "w0", "type", "veth", "peer", "name", "w1")
    for words in ("addr add 10.8.0.1/24 dev w0", "-6 addr add fd08::1/64 dev w0 nodad"):
        sh("ip", *words.split())
    sh("ip", "link", "set", "w1", "up")
    sh("ip", "link", "set", "w0", "up")
    return net


@pytest.fixture
def ip(uplinks: Any, sh: Callable[..., str]) -> Callable[[int, str], str]:  # noqa: ARG001
    """``ip`` for a family, in one string."""
    return lambda family, words: sh("ip", f"-{family}", *words.split())


def test_devices_are_listed_with_addresses_and_prefs_in_use(
    host: Host, net: Any, users: Any, sh: Callable[..., str]
) -> None:
    users.add_clsact()
    sh("ip", "link", "add", "chs-0000000a-0", "type", "ifb")
    devices = {device.name: device for device in host.devices.all()}
    assert devices.keys() == {"lo", "v0", "mine0"}
    assert devices["lo"].loopback
    assert not devices["v0"].loopback
    assert devices["v0"].up
    assert not devices["mine0"].up
    assert (devices["v0"].kind, devices["mine0"].kind) == ("veth", "ifb")
    assert {net.near[4], net.near[6]} <= set(devices["v0"].addresses)
    assert devices["v0"].prefs == {7}
    assert devices["mine0"].prefs == frozenset()


@FAMILIES
def test_all_next_hops_of_a_route_count(
    host: Host, ip: Callable[[int, str], str], kernel: str, family: int  # noqa: ARG001
) -> None:  # fmt: skip
    hops = f"nexthop via {FIRST[family]} nexthop via {SECOND[family]}"
    ip(family, f"route add {AROUND[family]} {hops}")
    for wanted in (TARGET[family], AROUND[family]):
        assert host.ways.towards([wanted]) == {wanted: Way(("v0", "w0"))}


@FAMILIES
@pytest.mark.parametrize("compatible", [1, 0])
def test_next_hop_objects_count_as_next_hops_do(
    host: Host, ip: Callable[..., str], sh: Callable[..., str], family: int, compatible: int
) -> None:
    Path("/proc/sys/net/ipv4/nexthop_compat_mode").write_text(f"{compatible}\n")
    for number, via, dev in ((1, FIRST[family], "v0"), (2, SECOND[family], "w0")):
        ip(family, f"nexthop add id {number} via {via} dev {dev}")
    sh("ip", "nexthop", "add", "id", "9", "group", "1/2")
    ip(family, f"route add {AROUND[family]} nhid 9")
    for wanted in (TARGET[family], AROUND[family]):
        assert host.ways.towards([wanted]) == {wanted: Way(("v0", "w0"))}


@FAMILIES
@pytest.mark.parametrize(
    ("rule", "devices"),
    [
        ("to {around}", ("w0",)),
        ("fwmark 5", ("v0", "w0")),
        ("not fwmark 5", ("v0", "w0")),
        ("from {own}", ("v0", "w0")),
        ("from {near_other_link}", ("v0", "w0")),  # what this node forwards for it
        ("iif w0", ("v0", "w0")),
        ("oif w0", ("v0", "w0")),
        ("uidrange 100-200", ("v0", "w0")),
        ("ipproto tcp dport 80", ("v0", "w0")),
        ("to 192.0.2.0/24", ("v0",)),
    ],
)
def test_what_rules_send_elsewhere_counts(
    host: Host, ip: Callable[[int, str], str], family: int, rule: str, devices: tuple[str, ...]
) -> None:
    for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        Path("/proc/sys/net", name).write_text("1\n")
    if family == 6:
        rule = rule.replace("192.0.2.0/24", "2001:db8::/32")
    words = rule.format(
        around=AROUND[family],
        own={4: "10.8.0.1", 6: "fd08::1"}[family],
        near_other_link={4: "10.8.0.77", 6: "fd08::77"}[family],
    )
    ip(family, f"route add default via {FIRST[family]}")
    ip(family, f"route add default via {SECOND[family]} table 100")
    ip(family, f"rule add {words} lookup 100 pref 1000")
    assert host.ways.towards([TARGET[family]]) == {TARGET[family]: Way(devices)}
    (around,) = host.ways.towards([AROUND[family]]).values()
    assert set(around.devices) >= set(devices)


@FAMILIES
def test_more_specific_routes_inside_a_network_count_and_links_of_ours_never(
    host: Host, ip: Callable[[int, str], str], sh: Callable[..., str], family: int
) -> None:
    sh("ip", "link", "add", "chs-0000000a-0", "type", "ifb")
    sh("ip", "link", "set", "chs-0000000a-0", "up")
    everything = {4: "0.0.0.0/0", 6: "::/0"}[family]
    around = {4: "10.64.0.0/10", 6: "fd77::/16"}[family]
    ip(family, f"route add default via {FIRST[family]}")
    assert host.ways.towards([around]) == {around: Way(("v0",))}
    ip(family, f"route add {TARGET[family]} via {SECOND[family]}")
    assert host.ways.towards([around]) == {around: Way(("v0", "w0"))}
    assert host.ways.towards([everything]) == {everything: Way(("v0", "w0"))}
    sh("ip", "link", "set", "w0", "down")
    assert host.ways.towards([around, everything]) == {
        around: Way(("v0",)),
        everything: Way(("v0",)),
    }


@FAMILIES
@pytest.mark.parametrize("kind", ["blackhole", "unreachable", "prohibit"])
def test_a_route_that_leads_nowhere_is_told(
    host: Host, ip: Callable[[int, str], str], family: int, kind: str
) -> None:
    ip(family, f"route add default via {FIRST[family]}")
    ip(family, f"route add {kind} {AROUND[family]}")
    for wanted in (TARGET[family], AROUND[family]):
        assert host.ways.towards([wanted]) == {wanted: Way(kind=kind)}


@FAMILIES
def test_what_is_no_other_machine_is_told(host: Host, net: Any, family: int) -> None:
    assert host.ways.towards([TARGET[family]])[TARGET[family]] == Way(kind="none")
    own = net.near[family]
    assert host.ways.towards([own])[own].kind == "local"


def test_a_broadcast_address_is_told(host: Host) -> None:
    assert host.ways.towards(["10.9.0.255"])["10.9.0.255"].kind == "broadcast"


@FAMILIES
def test_a_socket_that_is_bound_to_an_interface_has_its_own_way(
    host: Host, ip: Callable[[int, str], str], family: int
) -> None:
    ip(family, f"route add {TARGET[family]} via {FIRST[family]} metric 10")
    ip(family, f"route add {TARGET[family]} via {SECOND[family]} metric 20")
    one = [TARGET[family]]
    assert host.ways.towards(one)[one[0]] == Way(("v0",))
    assert host.ways.towards(one, "w0")[one[0]] == Way(("v0", "w0"))
    assert host.ways.towards(one, "none0")[one[0]] == Way(("v0",))


def test_more_routes_than_can_be_gone_through_are_refused(
    host: Host, net: Any, monkeypatch: pytest.MonkeyPatch, sh: Callable[..., str]
) -> None:
    monkeypatch.setattr(netlink, "MAX_MESSAGES", 10)
    for number in range(20):
        sh("ip", "route", "add", f"10.40.{number}.0/24", "via", net.peer[4])
    with pytest.raises(Unsupported, match=r"more than 10 .*\n.*single addresses"):
        host.ways.towards(["10.0.0.0/8"])
    assert host.ways.towards(["10.40.1.1"]) == {"10.40.1.1": Way(("v0",))}
    sh("ip", "route", "add", "default", "via", net.peer[4])
    assert host.ways.towards(["0.0.0.0/0"], "v0")["0.0.0.0/0"].devices == ("v0",)


# ── faults ────────────────────────────────────────────────────────────────────────────────


def refused(node: Any, kind: str, **params: Any) -> str:
    status = node.status(node.apply(kind, **params))
    assert status.state == "refused", status
    return str(status.detail)


def test_a_mapped_address_is_the_ipv4_address_that_it_means(node: Any, net: Any) -> None:
    fault = node.apply(
        "network.reject", peers=f"::ffff:{net.peer[4]},::ffff:10.9.0.4/127",
        exclude="::ffff:10.9.0.5",
    )  # fmt: skip
    assert node.status(fault).state == "in_force", node.status(fault).detail
    for address, wanted in (
        (net.peer[4], errno.ECONNREFUSED), ("10.9.0.4", errno.ECONNREFUSED),
        (net.bystander[4], 0), ("10.9.0.5", 0),
    ):  # fmt: skip
        server = net.socket_there(4, socket.SOCK_STREAM)
        with server, socket.socket() as client:
            server.bind((address, 7001))
            server.listen()
            client.settimeout(2)
            assert client.connect_ex((address, 7001)) == wanted, address


@FAMILIES
def test_a_peer_to_which_no_packet_leaves_is_refused(
    node: Any, ip: Callable[[int, str], str], family: int
) -> None:
    one = TARGET[family]
    for kind, says in (
        ("blackhole", "a blackhole route"),
        ("unreachable", "an unreachable route"),
        ("prohibit", "a prohibit route"),
    ):
        ip(family, f"route add {kind} {AROUND[family]}")
        assert f"node n1 has {says} to {one}" in refused(node, "network.reject", peers=one)
        ip(family, f"route del {AROUND[family]}")
    assert f"node n1 has no route to {one}" in refused(node, "network.reject", peers=one)


@FAMILIES
def test_an_interface_without_a_way_to_any_peer_is_refused(
    node: Any, uplinks: Any, family: int
) -> None:
    peer = uplinks.peer[family]
    why = refused(node, "network.reject", peers=peer, interface="w0")
    assert "interface: w0 of node n1 has no way to" in why
    assert "they leave by v0" in why
    # What arrives may come by another way than what is sent takes.
    fault = node.apply("network.reject", peers=peer, interface="w0", direction="in")
    assert node.status(fault).state == "in_force", node.status(fault).detail
    fault = node.apply("network.reject", peers=f"{peer},{SECOND[family]}", interface="w0")
    assert node.status(fault).state == "in_force", node.status(fault).detail


def test_an_address_of_this_node_by_any_route_is_refused(
    node: Any, ip: Callable[[int, str], str]
) -> None:
    ip(4, "route add local 10.66.0.0/16 dev lo")
    assert "10.66.0.9 is node n1 itself" in refused(node, "network.reject", peers="10.66.0.9")
    assert "10.9.0.255 is a broadcast address" in refused(
        node, "network.reject", peers="10.9.0.255"
    )
