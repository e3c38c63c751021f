"""Addresses as they are written, and what no packet ever carries."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chaos_core import faults
from chaos_core.addresses import network
from chaos_core.effects import LeasedSet
from chaos_core.errors import InvalidInput, Refused
from chaos_core.node import Asks, NodeView, Protected, Way

ID = "0123abcd"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("::ffff:10.5.0.9", "10.5.0.9/32"),
        ("::FFFF:0a05:0009", "10.5.0.9/32"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("64:ff9b::a05:9", "64:ff9b::a05:9/128"),  # by NAT64, as IPv6 on this side
        ("2002:a05:9::/48", "2002:a05:9::/48"),  # 6to4, likewise
        ("::/0", "::/0"),
    ],
)
def test_an_address_is_taken_as_packets_carry_it(written: str, meant: str) -> None:
    assert str(network(written)) == meant
    for params in ({"peers": written}, {"peers": "0.0.0.0/0,::/0", "exclude": written}):
        if meant.endswith("/0") and "exclude" in params:
            continue  # nobody would be left
        fault = faults.parse("network.reject", params)
        assert fault.model_dump()[next(reversed(params))] == (meant,)


def test_a_mapped_peer_is_put_into_the_set_of_ipv4() -> None:
    (one,) = (
        effect
        for effect in faults.parse("network.reject", {"peers": "::ffff:10.5.0.9"}).compile(
            NodeView.example(), ID
        )
        if isinstance(effect, LeasedSet)
    )
    assert (one.family, one.entries) == (4, ("10.5.0.9/32",))


def test_a_mapped_address_of_the_controller_protects_it() -> None:
    node = replace(NodeView.example(), protected=Protected(controllers=("::ffff:10.0.0.1",)))
    with pytest.raises(Refused, match="is protected"):
        faults.parse("network.reject", {"peers": "10.0.0.1"}).compile(node, ID)


@pytest.mark.parametrize(
    ("peers", "says"),
    [
        ("::fffe:0:0/95", "holds more than the mapped IPv4 addresses"),
        ("::/80", "holds more than the mapped IPv4 addresses"),
        ("::10.0.0.9", "IPv4-compatible"),
        ("::/128", "means no address"),
        ("::", "means no address"),
        ("0.0.0.0/32", "means this network"),
        ("0.0.0.0/8", "means this network"),
        ("255.255.255.255", "a broadcast address"),
        ("224.0.0.18", "is multicast"),
        ("239.0.0.0/8", "is multicast"),
        ("ff02::1", "is multicast"),
        ("fe80::1", "name the interface"),
        ("10.0.0.2,fe80::/10", "name the interface"),
        ("fe80::1%eth0", "name the interface apart"),
    ],
)
def test_what_no_packet_carries_is_refused_before_anything_is_done(peers: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        faults.parse("network.reject", {"peers": peers})


def test_a_link_local_address_goes_with_its_interface() -> None:
    fault = faults.parse("network.reject", {"peers": "fe80::1", "interface": "eth0"})
    assert fault.asks() == Asks(towards=("fe80::1/128",), interface="eth0", ssh_ports=True)
    assert fault.compile(NodeView.example(fault.asks()), ID)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("none", "node example has no route to 10.0.0.2"),
        ("blackhole", "node example has a blackhole route to 10.0.0.2"),
        ("unreachable", "node example has an unreachable route to 10.0.0.2"),
        ("local", "10.0.0.2 is node example itself"),
        ("broadcast", "10.0.0.2 is a broadcast address of node example"),
    ],
)
def test_a_peer_to_which_nothing_leaves_is_refused_with_the_reason(kind: str, says: str) -> None:
    node = replace(NodeView.example(), elsewhere=Way(kind=kind))
    with pytest.raises((InvalidInput, Refused), match=says):
        faults.parse("network.reject", {"peers": "10.0.0.2"}).compile(node, ID)
