"""Two faults on the same packets: both act, or the second is refused and names the first."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos_core import composition, faults
from chaos_core.composition import Shape, combined
from chaos_core.effects import Chain, Effect, GilbertElliott, Netem, Pipe, Rule, Tbf, is_ours
from chaos_core.errors import Refused
from chaos_core.node import Device, NodeView, Way

quick = settings(derandomize=True, deadline=None, database=None, max_examples=200)
NODE = replace(
    NodeView.example(),
    devices=(
        Device("lo", ("127.0.0.1", "::1"), loopback=True),
        Device("eth0", prefs=frozenset({1, 3})),
        Device("eth1"),
    ),
    ways={
        "10.1.0.2/32": Way(("eth1",)),
        "0.0.0.0/0": Way(("eth0", "eth1")),
    },
    elsewhere=Way(("eth0",)),
)
PEERS = "10.0.0.2,10.1.0.2,fd00::2"
# Every network kind, with each direction and action that it has.
KINDS: dict[str, dict[str, str]] = {
    "network.latency": {"delay": "50ms"},
    "network.loss": {"percent": "10%"},
    "network.corrupt": {"percent": "10%"},
    "network.duplicate": {"percent": "10%"},
    "network.reorder": {"percent": "25%", "delay": "10ms"},
    "network.rate": {"rate": "1mbit"},
    "network.partition": {},
    "network.blackhole": {"ports": "80"},
    "network.reject": {},
    "network.limit": {"count": "5"},
    "network.flap": {"down": "1s", "up": "2s"},
    "network.down": {"interface": "eth0"},
    "network.dns": {"names": "db.example.com", "ports": "80"},
    "tamper.payload": {"find": "balance", "replace": "bananas"},
    "http.fault": {"port": "80", "status": "503"},
}


def compiled(
    kind: str, fault: str = "0000000a", node: NodeView = NODE, **given: str
) -> tuple[Effect, ...]:
    params = {"peers": PEERS, **KINDS.get(kind, {}), **given}
    return faults.parse(kind, params).compile(node, fault)


def variants() -> list[tuple[str, dict[str, Any]]]:
    found = []
    for kind in KINDS:
        fields = faults.lookup(kind).model_fields
        ways = ("in", "out", "both") if "direction" in fields else ("",)
        actions = ("", "reject") if kind == "network.partition" else ("",)
        for way, action in product(ways, actions):
            given = {"direction": way} if way else {}
            found.append((kind, {**given, **({"action": action} if action else {})}))
    return found


def node_with(standing: Iterable[tuple[Effect, ...]]) -> NodeView:
    """The node as the agent sees it, with the marks and preferences that faults have taken."""
    pipes = [effect for each in standing for effect in each if isinstance(effect, Pipe)]
    devices = tuple(
        replace(one, prefs=one.prefs | {pipe.pref for pipe in pipes if pipe.device == one.name})
        for one in NODE.devices
    )
    return replace(NODE, devices=devices, marks_in_use=frozenset(pipe.mark for pipe in pipes))


def beside(first: tuple[Effect, ...], kind: str, **given: str) -> tuple[Effect, ...]:
    """The second fault as it is applied, after ``first``."""
    node = node_with([first])
    effects = compiled(kind, "0000000b", node, **given)
    return composition.compose(effects, {"fault 0000000a": first}, node)


def marks_of(effects: tuple[Effect, ...], device: str) -> int:
    """The bits that the rules of a fault set on packets to its peers that leave by a device."""
    return next(
        (
            rule.mark
            for chain in effects
            if isinstance(chain, Chain)
            for rule in chain.rules
            if rule.target == "MARK" and rule.out_device == device
        ),
        0,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_of_every_pair_both_act_or_the_second_is_refused_by_the_name_of_the_first(
    kind: str,
) -> None:
    """A packet that both mark finds one filter, and behind it what both ask for."""
    for (one, first), (two, second) in product(variants(), variants()):
        if one != kind:
            continue
        before = compiled(one, **first)
        try:
            after = beside(before, two, **second)
        except Refused as error:
            unnamed = "fault 0000000a" not in str(error) or not error.hint
            if unnamed:
                pytest.fail(f"{one} then {two}: {error}")
            continue
        for device in ("eth0", "eth1"):
            bits = marks_of(before, device), marks_of(after, device)
            if not all(bits):
                continue
            assert bits[0] & bits[1] == 0
            pipes = [e for e in (*before, *after) if isinstance(e, Pipe) and e.device == device]
            assert len({pipe.pref for pipe in pipes}) == len(pipes)
            assert len({pipe.link for pipe in pipes}) == len(pipes)
            by_mark = {pipe.mark: pipe for pipe in pipes}
            assert len(by_mark) == len(pipes), "two filters for one mark"
            shapes = [Shape(by_mark[m].netem, by_mark[m].tbf) for m in (*bits, bits[0] | bits[1])]
            assert shapes[2] == combined(shapes[0], shapes[1])
            assert all(is_ours(pipe.link) and len(pipe.link) <= 15 for pipe in pipes)


@pytest.mark.parametrize(
    ("one", "two", "why"),
    [
        ("network.rate", "network.rate", "both limit the bandwidth"),
        ("network.duplicate", "network.loss", "one duplicates packets and one loses them"),
        ("network.duplicate", "network.duplicate", "both duplicate"),
        ("network.reorder", "network.latency", "one reorders packets and one delays them"),
        ("tamper.payload", "tamper.payload", "only one can have them"),
        ("http.fault", "http.fault", "only one can have them"),
    ],
)
def test_what_one_pipe_cannot_do_is_refused_in_either_order(one: str, two: str, why: str) -> None:
    for first, second in {(one, two), (two, one)}:
        with pytest.raises(Refused, match=why):
            beside(compiled(first), second)


def test_what_comes_in_is_shaped_by_one_fault_only() -> None:
    first = compiled("network.latency", direction="in")
    with pytest.raises(Refused, match=r"fault 0000000a shapes packets .* as they come in at eth0"):
        beside(first, "network.rate", direction="both")
    assert beside(first, "network.rate", direction="in", peers="10.0.0.3")
    assert beside(compiled("network.latency", direction="in", ports="80"),
                  "network.rate", direction="in", ports="443")  # fmt: skip
    assert beside(first, "network.loss", percent="1%", direction="both"), "xtables makes that one"


def test_who_chooses_by_a_port_comes_after_who_redirects_it() -> None:
    """Before, its rules would go on matching the port that the proxy has not."""
    first = compiled("network.loss", direction="in", local_ports="80")
    with pytest.raises(Refused, match="chooses packets by a port that this fault would redirect"):
        beside(first, "http.fault")
    answers = compiled("network.latency", local_ports="80")
    with pytest.raises(Refused, match="would redirect"):
        beside(answers, "http.fault")
    assert beside(compiled("http.fault"), "network.loss", direction="in", local_ports="80")
    assert beside(compiled("network.loss", local_ports="443"), "http.fault")
    assert beside(compiled("network.latency"), "http.fault"), "all ports are the proxy's, too"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"peers": "10.0.0.2"}, {"peers": "10.0.0.3"}),
        ({"peers": "10.0.0.2"}, {"peers": "fd00::2"}),
        ({"ports": "80"}, {"ports": "443,8000-8010"}),
        ({"protocol": "udp"}, {"protocol": "icmp"}),
        ({"interface": "eth0"}, {"interface": "eth1"}),
        ({"uid": "1"}, {"uid": "2"}),
    ],
)
def test_what_meets_no_packet_of_another_needs_no_pipe_for_both(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    before = compiled("network.rate", **first)
    marks = {pipe.mark for pipe in before if isinstance(pipe, Pipe)}
    after = [e for e in beside(before, "network.rate", **second) if isinstance(e, Pipe)]
    assert all(pipe.mark.bit_count() == 1 and pipe.mark not in marks for pipe in after)


def test_a_bandwidth_goes_with_a_fault_that_takes_all_of_its_packets() -> None:
    """Otherwise its packets would be in two pipes, with the whole bandwidth each."""
    rate = compiled("network.rate", peers="10.0.0.2")
    pipes = [e for e in beside(rate, "network.latency", peers="10.0.0.0/24")
             if isinstance(e, Pipe)]  # fmt: skip
    assert [(bool(pipe.netem), bool(pipe.tbf)) for pipe in pipes] == [(True, False), (True, True)]
    for narrow in ({"peers": "10.0.0.2", "ports": "80"}, {"peers": "10.0.0.2", "uid": "1"}):
        with pytest.raises(Refused, match="takes only some of them"):
            beside(rate, "network.latency", **narrow)
    with pytest.raises(Refused, match="takes only some of them"):
        beside(compiled("network.rate", peers="10.0.0.0/24"), "network.latency", peers="10.0.0.2")
    cut = [e for e in beside(rate, "network.partition", peers="10.0.0.2") if isinstance(e, Pipe)]
    assert [(pipe.netem, pipe.tbf) for pipe in cut] == [(None, None)] * 2, "nothing gets through"


def test_each_combination_of_three_has_a_pipe_that_the_last_one_brings() -> None:
    standing: dict[str, tuple[Effect, ...]] = {}
    for number, kind in enumerate(("network.latency", "network.loss", "network.corrupt")):
        node = node_with(standing.values())
        effects = compiled(kind, f"{number:08x}", node, peers="10.0.0.2")
        standing[kind] = composition.compose(effects, standing, node)
    by_fault = [{e.mark: e for e in each if isinstance(e, Pipe)} for each in standing.values()]
    assert [len(pipes) for pipes in by_fault] == [1, 2, 4]
    a, b, c = 1 << 24, 1 << 25, 1 << 26
    assert set(by_fault[2]) == {c, a | c, b | c, a | b | c}
    prefs = [pipe.pref for pipes in by_fault for pipe in pipes.values()]
    assert len(set(prefs)) == len(prefs), "each filter has a place of its own"
    whole = by_fault[2][a | b | c].netem
    assert whole is not None
    assert (whole.delay, whole.loss, whole.corrupt) == (50_000, 100_000, 100_000)


def test_pipes_come_before_the_chain_that_marks_for_them() -> None:
    after = beside(compiled("network.latency"), "network.loss")
    kinds = [type(effect) for effect in after]
    assert kinds.index(Chain) > max(n for n, kind in enumerate(kinds) if kind is Pipe)


_SHARES = st.sampled_from([0, 10_000, 500_000, 1_000_000])
_NETEMS = st.builds(
    Netem,
    delay=st.sampled_from([0, 20_000, 50_000]),
    loss=_SHARES,
    corrupt=_SHARES,
    duplicate=st.sampled_from([0, 0, 10_000]),
    bursts=st.sampled_from([None, None, GilbertElliott(10_000, 500_000, 900_000, 1_000)]),
)
_SHAPES = st.builds(
    Shape, st.one_of(st.none(), _NETEMS), st.sampled_from([None, None, Tbf(9, 9, 9)])
)


def test_two_jitters_are_refused_and_one_is_kept_beside_a_delay() -> None:
    wavy = Netem(delay=20_000, jitter=5_000, correlation=250_000, distribution="normal")
    with pytest.raises(ValueError, match="both have a jitter"):
        combined(Shape(wavy), Shape(wavy))
    both = combined(Shape(Netem(delay=30_000)), Shape(wavy)).netem
    assert both is not None
    assert (both.delay, both.jitter, both.correlation) == (50_000, 5_000, 250_000)
    assert both.distribution == "normal"


def test_single_losses_come_on_top_of_bursts_in_either_state() -> None:
    bursts = GilbertElliott(10_000, 500_000, 900_000, 0)
    both = combined(Shape(Netem(bursts=bursts)), Shape(Netem(loss=100_000))).netem
    assert both is not None
    assert both.loss == 0
    assert both.bursts == GilbertElliott(10_000, 500_000, 910_000, 100_000)


def test_what_loses_everything_takes_no_share_of_a_bandwidth() -> None:
    """So it composes with a rate of which it takes only some packets."""
    everything = Shape(Netem(loss=1_000_000))
    assert everything.swallows
    assert combined(everything, Shape(Netem(delay=1))) == Shape()
    after = beside(compiled("network.rate", peers="10.0.0.0/24"), "network.loss",
                   peers="10.0.0.2", percent="100%")  # fmt: skip
    assert [e.netem for e in after if isinstance(e, Pipe) and e.combines] == [None]


@given(_SHAPES, _SHAPES)
@quick
def test_the_order_of_two_faults_does_not_matter(one: Shape, two: Shape) -> None:
    def tried(first: Shape, second: Shape) -> Shape | str:
        try:
            return combined(first, second)
        except ValueError:
            return "refused"

    assert tried(one, two) == tried(two, one)


@given(_NETEMS, _NETEMS)
@quick
def test_together_they_take_what_the_envelope_counts_or_less(one: Netem, two: Netem) -> None:
    try:
        both = combined(Shape(one), Shape(two)).netem
    except ValueError:
        return
    if both is None:  # nothing gets through
        assert 1_000_000 in (one.loss, two.loss)
        return
    assert both.delay == one.delay + two.delay
    for share in ("loss", "corrupt", "duplicate"):
        parts = getattr(one, share), getattr(two, share)
        if not both.bursts:
            assert max(parts) <= getattr(both, share) <= sum(parts)
    assert both.limit >= max(one.limit, two.limit)


def test_every_network_kind_is_tried() -> None:
    network = {kind for kind in faults.kinds() if kind.startswith(("network.", "tamper.", "http."))}
    assert network == set(KINDS)


def test_a_rule_marks_no_bit_but_its_own() -> None:
    chain = next(e for e in compiled("network.latency") if isinstance(e, Chain))
    rule: Rule = chain.rules[-1]
    assert rule.mark.bit_count() == 1
    assert dataclasses.asdict(rule)["mask"] == NODE.mark_mask
