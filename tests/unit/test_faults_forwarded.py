"""What a node forwards is hit as its own is, as far as effects say it: no kernel is needed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from chaos_core import effects, faults
from chaos_core.effects import Chain, LeasedSet, Rule
from chaos_core.errors import InvalidInput, Unsupported
from chaos_core.faults._network import NetworkFault
from chaos_core.node import NodeView, Protected

ID = "0123abcd"
NODE = replace(
    NodeView.example(),
    devices=tuple(
        replace(device, addresses=("10.0.7.1",)) if device.name == "eth0" else device
        for device in NodeView.example().devices
    ),
    protected=Protected(controllers=("192.0.2.9",), peers=("10.0.7.0/24",)),
)
KINDS = {
    kind: cls for kind, cls in faults.kinds().items() if issubclass(cls, NetworkFault)
}  # fmt: skip
FILTERING = (
    ("network.partition", {"direction": "in"}, "mangle"),
    ("network.partition", {"action": "reject"}, "filter"),
    ("network.loss", {"percent": "5%", "direction": "in"}, "mangle"),
    ("network.reject", {"direction": "both"}, "filter"),
    ("network.limit", {"direction": "both", "count": "1"}, "filter"),
    ("tamper.payload", {"find": "a", "replace": "b", "direction": "both"}, "security"),
)


def compiled(kind: str, node: NodeView = NODE, /, **params: Any) -> list[Chain]:
    words = {**faults.from_words(faults.lookup(kind).example.split()), **params}
    return [one for one in faults.parse(kind, words).compile(node, ID) if isinstance(one, Chain)]


def hits(chain: Chain) -> list[Rule]:
    """Its rules that do something to packets of the fault, and do not only count them."""
    counting = ("SEEN", "EXPOSED")
    return [rule for rule in chain.rules if rule.match_set and rule.target not in counting]


@pytest.mark.parametrize(("kind", "params", "table"), FILTERING)
def test_what_is_forwarded_meets_the_same_rules(
    kind: str, params: dict[str, str], table: str
) -> None:
    chains = {chain.name: chain for chain in compiled(kind, peers="10.0.1.2", ports="", **params)}
    for way, hook in (("in", "INPUT"), ("out", "OUTPUT")):
        own, forwarded = (chains.get(f"CHAOS-{ID}-{prefix}{way}") for prefix in ("", "fwd-"))
        assert (own is None) == (forwarded is None)
        if own and forwarded:
            assert (own.table, own.hook) == (table, hook)
            assert (forwarded.table, forwarded.hook) == (table, "FORWARD")
            assert hits(own) == hits(forwarded)
    assert all(effects.is_ours(name) for name in chains)


@pytest.mark.parametrize(("kind", "params", "table"), FILTERING)
def test_nobody_who_is_protected_is_hit_in_what_is_forwarded(
    kind: str,
    params: dict[str, str],
    table: str,  # noqa: ARG001
) -> None:
    """A container may speak to the controller, and either of them may be among the peers."""
    found = compiled(kind, peers="0.0.0.0/0", exclude="198.51.100.0/24", ports="", **params)
    for chain in found:
        if chain.hook == "FORWARD":
            for net in ("192.0.2.9/32", "10.0.7.0/24", "198.51.100.0/24"):
                assert Rule("RETURN", source=net) in chain.rules
                assert Rule("RETURN", destination=net) in chain.rules


def test_a_protected_network_that_holds_the_node_does_not_spare_all_that_it_sends() -> None:
    (chain,) = compiled("network.latency", peers="198.51.100.2")
    assert Rule("RETURN", source="192.0.2.9/32") in chain.rules
    assert Rule("RETURN", source="10.0.7.0/24") not in chain.rules


@pytest.mark.parametrize("who", [{"scope": "host"}, {"uid": "5"}])
def test_the_nodes_own_alone_is_asked_for(who: dict[str, str]) -> None:
    (reject,) = compiled("network.reject", ports="", **who)
    assert reject.hook == "OUTPUT"
    (latency,) = compiled("network.latency", **who)
    assert {rule.own for rule in hits(latency)} == {"src" if "scope" in who else ""}


def test_a_kernel_that_cannot_tell_them_apart_says_so() -> None:
    node = replace(NODE, unable={"xt_addrtype": "xt_addrtype: not there"})
    for kind in ("network.latency", "http.fault"):
        with pytest.raises(Unsupported, match="scope: xt_addrtype: not there"):
            compiled(kind, node, scope="host")
        assert faults.parse(kind, {"scope": "host", **faults.from_words(
            faults.lookup(kind).example.split())}).asks().abilities  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "params"),
    [("network.latency", {"direction": "in"}), ("network.loss",
      {"percent": "5%", "correlation": "20%", "direction": "both"})],
)  # fmt: skip
def test_at_ingress_nobody_knows_yet_what_is_forwarded(kind: str, params: dict[str, str]) -> None:
    with pytest.raises(InvalidInput, match="scope: host goes with direction=out only"):
        compiled(kind, scope="host", **params)


def test_a_published_port_is_matched_by_the_one_it_was_called_by() -> None:
    node = replace(NODE, translates=True)
    (chain,) = compiled("network.latency", node, local_ports="8080,9000-9010", ports="443")
    for protocol in ("tcp", "udp"):
        found = [
            (rule.original_ports, rule.original_side, rule.source_ports, rule.destination_ports)
            for rule in hits(chain)
            if rule.protocol == protocol
        ]
        assert found == [
            (("443",), "dst", ("8080", "9000:9010"), ()),
            (("8080",), "src", (), ("443",)),
            (("9000:9010",), "src", (), ("443",)),
            ((), "", ("8080", "9000:9010"), ("443",)),
        ]
    (plain,) = compiled("network.latency", local_ports="8080", ports="443")
    assert not any(rule.original_ports for rule in hits(plain))
    assert faults.parse("network.latency", {"peers": "10.0.0.2", "delay": "1ms", "ports": "1"}
                        ).asks().translation  # fmt: skip


def test_what_lots_have_spared_is_not_asked_again() -> None:
    node = replace(NODE, translates=True)
    chain = compiled("network.loss", node, direction="in", every=3, percent=None, local_ports="80")[
        1
    ]
    assert [(r.target, r.every, bool(r.original_ports)) for r in hits(chain)[:4]] == [
        *[("DROP", 3, True), ("RETURN", 0, True)] * 2
    ]
    assert [r.every for r in hits(chain)[4:]] == [3, 3]


def test_an_http_service_of_the_nodes_own_is_found_behind_the_published_ports() -> None:
    for scope, own, end in (("all", "", False), ("host", "dst", True)):
        for chain in compiled("http.fault", scope=scope):
            assert (chain.hook, chain.end) == ("PREROUTING", end)
            assert {rule.own for rule in hits(chain)} == {own}


def test_queries_that_are_forwarded_are_answered_too_and_strangers_are_not() -> None:
    found = faults.parse("network.dns", {"names": "db", "answer": "nxdomain"}).compile(NODE, ID)
    sets = {one.name: one for one in found if isinstance(one, LeasedSet)}
    asked = faults.parse("network.dns", {"names": "db", "answer": "nxdomain"}).asks()
    assert not asked.translation  # what is redirected to the worker is not reset
    assert sets[f"chs-{ID}-40"].entries == ("0.0.0.0/1", "128.0.0.0/1")
    assert sets[f"chs-{ID}-60"].entries == ("::/1", "8000::/1")
    chains = [one for one in found if isinstance(one, Chain)]
    hooks = {(chain.table, chain.hook) for chain in chains}
    assert hooks == {
        *(("raw", hook) for hook in ("OUTPUT", "PREROUTING")),
        *(("nat", hook) for hook in ("OUTPUT", "PREROUTING")),
        *(("filter", hook) for hook in ("OUTPUT", "FORWARD")),
    }
    for chain in chains:
        drops = [rule for rule in chain.rules if rule.target == "DROP"]
        assert bool(drops) == ((chain.table, chain.hook) == ("raw", "PREROUTING"))
        assert {(rule.own, rule.match_set) for rule in drops} <= {
            ("dst", f"chs-{ID}-{chain.family}0")
        }
        if chain.hook != "OUTPUT":
            assert Rule("RETURN", own="dst") in chain.rules
            assert not any(rule.out_device for rule in chain.rules)


def test_an_interface_is_not_known_when_a_query_is_redirected() -> None:
    with pytest.raises(InvalidInput, match="interface: with an answer it needs scope=host"):
        compiled("network.dns", answer="nxdomain", interface="eth0")
    assert compiled("network.dns", answer="nxdomain", interface="eth0", scope="host")


@pytest.mark.parametrize("kind", KINDS)
def test_every_network_kind_has_a_scope(kind: str) -> None:
    assert KINDS[kind].model_fields["scope"].default == "all"


def test_an_operator_can_read_what_the_rules_ask() -> None:
    rule = Rule("DROP", protocol="tcp", original_ports=("8080",), original_side="dst", own="src")
    chain = Chain(f"CHAOS-{ID}-fwd-in", 4, "mangle", "FORWARD", (rule,), end=True)
    assert "(IPv4 mangle/FORWARD, at its end)" in effects.describe(chain)
    assert "-p tcp --src-type LOCAL --original-port (dst) 8080 → DROP" in effects.describe(chain)
    assert effects.from_text(effects.to_text(chain)) == chain
