"""A peer behind two next hops, inside a VRF, behind WireGuard: the fault hits, or is refused."""

from __future__ import annotations

import base64
import socket
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pyroute2 import WireGuard

TARGET = "10.7.0.2"


@pytest.fixture
def second_wire(net: Any, sh: Callable[..., str]) -> None:
    """``w0``, wired to the peer, as 10.8.0.1 and 10.8.0.2; the target is on the peer's loopback."""
    sh("ip", "link", "add", "w0", "type", "veth", "peer", "name", "w1")
    net.take("w1")
    for words in ("addr add 10.8.0.1/24 dev w0", "link set w0 up"):
        sh("ip", *words.split())
    for words in (
        *("addr add 10.8.0.2/24 dev w1", "link set w1 up"),
        *("link set lo up", f"addr add {TARGET}/32 dev lo"),
    ):
        net.there("ip", *words.split())


def arrived(net: Any) -> int:
    """How many datagrams of forty flows arrive."""
    with net.socket_there(4, socket.SOCK_DGRAM) as far:
        far.bind((TARGET, 7090))
        far.settimeout(0.5)
        for _ in range(40):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as near:
                near.sendto(b"x", (TARGET, 7090))
        count = 0
        try:
            while count < 40:
                far.recv(16)
                count += 1
        except TimeoutError:
            pass
        return count


@pytest.mark.usefixtures("second_wire")
@pytest.mark.parametrize(
    ("kind", "params"),
    [
        ("network.loss", {"percent": "100%", "direction": "out"}),
        ("network.partition", {"direction": "out"}),
    ],
)
def test_all_flows_over_two_next_hops_are_hit_or_it_is_refused(
    node: Any,
    net: Any,
    sh: Callable[..., str],
    ends: Callable[[Any, str], None],
    refusal: Callable[[Any, str], bool],
    kind: str,
    params: dict[str, str],
) -> None:
    sh("sysctl", "-qw", "net.ipv4.fib_multipath_hash_policy=1")
    hops = "nexthop via 10.9.0.2 dev v0 nexthop via 10.8.0.2 dev w0"
    sh("ip", "route", "add", TARGET, *hops.split())
    assert arrived(net) == 40
    fault = node.apply(kind, peers=TARGET, **params)
    if not refusal(node, fault):
        node.grant("r-1")
        assert arrived(net) == 0
        ends(node, fault)
    assert arrived(net) == 40


@pytest.mark.usefixtures("second_wire")
def test_a_peer_inside_a_vrf_is_hit_or_it_is_refused(
    node: Any,
    sh: Callable[..., str],
    ends: Callable[[Any, str], None],
    refusal: Callable[[Any, str], bool],
) -> None:
    for words in (
        *("link add blue type vrf table 10", "link set blue up", "link set w0 master blue"),
        "route add 10.8.0.0/24 dev w0 src 10.8.0.1 table 10",
    ):
        sh("ip", "-force", *words.split(), check=not words.startswith("route"))

    def answers() -> bool:
        ping = ("ping", "-n", "-c", "2", "-W", "1", "-I", "blue", "10.8.0.2")
        return "time=" in sh(*ping, check=False)

    assert answers()
    fault = node.apply("network.loss", peers="10.8.0.2", percent="100%", direction="out")
    if not refusal(node, fault):
        node.grant("r-1")
        assert not answers()
        ends(node, fault)
    assert answers()


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        ("network.loss", {"percent": "100%", "direction": "out"}),
        ("network.partition", {"direction": "both"}),
    ],
)
def test_a_peer_behind_wireguard_is_hit_or_it_is_refused(
    node: Any,
    net: Any,
    sh: Callable[..., str],
    ends: Callable[[Any, str], None],
    refusal: Callable[[Any, str], bool],
    wait_for: Callable[..., None],
    kind: str,
    params: dict[str, str],
) -> None:
    """The other end is moved to the peer; what is encrypted goes by this namespace's loopback."""
    keys = [X25519PrivateKey.generate() for _ in range(2)]
    text = [base64.b64encode(key.private_bytes_raw()).decode() for key in keys]
    public = [base64.b64encode(key.public_key().public_bytes_raw()).decode() for key in keys]
    sh("ip", "link", "set", "lo", "up")
    for end in (0, 1):
        sh("ip", "link", "add", f"wg{end}", "type", "wireguard")
        other = {
            "public_key": public[1 - end],
            "endpoint_addr": "127.0.0.1",
            "endpoint_port": 51_821 - end,
            "allowed_ips": ["10.6.0.0/24"],
        }
        with WireGuard() as tunnel:
            tunnel.set(f"wg{end}", private_key=text[end], listen_port=51_820 + end, peer=other)
    net.take("wg1")
    for words in ("addr add 10.6.0.1/24 dev wg0", "link set wg0 up"):
        sh("ip", *words.split())
    for words in ("addr add 10.6.0.2/24 dev wg1", "link set wg1 up"):
        net.there("ip", *words.split())

    def answers() -> bool:
        return "time=" in sh("ping", "-n", "-c", "2", "-W", "1", "10.6.0.2", check=False)

    wait_for(answers, 20)
    fault = node.apply(kind, peers="10.6.0.2", **params)
    if not refusal(node, fault):
        node.grant("r-1")
        assert not answers()
        assert net.ping(net.peer[4]), "others are hit"
        ends(node, fault)
    assert answers()
