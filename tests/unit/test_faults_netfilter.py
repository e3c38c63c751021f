"""Faults of the packet filter's own, as they compile; and whom network faults spare or select."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos_agent.linux import sockets
from chaos_core import effects, envelope, faults
from chaos_core.effects import Chain, LeasedSet, PulsedSet, Rule
from chaos_core.errors import EnvelopeExceeded, InvalidInput, Refused
from chaos_core.node import NO_WAY, Asks, CgroupFacts, Device, NodeView, Protected, UnitFacts, Way
from chaos_core.units import SECOND

quick = settings(derandomize=True, deadline=None, database=None, max_examples=200)
ID = "0123abcd"
KINDS = [f"network.{name}" for name in ("blackhole", "reject", "limit", "flap", "down", "dns")]
NODE = replace(
    NodeView.example(Asks(units=("app.service",))),
    devices=(
        Device("lo", ("127.0.0.1", "::1"), loopback=True),
        Device("eth0", ("10.0.0.9", "fd00::9")),
        Device("eth1", ("10.1.0.9",)),
    ),
    ways={
        "0.0.0.0/0": Way(("eth0", "eth1")),
        "::/0": Way(("eth0", "lo")),
        **dict.fromkeys(("10.1.0.1/32", "10.1.0.7/32"), Way(("eth1",))),
    },
    elsewhere=Way(("eth0",)),
)


def compiled(kind: str, node: NodeView = NODE, /, **params: Any) -> tuple[effects.Effect, ...]:
    return faults.parse(kind, params).compile(node, ID)


def rules(found: tuple[effects.Effect, ...]) -> list[Rule]:
    """All that are not there to spare something, or only to count.

    What is forwarded meets the same once more.
    """
    own = [effect for effect in found if isinstance(effect, Chain)]
    return [
        rule
        for chain in own
        if chain.hook != "FORWARD"
        for rule in chain.rules
        if rule.match_set and rule.target not in ("SEEN", "EXPOSED")
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_production_refuses_them(kind: str) -> None:
    cls = faults.lookup(kind)
    fault = faults.parse(kind, faults.from_words(cls.example.split()))
    assert cls.risky
    with pytest.raises(EnvelopeExceeded):
        envelope.check(envelope.PROFILES["production"], fault.draw(), SECOND)
    envelope.check(envelope.PROFILES["staging"], fault.draw(), SECOND)


# ── whom not ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("direction", ["in", "out"])
def test_what_is_excluded_returns_before_any_match(direction: str) -> None:
    found = compiled(
        "network.reject",
        peers="10.0.0.0/24,fd00::/64",
        exclude="10.0.0.7,10.0.0.8/30,fd00::7",
        direction=direction,
    )
    side = "source" if direction == "in" else "destination"
    for chain in found:
        if isinstance(chain, Chain):
            nets = ("10.0.0.7/32", "10.0.0.8/30") if chain.family == 4 else ("fd00::7/128",)
            spared = [chain.rules.index(Rule("RETURN", **{side: net})) for net in nets]  # type: ignore[arg-type]
            hits = [n for n, rule in enumerate(chain.rules) if rule.match_set]
            assert max(spared) < min(hits)


@pytest.mark.parametrize(
    ("peers", "exclude", "says"),
    [
        ("10.0.0.2", "10.0.0.2", "exclude: no IPv4 peer is left"),
        ("10.0.0.0/25", "10.0.0.0/26,10.0.0.64/26", "exclude: no IPv4 peer is left"),
        ("10.0.0.2,fd00::2", "fd00::/8", "exclude: no IPv6 peer is left"),
        ("10.0.0.2", "web 1", "exclude: 'web 1' is not an address"),
        ("10.0.0.2", "web1", "exclude: 'web1' is a name, and only the controller"),
        ("10.0.0.2", ",".join(f"10.2.0.{n}" for n in range(65)), "exclude: 65 are more than 64"),
    ],
)
def test_an_exclusion_that_leaves_nothing_or_is_nonsense(
    peers: str, exclude: str, says: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        compiled("network.reject", peers=peers, exclude=exclude)
    assert says in str(caught.value)


@pytest.mark.parametrize("direction", ["in", "out", "both"])
def test_what_never_leaves_the_node_is_never_hit(direction: str) -> None:
    for chain in compiled("network.blackhole", ports="80", direction=direction):
        if isinstance(chain, Chain) and chain.hook != "FORWARD":  # which nothing enters by lo
            loop = {"in_device": "lo"} if chain.hook == "INPUT" else {"out_device": "lo"}
            assert chain.rules.index(Rule("RETURN", **loop)) < len(chain.rules) - 1  # type: ignore[arg-type]


# ── who ───────────────────────────────────────────────────────────────────────────────────


def test_a_rule_knows_whose_packets_it_hits() -> None:
    place = "/system.slice/app.service"
    for kind, more in (("network.reject", {}), ("network.latency", {"delay": "1ms"})):
        for who, expected in (
            ({"uid": "0"}, (0, "", 0)),
            ({"unit": "app"}, (None, place, 1)),
            ({"cgroup": f"{place}/", "uid": 7}, (7, place, 1)),
        ):
            (rule,) = rules(compiled(kind, peers="10.0.0.2", **more, **who))
            assert (rule.uid, rule.cgroup, rule.cgroup_id) == expected


@pytest.mark.parametrize(
    ("kind", "params", "says"),
    [
        ("network.partition", {"uid": "5"}, "uid: who receives a packet is not known"),
        ("network.partition", {"unit": "app", "direction": "in"}, "unit: who receives"),
        ("network.reject", {"cgroup": "/a", "direction": "in"}, "cgroup: who receives"),
        ("network.down", {"interface": "eth1", "uid": "5"}, "uid: who receives"),
        ("network.flap", {"down": "1s", "up": "1s", "uid": "5"}, "uid: who receives"),
        ("network.reject", {"cgroup": "/a", "unit": "app"}, "unit names one already"),
        ("network.reject", {"cgroup": "/"}, "is not a cgroup below the root"),
        ("network.reject", {"cgroup": "a/b"}, "is not a cgroup below the root"),
        ("network.reject", {"cgroup": "/a/../b"}, "is not a cgroup below the root"),
        ("network.reject", {"unit": "app.socket"}, "is not a service's name"),
        ("network.reject", {"uid": "-1"}, "uid"),
        ("network.reject", {"uid": "root"}, "uid"),
    ],
)
def test_a_process_that_cannot_be_told_is_refused(
    kind: str, params: dict[str, str], says: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        faults.parse(kind, {"peers": "10.0.0.2", **params})
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("params", "error", "says"),
    [
        ({"unit": "nginx"}, InvalidInput, "nginx.service does not run"),
        ({"cgroup": "/nowhere"}, InvalidInput, "there is no cgroup /nowhere"),
        ({"unit": "ssh"}, Refused, "ssh.service is protected"),
        ({"cgroup": "/system.slice/chaos-agent.service"}, Refused, "is protected"),
        ({"cgroup": "/user.slice/user-0.slice/user@0.service/a"}, Refused, "is protected"),
        ({"unit": "db"}, Refused, "db.service is protected"),
    ],
)
def test_a_process_that_is_not_there_or_protected_is_refused(
    params: dict[str, str], error: type[Exception], says: str
) -> None:
    fault = faults.parse("network.reject", {"peers": "10.0.0.2", **params})
    groups = [f"/system.slice/{name}.service" for name in ("ssh", "db", "chaos-agent")]
    groups.append("/user.slice/user-0.slice/user@0.service/a")
    units = {
        f"{name}.service": UnitFacts(f"{name}.service", True, cgroup=CgroupFacts(group, 1, {}))
        for name, group in zip(("ssh", "db"), groups, strict=False)
    }
    node = replace(
        NODE,
        units=units,
        cgroups=dict.fromkeys(groups, 1),
        protected=Protected(units=("db.service",)),
    )
    with pytest.raises(error) as caught:
        fault.compile(node, ID)
    assert says in str(caught.value)


# ── network.blackhole, network.reject, network.limit ──────────────────────────────────────


def test_everywhere_is_where_the_node_has_routes() -> None:
    four = replace(NODE, ways={"0.0.0.0/0": Way(("eth0",))}, elsewhere=NO_WAY)
    sets = [e for e in compiled("network.blackhole", four, ports="80") if isinstance(e, LeasedSet)]
    assert [(one.family, one.entries) for one in sets] == [(4, ("0.0.0.0/1", "128.0.0.0/1"))]
    assert len([e for e in compiled("network.blackhole", ports="80") if e in sets]) == 1
    with pytest.raises(InvalidInput, match="no route"):
        compiled("network.blackhole", replace(NODE, ways={}, elsewhere=NO_WAY), ports="80")


@pytest.mark.parametrize(
    ("kind", "params", "says"),
    [
        ("network.blackhole", {}, "give ports or local_ports"),
        ("network.blackhole", {"ports": "80", "protocol": "icmp"}, "icmp has no ports"),
        (
            "network.reject",
            {"peers": "10.0.0.2", "protocol": "udp"},
            "is not answered by tcp-reset",
        ),
        ("network.reject", {"peers": "10.0.0.2", "protocol": "icmp"}, "is not answered"),
        ("network.reject", {"peers": "10.0.0.2", "share": "0%"}, "above 0%"),
        ("network.reject", {"peers": "10.0.0.2", "direction": "sideways"}, "direction"),
        ("network.limit", {"peers": "10.0.0.2"}, "'count' is required"),
        ("network.limit", {"peers": "10.0.0.2", "count": "0"}, "count"),
        ("network.limit", {"peers": "10.0.0.2", "count": "10001"}, "count"),
        ("network.limit", {"peers": "10.0.0.2", "count": "1", "period": "1500ms"}, "whole seconds"),
        ("network.limit", {"peers": "10.0.0.2", "count": "1", "period": "301s"}, "whole seconds"),
        ("network.limit", {"peers": "10.0.0.2", "count": "1", "protocol": "udp"}, "counted"),
        ("network.flap", {"peers": "10.0.0.2"}, "give either down and up, or share"),
        ("network.flap", {"peers": "10.0.0.2", "down": "2s"}, "up: 0s is shorter than 1s"),
        ("network.flap", {"peers": "10.0.0.2", "down": "999ms", "up": "1s"}, "down: 999ms is"),
        ("network.flap", {"peers": "10.0.0.2", "share": "5%"}, "down: 500ms is shorter"),
        ("network.flap", {"peers": "10.0.0.2", "share": "100%"}, "up: 0s is shorter"),
        ("network.flap", {"peers": "10.0.0.2", "share": "50%", "up": "1s"}, "give either"),
        ("network.down", {}, "'interface' is required"),
        ("network.down", {"interface": ""}, "interface"),
    ],
)
def test_bad_input_is_one_clear_message(kind: str, params: dict[str, str], says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        faults.parse(kind, params)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, [("tcp", True, "tcp-reset", "tcp-reset")]),
        (
            {"action": "port-unreachable"},
            [
                ("tcp", True, "icmp-port-unreachable", "icmp6-port-unreachable"),
                ("udp", False, "icmp-port-unreachable", "icmp6-port-unreachable"),
            ],
        ),
        (
            {"action": "host-unreachable", "protocol": "udp"},
            [("udp", False, "icmp-host-unreachable", "icmp6-addr-unreachable")],
        ),
    ],
)
def test_each_protocol_is_refused_in_its_own_words(
    params: dict[str, str], expected: list[tuple[str, bool, str, str]]
) -> None:
    found = rules(compiled("network.reject", peers="10.0.0.2,fd00::2", share="25%", **params))
    assert [(rule.protocol, rule.syn, rule.reject_with) for rule in found] == [
        (protocol, syn, words[number]) for number in (0, 1) for protocol, syn, *words in expected
    ]
    assert {(rule.target, rule.probability) for rule in found} == {("REJECT", 250_000)}


@given(count=st.integers(1, 10_000), period=st.integers(1, 300))
@quick
def test_a_limit_is_the_rate_that_was_asked_for(count: int, period: int) -> None:
    through, rest = rules(
        compiled("network.limit", peers="10.0.0.2", count=count, period=f"{period}s")
    )
    assert (through.target, through.burst, through.syn) == ("RETURN", count, True)
    assert 0 <= count / period - through.per_day / 86_400 < 1 / 86_400
    # xt_limit keeps the time between two packets as whole tenths of ms, in 32 bits.
    assert 1 <= 86_400 * 10_000 // through.per_day * count < 2**32
    assert (rest.target, rest.reject_with) == ("REJECT", "tcp-reset")
    assert replace(through, target="REJECT", per_day=0, burst=0, reject_with="tcp-reset") == rest


# ── network.flap ──────────────────────────────────────────────────────────────────────────


@given(
    since=st.integers(0, 10**15),
    down=st.integers(10**6, 3 * 10**8),
    up=st.integers(10**6, 3 * 10**8),
    after=st.integers(0, 10**9),
)
@quick
def test_spans_follow_each_other_without_end(since: int, down: int, up: int, after: int) -> None:
    pulse = PulsedSet("chs-0123abcd-4", 4, ("10.0.0.2/32",), since, down, up)
    assert pulse.span(since) == (True, since, since + down)
    entries_in, begun, until = pulse.span(since + after)
    assert begun <= since + after < until
    assert until - begun == (down if entries_in else up)
    assert pulse.span(until)[:2] == (not entries_in, until)
    assert pulse.span(until - 1) == (entries_in, begun, until)


@pytest.mark.parametrize(
    ("params", "spans"),
    [
        ({"down": "2s", "up": "1500ms"}, (2_000_000, 1_500_000)),
        ({"share": "30%"}, (3_000_000, 7_000_000)),
        ({"share": "50%", "period": "2s"}, (1_000_000, 1_000_000)),
    ],
)
def test_a_flap_is_a_partition_by_turns(params: dict[str, str], spans: tuple[int, int]) -> None:
    node = replace(NODE, now=77)
    peers = {"peers": "10.0.0.2,fd00::2"}
    flap = compiled("network.flap", node, **peers, **params)
    partition = compiled("network.partition", node, **peers)
    assert flap[2:] == partition[2:]
    for pulse, held in zip(flap[:2], partition[:2], strict=True):
        assert isinstance(pulse, PulsedSet)
        assert isinstance(held, LeasedSet)
        assert (pulse.name, pulse.family, pulse.entries) == (held.name, held.family, held.entries)
        assert (pulse.since, pulse.down, pulse.up) == (77, *spans)


def test_nodes_can_flap_apart_by_a_topology() -> None:
    fault = faults.parse("network.flap", {"topology": "halves", "down": "1s", "up": "1s"})
    with pytest.raises(InvalidInput, match="topology: only the controller"):
        fault.compile(NODE, ID)


# ── network.down ──────────────────────────────────────────────────────────────────────────


def test_an_interface_is_down_both_ways_for_all_but_what_is_protected() -> None:
    found = rules(compiled("network.down", interface="eth1"))
    assert {(rule.target, rule.in_device, rule.out_device) for rule in found} == {
        ("DROP", "eth1", ""),
        ("MARK", "", "eth1"),
    }
    assert not any(rule.protocol for rule in found)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"protected": Protected(controllers=("10.1.0.1",))}, "way to the controller 10.1.0.1"),
        ({"protected": Protected(controllers=("192.0.2.1", "10.1.0.1"))}, "way to the controller"),
        ({"ssh": (("10.1.0.9", "192.0.2.1"),)}, "SSH connection from 192.0.2.1"),
        ({"ssh": (("10.0.0.9", "10.1.0.7"),)}, "SSH connection from 10.1.0.7"),
    ],
)
def test_the_way_to_ourselves_and_to_operators_is_never_taken_down(
    change: dict[str, Any], says: str
) -> None:
    fault = faults.parse("network.down", {"interface": "eth1"})
    assert fault.asks().ssh
    assert fault.compile(NODE, ID)
    with pytest.raises(Refused, match=says):
        fault.compile(replace(NODE, **change), ID)
    with pytest.raises(Refused, match="loopback"):
        compiled("network.down", interface="lo")
    with pytest.raises(InvalidInput, match="has no 'eth7'"):
        compiled("network.down", interface="eth7")


def test_connections_are_read_as_the_kernel_writes_them() -> None:
    assert sockets.address("0100007F:0016") == "127.0.0.1"
    assert sockets.address("000000FD000000000000000002000000:0016") == "fd00::2"
    assert sockets.address("0000000000000000FFFF00000900010A:0016") == "10.1.0.9"


# ── effects ───────────────────────────────────────────────────────────────────────────────

ALL: list[effects.Effect] = [
    PulsedSet("chs-0-4", 4, ("10.0.0.2/32",), 5, 2_000_000, 1_500_000),
    Chain(
        *("CHAOS-0-out", 4, "filter", "OUTPUT"),
        (
            Rule("RETURN", syn=True, per_day=86_400, burst=1),
            Rule("REJECT", uid=0, cgroup="/a.slice", cgroup_id=7, reject_with="tcp-reset"),
            Rule("DROP", text="00026462"),
        ),
    ),
]


@pytest.mark.parametrize("effect", ALL)
def test_they_survive_the_journal(effect: effects.Effect) -> None:
    assert effects.from_text(effects.to_text(effect)) == effect


@pytest.mark.parametrize(
    ("effect", "text"),
    [
        (ALL[0], "(IPv4, entries in for 2 s, out for 1.5 s, by turns): 10.0.0.2/32"),
        (ALL[1], "--limit 86400/day --limit-burst 1 --syn → RETURN"),
        (ALL[1], "--uid-owner 0 --path /a.slice → REJECT tcp-reset"),
        (ALL[1], r"--icase --string b'\x00\x02db' → DROP"),
    ],
)
def test_an_operator_can_read_them(effect: effects.Effect, text: str) -> None:
    assert text in effects.describe(effect)


# ── network.dns ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("params", "texts"),
    [
        ({"names": "Db.a."}, [b"\0\0\0\0\2db\1a\0", b"\0\0\0\1\2db\1a\0"]),
        ({"names": "db.a,b", "subdomains": "true"}, [b"\2db\1a\0", b"\1b\0"]),
    ],
)
def test_a_query_is_told_by_the_name_on_the_wire(
    params: dict[str, str], texts: list[bytes]
) -> None:
    found = rules(compiled("network.dns", peers="10.0.0.2", **params))
    assert [(rule.protocol, bytes.fromhex(rule.text)) for rule in found] == [
        (protocol, text) for protocol in ("tcp", "udp") for text in texts
    ]
    assert {(rule.target, rule.destination_ports) for rule in found} == {("MARK", ("53",))}


@given(labels=st.lists(st.text("ab-_9", min_size=1, max_size=63), min_size=1, max_size=9))
@quick
def test_every_name_fits_or_is_refused(labels: list[str]) -> None:
    name = ".".join(labels)
    if len(name) > 118 or any(label.strip("-") != label for label in labels):
        with pytest.raises(InvalidInput, match="is not a name of at most 118"):
            compiled("network.dns", names=name)
        return
    found = rules(compiled("network.dns", names=name))
    assert all(len(bytes.fromhex(rule.text)) <= 128 for rule in found)
    assert all(name.encode().split(b".")[0] in bytes.fromhex(rule.text) for rule in found)


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({}, "'names' is required"),
        ({"names": ""}, "name 1 to 8"),
        ({"names": ",".join("abcdefghi")}, "name 1 to 8"),
        ({"names": "bücher.example"}, "xn--"),
        ({"names": "*.example.com"}, "is not a name"),
        ({"names": "a..b"}, "is not a name"),
        ({"names": "."}, "is not a name"),
        ({"names": "a", "protocol": "icmp"}, "icmp has no ports"),
        ({"names": "a", "ports": ""}, "asked at a port"),
    ],
)
def test_names_that_are_none_are_refused(params: dict[str, str], says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        faults.parse("network.dns", params)
    assert says in str(caught.value)
