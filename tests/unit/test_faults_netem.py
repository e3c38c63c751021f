"""Faults that netem, a token bucket or a counted rule makes: what they draw and refuse."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos_core import distributions, effects, envelope, faults
from chaos_core.distributions import Distribution
from chaos_core.effects import (
    Chain,
    Effect,
    FixedSet,
    GilbertElliott,
    IngressPipe,
    LeasedSet,
    Netem,
    Pipe,
    Tbf,
)
from chaos_core.envelope import Draw
from chaos_core.errors import EnvelopeExceeded, InvalidInput, Refused
from chaos_core.faults import Fault
from chaos_core.node import NodeView, Protected
from chaos_core.units import SECOND, Duration, Percent

quick = settings(derandomize=True, deadline=None, database=None, max_examples=100)
PEER = {"peers": "10.0.0.2,fd00::2"}
SHAPES: tuple[Distribution, ...] = ("uniform", "normal", "pareto", "paretonormal")


def fault(kind: str, **params: Any) -> Fault:
    return faults.parse(kind, {**PEER, **params})


def compiled(kind: str, **params: Any) -> tuple[Effect, ...]:
    return fault(kind, **params).compile(NodeView.example(), "0123abcd")


def pipe(kind: str, **params: Any) -> Pipe:
    (found,) = (effect for effect in compiled(kind, **params) if isinstance(effect, Pipe))
    return found


def netem(kind: str, **params: Any) -> Netem:
    found = pipe(kind, **params).netem
    assert found is not None
    return found


# ── what they compile to, draw and say ────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("kind", "params", "draw", "shown"),
    [
        ("network.corrupt", {"percent": "1%"}, Draw("loss", loss=Percent(10_000)), "corrupt 1%"),
        (
            "network.duplicate",
            {"percent": "1%"},
            Draw("loss", loss=Percent(10_000)),
            "limit 20000, duplicate 1%",
        ),
        (
            "network.reorder",
            {"percent": "25%", "delay": "10ms"},
            Draw("latency", latency=Duration(10_000)),
            "delay 10ms ±0ms, reorder 25%",
        ),
        (
            "network.rate",
            {"rate": "1mbit"},
            Draw("destructive", latency=Duration(100_000)),
            "tbf rate 1000000 bit/s, burst 10000 bytes, limit 12500 bytes",
        ),
        (
            "network.loss",
            {"p": "4%", "r": "20%", "loss_in_bad": "90%", "loss_in_good": "1%"},
            Draw("loss", loss=Percent(158_334)),
            "loss gemodel p 4% r 20% 1-h 90% 1-k 1%",
        ),
        (
            "network.latency",
            {"delay": "20ms", "jitter": "5ms", "distribution": "normal"},
            Draw("latency", latency=Duration(20_000 + math.ceil(5_000 * 28858 / 8192))),
            "delay 20ms ±5ms, distribution normal",
        ),
    ],
)
def test_what_is_drawn_is_what_an_operator_reads(
    kind: str, params: dict[str, str], draw: Draw, shown: str
) -> None:
    assert fault(kind, **params).draw() == draw
    assert shown in effects.describe(pipe(kind, **params))


@pytest.mark.parametrize(
    ("kind", "params", "what"),
    [
        ("network.corrupt", {"percent": "0%"}, "percent: must be above 0%"),
        ("network.duplicate", {"percent": "101%"}, "percent: must be above 0%"),
        ("network.reorder", {"percent": "100%", "delay": "1ms"}, "none is overtaken"),
        ("network.reorder", {"percent": "1%", "delay": "0ms"}, "delay: must be above zero"),
        ("network.reorder", {"percent": "1%"}, "'delay' is required"),
        (
            "network.reorder",
            {"percent": "1%", "delay": "1ms", "correlation": "100%"},
            "correlation: must be below 100%",
        ),
        ("network.rate", {"rate": "1"}, "rate: '1' has no unit"),
        ("network.rate", {"rate": "1Mbit"}, "unknown unit 'Mbit'"),
        ("network.rate", {"rate": "1mbps"}, "unknown unit 'mbps'"),
        ("network.rate", {"rate": "63kbit"}, "rate: must be from 64kbit to 10gbit"),
        ("network.rate", {"rate": "11gbit"}, "rate: must be from 64kbit to 10gbit"),
        ("network.rate", {"rate": "64kbit"}, "queue: at 64kbit it takes 1250ms or more"),
        ("network.rate", {"rate": "1gbit", "queue": "9ms"}, "queue: at 1gbit it takes 10ms"),
        ("network.rate", {"rate": "1mbit", "queue": "3s"}, "queue: must be at most 2s"),
        ("network.loss", {}, "give one of percent, every, or p with r"),
        ("network.loss", {"percent": "1%", "every": "9"}, "give one of percent, every, or p"),
        ("network.loss", {"p": "1%"}, "r: goes with p"),
        ("network.loss", {"r": "1%"}, "give one of"),
        ("network.loss", {"percent": "1%", "r": "1%"}, "r: goes with p"),
        ("network.loss", {"percent": "1%", "loss_in_bad": "1%"}, "only with p and r"),
        ("network.loss", {"every": "5", "correlation": "1%"}, "correlation: only with percent"),
        ("network.loss", {"every": "1"}, "every:"),
        ("network.loss", {"every": "1.5"}, "every:"),
        ("network.loss", {"p": "1%", "r": "0.9%"}, "r: bursts would be of more than 100"),
        (
            "network.loss",
            {"p": "1%", "r": "50%", "loss_in_bad": "1%", "loss_in_good": "2%"},
            "loss_in_good: must not be above",
        ),
        ("network.loss", {"percent": "1%", "correlation": "99.5%"}, "correlation: bursts"),
        ("network.loss", {"percent": "100%", "correlation": "1%"}, "correlation: bursts"),
        ("network.loss", {"percent": "1%", "correlation": "1000%"}, "correlation: bursts"),
        (
            "network.loss",
            {"percent": "0.0001%", "correlation": "50%"},
            "correlation: too close to 100%",
        ),
        (
            "network.latency",
            {"delay": "1ms", "distribution": "normal"},
            "distribution: only with a jitter",
        ),
        ("network.latency", {"delay": "3s", "jitter": "2.1s"}, "jitter: must be at most 2s"),
        ("network.latency", {"delay": "1ms", "distribution": "cauchy"}, "distribution"),
    ],
)
def test_bad_input_names_its_field(kind: str, params: dict[str, str], what: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        fault(kind, **params)
    assert what in str(caught.value)


def test_production_takes_what_fits_and_no_rate() -> None:
    production = envelope.PROFILES["production"]
    with pytest.raises(EnvelopeExceeded, match="refused in profile production"):
        envelope.check(production, fault("network.rate", rate="1gbit").draw(), SECOND)
    wide = fault("network.latency", delay="40ms", jitter="5ms", distribution="pareto")
    with pytest.raises(EnvelopeExceeded, match="latency 60ms"):
        envelope.check(production, wide.draw(), SECOND)
    loss = fault("network.loss", every=200).draw()
    copies = fault("network.duplicate", percent="0.6%").draw()
    with pytest.raises(EnvelopeExceeded, match=r"loss 0\.6% \(with 0\.5% in force\)"):
        envelope.check(production, copies, SECOND, [loss])


# ── loss ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("params", "lost"),
    [
        ({"every": 3}, 333_334),
        ({"every": 2, "direction": "both"}, 1_000_000),
        ({"percent": "7%", "correlation": "40%"}, 70_000),
        ({"p": "1%", "r": "99%"}, 10_000),
        ({"p": "50%", "r": "50%", "loss_in_bad": "10%"}, 50_000),
        ({"p": "50%", "r": "50%", "loss_in_bad": "10%", "direction": "both"}, 100_000),
    ],
)
def test_the_long_run_mean_is_drawn(params: dict[str, Any], lost: int) -> None:
    assert fault("network.loss", **params).draw().loss == lost


@given(percent=st.integers(1, 1_000_000), correlation=st.integers(1, 1_000_000))
@quick
def test_a_correlated_loss_is_never_more_than_was_drawn(percent: int, correlation: int) -> None:
    params = {"percent": Percent(percent), "correlation": Percent(correlation)}
    try:
        chain = netem("network.loss", **params).bursts
    except InvalidInput:
        apart = 1_000_000 - correlation
        assert percent * apart < 1e6 or (1_000_000 - percent) * apart <= 1e10
        return
    assert chain is not None
    mean = chain.to_bad / (chain.to_bad + chain.to_good) * 1_000_000
    assert percent - 101 <= mean <= percent + 1e-6
    assert 1 - (chain.to_bad + chain.to_good) / 1e6 == pytest.approx(correlation / 1e6, abs=2e-6)


def played(chain: GilbertElliott, packets: int) -> float:
    """The share lost by the kernel's loss_gilb_ell, in Python."""
    rng = random.Random(7)  # noqa: S311 - not for secrets
    bad, lost = False, 0
    for _ in range(packets):
        if bad:
            bad = rng.random() * 1e6 >= chain.to_good
            lost += rng.random() * 1e6 < chain.loss_in_bad
        else:
            bad = rng.random() * 1e6 < chain.to_bad
            lost += rng.random() * 1e6 < chain.loss_in_good
    return lost / packets


@pytest.mark.parametrize(
    "params",
    [
        {"percent": "20%", "correlation": "60%"},
        {"p": "4%", "r": "20%", "loss_in_bad": "90%", "loss_in_good": "1%"},
    ],
)
def test_the_chain_played_loses_its_mean(params: dict[str, str]) -> None:
    chain = netem("network.loss", **params).bursts
    assert chain is not None
    drawn = fault("network.loss", **params).draw().loss.fraction
    assert played(chain, 100_000) == pytest.approx(drawn, abs=0.012)


_COUNTING = (("SEEN", 0), ("EXPOSED", 0))


def test_every_nth_is_counted_in_the_chain_and_all_of_them_are_lost() -> None:
    done = compiled("network.loss", every=5, direction="both")
    counted = {
        (effect.hook, rule.target, rule.every)
        for effect in done
        if isinstance(effect, Chain)
        for rule in effect.rules
        if rule.match_set
    }
    assert counted == {
        *(("POSTROUTING", target, every) for target, every in (("MARK", 5), *_COUNTING)),
        *(("INPUT", target, every) for target, every in (("DROP", 5), *_COUNTING)),
        *(("FORWARD", target, every) for target, every in (("DROP", 5), *_COUNTING)),
    }
    assert netem("network.loss", every=5).loss == 1_000_000
    assert "--every 5 → MARK" in "".join(map(effects.describe, done))


# ── rate and tables ───────────────────────────────────────────────────────────────────────


@given(rate=st.integers(64_000, 10_000_000_000), queue=st.integers(1, 2_000_000))
@quick
def test_nobody_waits_longer_than_the_queue_that_was_drawn(rate: int, queue: int) -> None:
    try:
        bucket = pipe("network.rate", rate=f"{rate}bit", queue=f"{queue}us").tbf
    except InvalidInput:
        assert rate * queue / 8e6 < max(10_000, rate / 800) + 1
        return
    assert isinstance(bucket, Tbf)
    assert bucket.limit / bucket.rate <= queue / 1e6
    assert rate / 8 - 1 < bucket.rate <= rate / 8
    assert bucket.burst >= bucket.rate // 100
    assert 9_014 < bucket.burst <= bucket.limit < 2**32


@pytest.mark.parametrize("shape", SHAPES)
@given(delay=st.integers(1, 30_000_000), jitter=st.integers(1, 2_000_000))
@quick
def test_no_table_gives_more_than_is_drawn(shape: Distribution, delay: int, jitter: int) -> None:
    most = max(distributions.table(shape), default=8192)
    drawn = distributions.longest(shape, delay, jitter)
    assert delay + jitter * most / 8192 <= drawn < delay + jitter * most / 8192 + 1


@pytest.mark.parametrize("shape", SHAPES[1:])
def test_a_table_is_sixteen_bits_ascending_and_its_mean_no_delay(shape: Distribution) -> None:
    found = distributions.table(shape)
    assert len(found) == 4096
    assert list(found) == sorted(found)
    assert -(2**15) <= found[0] < 0 < found[-1] < 2**15
    assert abs(sum(found) / len(found)) < 8192 * 0.04


# ── what comes in ─────────────────────────────────────────────────────────────────────────

GUARDED = replace(
    NodeView.example(),
    protected=Protected(controllers=("10.0.0.1",), peers=("10.9.0.0/16", "10.0.0.0/31")),
)


def test_inward_the_leased_set_catches_and_sets_spare_what_is_protected() -> None:
    done = fault("network.latency", delay="9ms", direction="in").compile(GUARDED, "0123abcd")
    leased = {effect.name for effect in done if isinstance(effect, LeasedSet)}
    fixed = {effect.name: effect for effect in done if isinstance(effect, FixedSet)}
    (pipe,) = (effect for effect in done if isinstance(effect, IngressPipe))
    order = [type(effect) for effect in done]
    assert order.index(IngressPipe) > order.index(FixedSet), "the filter comes after its sets"
    assert Pipe not in order
    targets = {rule.target for one in done if isinstance(one, Chain) for rule in one.rules}
    assert targets == {"RETURN", "SEEN", "EXPOSED"}, "a chain that hits nothing"
    assert [catch.family for catch in pipe.catches] == [4, 6]
    for catch in pipe.catches:
        assert catch.peers in leased
        ports = set(fixed[catch.safe_ports].entries)
        halves = ("0.0.0.0/1", "128.0.0.0/1") if catch.family == 4 else ("::/1", "8000::/1")
        spared = ["tcp:22", "udp:67", "udp:68"] if catch.family == 4 else ["tcp:22", "udp:546"]
        spared += [f"icmpv6:{kind * 256}" for kind in range(133, 138) if catch.family == 6]
        assert {f"{half},{port}" for half in halves for port in spared} <= ports
    four, six = pipe.catches
    assert fixed[four.safe_nets].entries == ("10.0.0.0/31", "10.9.0.0/16")
    assert six.safe_nets == "", "no protected network of IPv6"
    assert pipe.netem
    assert pipe.netem.delay == 9_000
    assert len(pipe.link) <= effects.MAX_LINK_NAME
    assert all(effects.is_ours(name) for name in (pipe.link, *leased, *fixed))


def test_both_ways_are_drawn_twice_and_survive_the_journal() -> None:
    both = fault("network.latency", delay="9ms", direction="both")
    assert both.draw() == Draw("latency", latency=Duration(18_000))
    done = both.compile(GUARDED, "0123abcd")
    links = [e.link for e in done if isinstance(e, Pipe | IngressPipe)]
    assert len(set(links)) == len(links) == 2
    assert [effects.from_text(effects.to_text(effect)) for effect in done] == [*done]
    shown = "\n".join(map(effects.describe, done))
    assert "inlet  eth0 from chs-0123abcd-4 but chs-0123abcd-41 chs-0123abcd-42" in shown
    assert "hash:net,port, to be asked by a filter): 0.0.0.0/1,tcp:22" in shown


_INWARD: dict[str, dict[str, str]] = {
    "network.duplicate": {"percent": "1%"},
    "network.reorder": {"percent": "25%", "delay": "10ms"},
    "network.rate": {"rate": "1mbit"},
    "network.loss": {"p": "1%", "r": "50%"},
}


@pytest.mark.parametrize("kind", _INWARD)
def test_inward_each_makes_the_detour_and_both_ways_are_drawn_twice(kind: str) -> None:
    into, out, both = (
        fault(kind, direction=direction, **_INWARD[kind]) for direction in ("in", "out", "both")
    )
    inlets = [e for e in into.compile(GUARDED, "0123abcd") if isinstance(e, IngressPipe)]
    outlets = [e for e in out.compile(GUARDED, "0123abcd") if isinstance(e, Pipe)]
    assert [(e.netem, e.tbf) for e in inlets] == [(e.netem, e.tbf) for e in outlets]
    assert inlets
    assert all(catch.safe_ports for inlet in inlets for catch in inlet.catches)
    done = both.compile(GUARDED, "0123abcd")
    assert [e for e in done if isinstance(e, IngressPipe | Pipe)] == [*inlets, *outlets]
    assert [effects.from_text(effects.to_text(effect)) for effect in done] == [*done]
    one, two = out.draw(), both.draw()
    assert into.draw() == one
    assert (two.latency, two.loss) == (2 * one.latency, 2 * one.loss)
    assert two.latency or two.loss


@pytest.mark.parametrize("kind", _INWARD)
def test_inward_no_kind_takes_what_sets_cannot_tell(kind: str) -> None:
    with pytest.raises(InvalidInput, match="a protocol by its ports only"):
        fault(kind, direction="in", protocol="tcp", **_INWARD[kind])


def test_a_bit_is_never_flipped_on_the_way_in() -> None:
    """A card that has checked the sum already would let it through to the application."""
    with pytest.raises(InvalidInput, match="unknown parameter 'direction'"):
        fault("network.corrupt", percent="1%", direction="in")


def test_inward_the_sets_are_ipsets_whatever_the_backend() -> None:
    node = replace(GUARDED, backend="nft")
    for direction, wanted in (("in", {"xtables"}), ("out", {"nft"}), ("both", {"xtables", "nft"})):
        done = fault("network.latency", delay="9ms", direction=direction).compile(node, "0123abcd")
        assert {effect.backend for effect in done if isinstance(effect, LeasedSet)} == wanted
        assert {e.backend for e in done if isinstance(e, Chain)} == {"nft"}
        assert not any(
            rule.match_set
            for e in done
            if isinstance(e, Chain) and e.name.endswith("in")
            for rule in e.rules
        ), "nftables knows no set of ipset's"
        assert len(set(done)) == len(done)


def test_inward_ports_are_sets_that_must_match() -> None:
    chosen = {"ports": "80,8000-8001", "local_ports": "5432", "protocol": "tcp"}
    done = fault("network.latency", delay="9ms", direction="in", **chosen).compile(
        GUARDED, "0123abcd"
    )
    fixed = {effect.name: effect for effect in done if isinstance(effect, FixedSet)}
    (pipe,) = (effect for effect in done if isinstance(effect, IngressPipe))
    for catch in pipe.catches:
        halves = ("0.0.0.0/1", "128.0.0.0/1") if catch.family == 4 else ("::/1", "8000::/1")
        for name, ports in ((catch.ports, (80, 8000, 8001)), (catch.local_ports, (5432,))):
            wanted = tuple(f"{half},tcp:{port}" for half in halves for port in ports)
            assert fixed[name].entries == wanted
            assert effects.is_ours(name)
    assert [effects.from_text(effects.to_text(effect)) for effect in done] == [*done]
    udp = fault("network.latency", delay="9ms", direction="in", ports="53").compile(
        GUARDED, "0123abcd"
    )
    entries = {entry for one in udp if isinstance(one, FixedSet) for entry in one.entries}
    assert {"0.0.0.0/1,tcp:53", "0.0.0.0/1,udp:53", "8000::/1,udp:53"} <= entries


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"protocol": "tcp"}, "in and both go with a protocol by its ports only"),
        ({"protocol": "icmp"}, "in and both go with a protocol by its ports only"),
        ({"ports": "1-65"}, "in and both go with at most 64 ports"),
        ({"local_ports": "1-40,50-80"}, "in and both go with at most 64 ports"),
    ],
)
@pytest.mark.parametrize("direction", ["in", "both"])
def test_inward_what_sets_cannot_tell_is_refused(
    direction: str, chosen: dict[str, str], says: str
) -> None:
    with pytest.raises(InvalidInput, match=says):
        fault("network.latency", delay="1ms", direction=direction, **chosen)


def test_inward_who_is_excluded_is_spared_as_what_is_protected_is() -> None:
    given = {"peers": "10.7.0.0/24", "exclude": "10.7.0.9", "delay": "1ms", "direction": "in"}
    done = faults.parse("network.latency", given).compile(GUARDED, "0123abcd")
    (pipe,) = (effect for effect in done if isinstance(effect, IngressPipe))
    (safe,) = (one for one in done if getattr(one, "name", "") == pipe.catches[0].safe_nets)
    assert isinstance(safe, FixedSet)
    assert safe.entries == ("10.0.0.0/31", "10.7.0.9/32", "10.9.0.0/16")


@pytest.mark.parametrize("peers", ["10.0.0.1", "10.9.1.0/24", "127.0.0.1"])
def test_inward_protected_peers_are_refused_too(peers: str) -> None:
    given = {"peers": peers, "delay": "1ms", "direction": "in"}
    with pytest.raises(Refused):
        faults.parse("network.latency", given).compile(GUARDED, "0123abcd")
