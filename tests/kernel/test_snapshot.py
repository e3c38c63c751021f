"""Snapshots: equal after a clean revert, and exact about everything else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from chaos_agent import snapshot
from chaos_agent.effects import ops
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.host import Host
from chaos_agent.linux.xtables import Xtables
from chaos_agent.snapshot import Scope
from chaos_core.effects import Chain, Effect, Family, LeasedSet, Netem, Pipe, Rule
from chaos_core.messages import Revert

LATER = 60 * 1_000_000
SCOPE = Scope(frozenset({"v0"}), frozenset({"mangle", "filter"}))


def fault(name: str, peer: str, mark: int = 0x1000000, *, piped: bool = False) -> list[Effect]:
    leased = LeasedSet(f"chs-{name}-4", 4, (peer,))
    rule = Rule("MARK", match_set=leased.name, set_side="dst", mark=mark, mask=0xF000000)
    pipe = Pipe("v0", f"chs-{name}-0", mark, 0xF000000, mark >> 24, Netem(delay=1_000))
    chain = Chain(f"CHAOS-{name}-out", 4, "mangle", "POSTROUTING", (rule,))
    return [leased, *([pipe] if piped else []), chain]


def apply(host: Host, effects: list[Effect]) -> None:
    for effect in effects:
        ops(effect).apply(host, effect, now_us() + LATER)


def revert(host: Host, effects: list[Effect]) -> None:
    for effect in reversed(effects):
        ops(effect).revert(host, effect)


def test_scope_is_what_the_effects_touch() -> None:
    effects = fault("000000a1", "10.9.0.2", piped=True)
    assert snapshot.scope_of(effects) == Scope(frozenset({"v0"}), frozenset({"mangle"}))


@pytest.mark.parametrize("piped", [False, pytest.param(True, marks=pytest.mark.guest)])
@pytest.mark.usefixtures("users")
def test_a_clean_revert_makes_no_difference(host: Host, net: Any, piped: bool) -> None:
    before = snapshot.take(host, SCOPE)
    assert json.loads(json.dumps(before)) == before
    effects = fault("000000a1", net.peer[4], piped=piped)
    apply(host, effects)
    during = snapshot.diff(before, snapshot.take(host, SCOPE))
    assert all("chs-000000a1" in line or "CHAOS-000000a1" in line for line in during)
    assert len(during) == (8 if piped else 4)
    net.ping(net.peer[4])
    net.ping(net.bystander[4])
    revert(host, effects)
    assert snapshot.diff(before, snapshot.take(host, SCOPE)) == []


def test_a_table_that_is_opened_by_a_fault_is_no_difference(host: Host, net: Any) -> None:
    before = snapshot.take(host, SCOPE)
    effects = fault("000000a1", net.peer[4])
    apply(host, effects)
    revert(host, effects)
    assert snapshot.diff(before, snapshot.take(host, SCOPE)) == []


@pytest.mark.usefixtures("users", "net")
@pytest.mark.parametrize(
    ("harm", "wanted"),
    [
        ("ip link set v0 down", ["- links: v0 veth up", "+ links: v0 veth down"]),
        ("ip link del mine0", []),  # no fault touches other links, nor sets
        ("ipset destroy fleeting", []),
        ("iptables-legacy -t mangle -F OUTPUT", ["- rules: IPv4 mangle OUTPUT 1: -p 17 "]),
        ("ip6tables-legacy -P INPUT DROP", ["+ rules: IPv6 filter chain INPUT DROP"]),
        ("iptables-legacy -A MINE -p tcp --dport 82 -j DROP", ["+ rules: IPv4 filter MINE 2: "]),
        ("iptables-legacy -N YOURS", ["+ rules: IPv4 filter chain YOURS"]),
        ("iptables-legacy -Z", []),
        ("tc qdisc del dev v0 root", ["- qdiscs: v0 htb 1:"]),
        ("tc qdisc add dev v0 clsact", ["+ qdiscs: v0 clsact ffff:"]),
        ("tc filter add dev v0 parent 1: pref 5 u32 match ip tos 4 0xff",
         ["+ filters: v0 root u32 pref 5 "] * 3),
        ("tc class add dev v0 parent 1: classid 1:20 htb rate 1mbit", []),
    ],
)  # fmt: skip
def test_any_change_of_what_a_fault_could_harm_is_named(
    host: Host, sh: Callable[..., str], harm: str, wanted: list[str]
) -> None:
    before = snapshot.take(host, SCOPE)
    sh(*harm.split())
    lines = snapshot.diff(before, snapshot.take(host, SCOPE))
    lines = [line for line in lines if "noqueue" not in line]  # what the kernel puts in its place
    assert len(lines) == len(wanted), lines
    for line, start in zip(lines, wanted, strict=True):
        assert line.startswith(start)


@pytest.mark.parametrize(
    ("harm", "wanted"),
    [
        (
            "ipset create chs-000000ff-4 hash:net timeout 1",
            "+ sets: chs-000000ff-4 hash:net IPv4 timeout 1",
        ),
        ("ip link add chs-000000ff-0 type ifb", "+ links: chs-000000ff-0 ifb down"),
        ("iptables-legacy -N CHAOS-000000ff-in", "+ rules: IPv4 filter chain CHAOS-000000ff-in"),
        (
            "ip6tables-legacy -t mangle -N CHAOS-000000ff",
            "+ rules: IPv6 mangle chain CHAOS-000000ff",
        ),
    ],
)
def test_residue_is_named_wherever_it_is(
    host: Host, sh: Callable[..., str], harm: str, wanted: str
) -> None:
    before = snapshot.take(host, Scope())
    sh(*harm.split())
    lines = snapshot.diff(before, snapshot.take(host, Scope()))
    assert lines == [wanted]


def test_other_faults_are_no_difference(host: Host, net: Any) -> None:
    """One that stood before and ended, and one that began and stands."""
    first, second, third = (
        fault(name, net.peer[4], mark)
        for name, mark in (
            ("000000a1", 0x1000000),
            ("00000a12", 0x2000000),
            ("000000c3", 0x3000000),
        )
    )
    apply(host, first)
    before = snapshot.take(host, SCOPE)
    apply(host, second)
    apply(host, third)
    revert(host, first)
    revert(host, second)
    after = snapshot.take(host, SCOPE)
    assert snapshot.diff(before, after) != []
    assert (
        snapshot.diff(snapshot.without(before, ["000000c3"]), snapshot.without(after, ["000000c3"]))
        == []
    )
    assert snapshot.without(after, ["000000c"]) == after


def test_of_a_table_that_no_fault_touches_no_rule_is_read(
    node: Any, sh: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host may have tens of thousands of them: the cost follows the fault."""
    for tool in ("iptables-legacy", "ip6tables-legacy"):
        sh(tool, "-w", "-t", "nat", "-A", "OUTPUT", "-j", "ACCEPT")
    read, original = [], Xtables.read

    def reading(self: Xtables, family: Family, table: str) -> Any:
        read.append(table)
        return original(self, family, table)

    monkeypatch.setattr(Xtables, "read", reading)
    fault = node.partition()
    assert node.status(fault).state == "in_force"
    node.look()
    node.supervisor.obey(Revert(), now_us())
    assert node.status(fault).clean
    assert set(read) == {"filter"}
