"""Every fault, as it compiles: bounded, named, ordered, and never on protected traffic."""

from __future__ import annotations

import json
import sys
import typing
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos_core import effects, envelope, faults
from chaos_core.effects import (
    Chain,
    Effect,
    Holder,
    Kill,
    LeasedSet,
    Pipe,
    PulsedSet,
    Restart,
    Rule,
    UndoTimer,
    Unit,
)
from chaos_core.errors import ChaosError, InvalidInput, Refused, Unsupported
from chaos_core.faults import Fault
from chaos_core.faults._network import queue_limit
from chaos_core.faults._shaping import ShapingFault
from chaos_core.node import NO_WAY, Device, NodeView, ProcessFacts, Protected, UnitFacts, Way
from chaos_core.units import SECOND, Percent

quick = settings(derandomize=True, deadline=None, database=None, max_examples=100)
ID = "0123abcd"
KINDS = list(faults.kinds())
NETWORK = [kind for kind in KINDS if kind.startswith(("network.", "tamper."))]
NODE = replace(
    NodeView.example(),
    devices=(
        Device("lo", ("127.0.0.1", "::1"), loopback=True),
        Device("eth0", ("10.0.0.9", "fd00::9"), prefs=frozenset({1, 3})),
        Device("eth1"),
    ),
    ways=dict.fromkeys(("10.1.0.0/24", "fd01::/64"), Way(("eth1",))),
    elsewhere=Way(("eth0",)),
    protected=Protected(controllers=("10.0.0.1", "fd00::1"), peers=("10.9.0.0/16",)),
)
MORE: dict[str, dict[str, str]] = {
    "network.latency": {"delay": "50ms"},
    "network.loss": {"percent": "1%"},
    "network.partition": {},
    "network.blackhole": {"ports": "80,8000-8010"},
    "network.reject": {},
    "network.limit": {"count": "5"},
    "network.flap": {"down": "1s", "up": "2s"},
    "network.down": {"interface": "eth1"},
    "network.dns": {"names": "db.example.com", "ports": "80,8000-8010"},
    "network.corrupt": {"percent": "1%"},
    "network.duplicate": {"percent": "1%"},
    "network.reorder": {"percent": "25%", "delay": "10ms"},
    "network.rate": {"rate": "1mbit"},
    "tamper.payload": {"find": "balance", "replace": "bananas"},
}
V4, V6 = "10.0.0.2,10.1.0.0/24", "fd00::2,fd01::/64"


def params(kind: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in faults.lookup(kind).example.split())


def variants() -> Iterator[tuple[str, dict[str, str]]]:
    """Every network fault in every direction, action, family and protocol."""
    for kind, peers, protocol in product(NETWORK, (V4, V6, f"{V4},{V6}"), ("all", "udp", "icmp")):
        common = {"peers": peers, "protocol": protocol, **MORE.get(kind, {})}
        if protocol == "udp":
            common["ports"] = "80,8000-8010"
        fields = faults.lookup(kind).model_fields
        choices = {
            name: typing.get_args(fields[name].annotation)
            for name in ("direction", "action")
            if name in fields
        }
        for chosen in product(*choices.values()):
            given = {**common, **dict(zip(choices, chosen, strict=True))}
            inward = given.get("direction", "out") != "out"
            if inward and kind != "network.loss" and issubclass(faults.lookup(kind), ShapingFault):
                continue  # without a chain: tests/unit/test_faults_netem.py
            with suppress(InvalidInput):  # a protocol that the kind does not know
                faults.parse(kind, given)
                yield kind, given


VARIANTS = list({json.dumps(variant): variant for variant in variants()}.values())


def each_variant(check: Callable[[str, dict[str, str]], None]) -> Callable[[str], None]:
    """One test a kind, which goes through all its variants."""

    @pytest.mark.parametrize("kind", NETWORK)
    def test(kind: str) -> None:
        for variant in [variant for name, variant in VARIANTS if name == kind]:
            check(kind, variant)

    test.__name__, test.__doc__ = check.__name__, check.__doc__
    return test


def compiled(kind: str, given: dict[str, Any], node: NodeView = NODE) -> tuple[Effect, ...]:
    return faults.parse(kind, given).compile(node, ID)


# ── every kind ────────────────────────────────────────────────────────────────────────────


def test_the_first_five_are_there() -> None:
    assert {
        *("network.latency", "network.loss", "network.partition", "cpu.stress", "memory.stress")
    } <= set(KINDS)
    assert sorted(KINDS) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_parses_compiles_and_fits_production_or_is_risky(kind: str) -> None:
    fault = faults.parse(kind, params(kind))
    assert fault.compile(NodeView.example(fault.asks()), ID)
    assert fault.summary
    assert fault.lease_holder
    assert fault.needs
    if not fault.risky:
        envelope.check(envelope.PROFILES["production"], fault.draw(), SECOND)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_survive_canonical_json(kind: str) -> None:
    fault = faults.parse(kind, params(kind))
    assert faults.parse(kind, json.loads(fault.model_dump_json())) == fault


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_is_described(kind: str) -> None:
    schema = faults.lookup(kind).model_json_schema()
    assert all(field.get("description") for field in schema["properties"].values())


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_parameter_is_named_with_the_nearest(kind: str) -> None:
    known = next(iter(faults.lookup(kind).model_fields), "")
    hint = f"did you mean '{known}'" if known else "it takes none"
    with pytest.raises(InvalidInput, match=f"unknown parameter .*{hint}"):
        faults.parse(kind, {**params(kind), f"{known}x": "1"})


@pytest.mark.parametrize(
    ("kind", "given", "what"),
    [
        ("network.latencyy", {}, "did you mean 'network.latency'"),
        ("zzz", {}, "one of: "),
        ("network.latency", {"peers": "10.0.0.2", "delay": "50"}, "delay: '50' has no unit"),
        ("network.latency", {"peers": "10.0.0.2", "delay": 50}, "delay: 50 has no unit"),
        ("network.latency", {"peers": "10.0.0.2"}, "'delay' is required"),
        ("network.latency", {"delay": "50ms"}, "'peers' is required"),
        ("network.latency", {"peers": "", "delay": "50ms"}, "name at least one peer"),
        ("network.latency", {"peers": "10.0.0.2", "delay": "0ms"}, "above zero"),
        ("network.latency", {"peers": "10.0.0.2", "delay": "1ms", "jitter": "2ms"}, "jitter"),
        (
            "network.latency",
            {"peers": "10.0.0.2", "delay": "1ms", "correlation": "5%"},
            "only with a jitter",
        ),
        ("network.loss", {"peers": "10.0.0.256", "percent": "1%"}, "not an address"),
        ("network.loss", {"peers": "web 1", "percent": "1%"}, "not an address"),
        ("network.loss", {"peers": "2001:db8::g", "percent": "1%"}, "not an address"),
        ("network.partition", {}, "either peers or a topology"),
        ("network.partition", {"peers": "10.0.0.2", "topology": "one"}, "either peers or"),
        ("network.partition", {"topology": "star"}, "topology"),
        ("network.partition", {"topology": "one", "groups": "a|b"}, "groups: go with"),
        ("network.loss", {"peers": "10.0.0.1/24", "percent": "1%"}, "host bits"),
        ("network.loss", {"peers": "fe80::1%eth0", "percent": "1%"}, "not an address"),
        ("network.loss", {"peers": "10.0.0.2", "percent": "0%"}, "above 0%"),
        ("network.loss", {"peers": "10.0.0.2", "percent": "101%"}, "at most 100%"),
        ("network.partition", {"peers": "10.0.0.2", "direction": "up"}, "direction"),
        ("network.partition", {"peers": "10.0.0.2", "ports": "0"}, "not a port"),
        ("network.partition", {"peers": "10.0.0.2", "ports": "9-8"}, "not a port"),
        ("network.partition", {"peers": "10.0.0.2", "ports": "70000"}, "not a port"),
        (
            "network.partition",
            {"peers": "10.0.0.2", "ports": "1-2,3-4,5-6,7-8,9-10,11-12,13-14,15-16"},
            "at most 15",
        ),
        ("network.partition", {"peers": "10.0.0.2", "ports": "1", "protocol": "icmp"}, "no ports"),
        ("network.partition", {"peers": ",".join(f"10.2.0.{i}" for i in range(65))}, "more than"),
        ("cpu.stress", {"percent": "0%"}, "above 0%"),
        ("cpu.stress", {"percent": "100.1%"}, "at most 100%"),
        ("memory.stress", {"percent": "15MiB"}, "unknown unit"),
    ],
)
def test_bad_input_is_one_clear_message(kind: str, given: dict[str, Any], what: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        faults.parse(kind, given)
    assert what in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("network.loss", {"peers": "10.0.0.2,web1", "percent": "1%"}),
        ("network.loss", {"peers": "role=db", "percent": "1%"}),
        ("network.partition", {"topology": "halves"}),
    ],
)
def test_what_only_the_controller_can_resolve_is_not_compiled(
    kind: str, given: dict[str, Any]
) -> None:
    """A keeper has no network to ask, and a guess might hit somebody else."""
    with pytest.raises(InvalidInput, match="only the controller"):
        compiled(kind, given)


def test_a_fault_that_is_a_file_in_the_package_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk_slow.py").write_text(
        "from chaos_core.envelope import Draw\n"
        "from chaos_core.faults import Fault\n"
        "class DiskSlow(Fault):\n"
        "    kind, summary, lease_holder, example = 'disk.slow', 's', 'l', ''\n"
        "    def draw(self): return Draw('destructive')\n"
        "    def compile(self, node, fault_id): return ()\n"
    )
    (tmp_path / "_helper.py").write_text("raise AssertionError('a helper is not a fault')\n")
    monkeypatch.setattr(faults, "__path__", [*faults.__path__, str(tmp_path)])
    faults.kinds.cache_clear()
    try:
        assert list(faults.kinds()) == sorted([*KINDS, "disk.slow"])
        assert faults.parse("disk.slow", {}).draw().fault_class == "destructive"
    finally:
        monkeypatch.undo()
        faults.kinds.cache_clear()
        sys.modules.pop("chaos_core.faults.disk_slow", None)
    assert list(faults.kinds()) == KINDS


# ── network faults ────────────────────────────────────────────────────────────────────────


@each_variant
def test_protected_traffic_returns_before_any_match_of_ours(
    kind: str, given: dict[str, str]
) -> None:
    chains = [effect for effect in compiled(kind, given) if isinstance(effect, Chain)]
    assert chains
    for chain in chains:
        ours = [i for i, rule in enumerate(chain.rules) if rule.target != "RETURN"]
        assert ours
        shield, rest = chain.rules[: ours[0]], chain.rules[ours[0] :]
        assert all(rule.target == "RETURN" for rule in shield)
        assert all(rule.match_set for rule in rest), "a rule that no lease holds"
        outward = chain.hook != "INPUT"
        for net in ("10.0.0.1/32", "10.9.0.0/16") if chain.family == 4 else ("fd00::1/128",):
            side = Rule("RETURN", destination=net) if outward else Rule("RETURN", source=net)
            assert side in shield
        for ssh in ({"source_ports": ("22",)}, {"destination_ports": ("22",)}):
            assert Rule("RETURN", protocol="tcp", **ssh) in shield  # type: ignore[arg-type]
        dhcp = ("67", "68") if chain.family == 4 else ("546", "547")
        assert Rule("RETURN", protocol="udp", destination_ports=dhcp) in shield
        assert Rule("RETURN", protocol="udp", source_ports=dhcp) in shield
        neighbours = [rule.icmpv6_type for rule in shield if rule.icmpv6_type]
        assert neighbours == (["133", "134", "135", "136", "137"] if chain.family == 6 else [])


@each_variant
def test_effects_are_named_ordered_and_survive_the_journal(
    kind: str, given: dict[str, str]
) -> None:
    done = compiled(kind, given)
    assert [effects.from_json(json.loads(json.dumps(effects.to_json(e)))) for e in done] == [*done]
    assert all(effects.describe(effect) for effect in done)
    sets: set[str] = set()
    pipes: dict[str, Pipe] = {}
    for effect in done:
        if isinstance(effect, LeasedSet | PulsedSet):
            assert not pipes
            assert len(effect.name) <= effects.MAX_SET_NAME
            assert ID in effect.name
            sets.add(effect.name)
        elif isinstance(effect, Pipe):
            assert len(effect.link) <= effects.MAX_LINK_NAME
            assert ID in effect.link
            pipes[effect.device] = effect
        elif isinstance(effect, Chain):
            assert len(effect.name) <= effects.MAX_CHAIN_NAME
            assert ID in effect.name
            for rule in effect.rules:
                assert not rule.match_set or rule.match_set in sets
                if rule.target == "MARK":
                    pipe = pipes[rule.out_device]
                    assert (rule.mark, rule.mask) == (pipe.mark, pipe.mask)


@each_variant
def test_directions_and_families_are_what_was_asked_for(kind: str, given: dict[str, str]) -> None:
    done = compiled(kind, given)
    chains = [effect for effect in done if isinstance(effect, Chain)]
    families = {4} if given["peers"] == V4 else {6} if given["peers"] == V6 else {4, 6}
    assert {chain.family for chain in chains} == families
    way = given.get("direction", getattr(faults.lookup(kind), "direction", "out"))
    inward = {chain.name: chain.name.endswith("-in") for chain in chains}
    assert set(inward.values()) == {way == "in", way != "out"}
    for chain in chains:
        own = ("INPUT",) if inward[chain.name] else ("OUTPUT", "POSTROUTING")
        assert chain.hook in (*own, "FORWARD")
        assert chain.name.startswith(f"CHAOS-{ID}-fwd-") == (chain.hook == "FORWARD")
        hits = [rule for rule in chain.rules if rule.match_set]
        assert {rule.set_side for rule in hits} == {"src" if inward[chain.name] else "dst"}
        if "ports" in given:
            far = [r.source_ports if inward[chain.name] else r.destination_ports for r in hits]
            assert set(far) == {("80", "8000:8010")}
    # Never a DROP on egress: the sender would see EPERM, but of TCP's own SYN.
    out = [rule for chain in chains if not inward[chain.name] for rule in chain.rules]
    assert not [rule for rule in out if rule.target == "DROP" and not rule.syn]
    pipes = [effect for effect in done if isinstance(effect, Pipe)]
    assert bool(pipes) == (way != "in" and chains[0].table == "mangle")
    assert {pipe.device for pipe in pipes} <= {"eth0", "eth1"}


def test_a_pipe_takes_a_preference_and_a_mark_that_are_free() -> None:
    node = replace(NODE, marks_in_use=frozenset({0x1000000}))
    given = {"peers": V4, "delay": "1ms"}
    pipes = [e for e in compiled("network.latency", given, node) if isinstance(e, Pipe)]
    assert [(p.device, p.pref, p.mark) for p in pipes] == [
        ("eth0", 2, 0x2000000),
        ("eth1", 1, 0x2000000),
    ]
    assert len({pipe.link for pipe in pipes}) == 2


@pytest.mark.parametrize("kind", NETWORK)
@pytest.mark.parametrize(
    ("peers", "what"),
    [
        ("10.0.0.1", "is protected"),
        ("fd00::1", "is protected"),
        ("10.9.8.0/24", "is protected"),
        ("10.0.0.2,10.9.0.0/16", "is protected"),
        ("10.0.0.9", "is the node itself"),
        ("fd00::9", "is the node itself"),
        ("127.0.0.1", "is the node itself"),
        ("127.0.0.0/8", "is the node itself"),
        ("::1", "is the node itself"),
    ],
)
def test_peers_that_must_not_be_hit_are_refused(kind: str, peers: str, what: str) -> None:
    with pytest.raises(Refused, match=what):
        compiled(kind, {"peers": peers, **MORE.get(kind, {})})


@each_variant
def test_without_a_route_or_by_the_wrong_interface_nothing_compiles(
    kind: str, given: dict[str, str]
) -> None:
    if "interface" not in given:
        with pytest.raises(InvalidInput, match="no route to"):
            compiled(kind, given, replace(NODE, ways={}, elsewhere=NO_WAY))
    with pytest.raises(InvalidInput, match="has no 'eth9'"):
        compiled(kind, {**given, "interface": "eth9"})
    with pytest.raises(Refused, match="loopback"):
        compiled(kind, {**given, "interface": "lo"})
    with_interface = {**given, "interface": "eth1"}
    by_eth1 = replace(NODE, ways={}, elsewhere=Way(("eth1",)), protected=Protected())
    assert compiled(kind, with_interface, by_eth1)
    elsewhere = replace(NODE, ways={}, elsewhere=Way(("eth0",)))
    if given.get("direction") == "in":  # it may arrive by another interface than the reply's
        assert compiled(kind, with_interface, elsewhere)
    else:
        with pytest.raises(InvalidInput, match=r"eth1 of node example has no way to .*\n.*eth0"):
            compiled(kind, with_interface, elsewhere)


@pytest.mark.parametrize(
    ("peers", "entries"),
    [
        ("0.0.0.0/0", ("0.0.0.0/1", "128.0.0.0/1")),
        ("::/0", ("::/1", "8000::/1")),
        ("10.0.0.0/25,10.0.0.128/25,10.0.0.7", ("10.0.0.0/24",)),
    ],
)
def test_a_set_can_hold_its_entries(peers: str, entries: tuple[str, ...]) -> None:
    sets = compiled("network.partition", {"peers": peers})[0]
    assert isinstance(sets, LeasedSet)
    assert sets.entries == entries


def test_peers_behind_more_interfaces_than_can_be_named_are_refused() -> None:
    names = [f"cali{number}" for number in range(200)]
    node = replace(
        NODE,
        devices=tuple(Device(name) for name in names),
        ways={"10.0.1.0/24": Way(tuple(names))},
    )
    with pytest.raises(InvalidInput, match="200 interfaces"):
        compiled("network.latency", {"peers": "10.0.1.0/24", "delay": "1ms"}, node)
    one = {"peers": "10.0.1.0/24", "delay": "1ms", "interface": "cali7"}
    assert len(compiled("network.latency", one, node)) == 3


@pytest.mark.parametrize("ports", [80, [80], ["80"], "80", ("80",)])
def test_ports_may_be_written_as_a_number(ports: object) -> None:
    fault = faults.parse("network.partition", {"peers": "10.0.0.2", "ports": ports})
    assert fault.model_dump()["ports"] == ("80",)


def test_a_certain_loss_is_a_plain_drop() -> None:
    given = {"peers": "10.0.0.2", "percent": "100%", "direction": "in"}
    chain = compiled("network.loss", given)[-1]
    assert isinstance(chain, Chain)
    assert (chain.rules[-1].target, chain.rules[-1].probability) == ("DROP", 0)


def test_loss_both_ways_draws_twice() -> None:
    fault = faults.parse("network.loss", {**params("network.loss"), "direction": "both"})
    assert fault.draw().loss == Percent.parse("2%")


def test_the_queue_holds_what_the_delay_keeps() -> None:
    assert queue_limit(0) == 10_000
    assert queue_limit(50_000) > 50_000 * 10e9 / 8 / 1500 / 1e6 - 1
    assert queue_limit(30_000_000) == 200_000


# ── holders ───────────────────────────────────────────────────────────────────────────────


@given(cpus=st.integers(1, 512), share=st.integers(1, 1_000_000))
@quick
def test_a_cpu_quota_never_takes_more_than_was_drawn(cpus: int, share: int) -> None:
    node = replace(NODE, cpus=cpus)
    fault = faults.parse("cpu.stress", {"percent": Percent(share)})
    if share * cpus < 10_000:  # less than the kernel's least quota
        with pytest.raises(InvalidInput, match="less than a quota"):
            fault.compile(node, ID)
        return
    (holder,) = fault.compile(node, ID)
    assert isinstance(holder, Holder)
    assert holder.cpu_quota >= 1_000
    assert holder.cpu_quota * 1_000_000 <= share * cpus * holder.cpu_period
    assert 1 <= holder.workers <= cpus
    assert holder.workers * holder.cpu_period >= holder.cpu_quota
    assert len(holder.name) <= effects.MAX_LINK_NAME


@given(total=st.integers(2**26, 2**45), share=st.integers(1, 1_000_000))
@quick
def test_memory_never_takes_more_than_was_drawn(total: int, share: int) -> None:
    node = replace(NODE, memory_total=total)
    (holder,) = faults.parse("memory.stress", {"percent": Percent(share)}).compile(node, ID)
    assert isinstance(holder, Holder)
    assert holder.memory * 1_000_000 <= share * total
    assert holder.memory <= holder.memory_max <= holder.memory * 1.01 + 4 * 2**20


# ── the node ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mask", [0x0F000000, 0x80000000, 0x1, 0x50000])
def test_marks_stay_inside_the_mask_and_run_out(mask: int) -> None:
    taken: set[int] = set()
    for _ in range(mask.bit_count()):
        mark = replace(NODE, mark_mask=mask, marks_in_use=frozenset(taken)).free_mark()
        assert mark.bit_count() == 1
        assert mark & mask == mark
        assert mark not in taken
        taken.add(mark)
    with pytest.raises(Unsupported, match="in use"):
        replace(NODE, mark_mask=mask, marks_in_use=frozenset(taken)).free_mark()


def test_an_empty_mask_gives_no_mark() -> None:
    with pytest.raises(ChaosError):
        replace(NODE, mark_mask=0).free_mark()


def test_a_fault_cannot_be_changed_after_it_was_checked() -> None:
    fault: Fault = faults.parse("cpu.stress", {"percent": "1%"})
    with pytest.raises(ValueError, match="frozen"):
        fault.percent = Percent(1)  # type: ignore[attr-defined]


def test_parameters_from_a_command_line_are_key_equals_value() -> None:
    words = ["delay=50ms", "peers=a=b"]
    assert faults.from_words(words) == {"delay": "50ms", "peers": "a=b"}
    for wrong in (["delay"], ["=5"], ["a=1", "a=2"]):
        with pytest.raises(InvalidInput):
            faults.from_words(wrong)


# ── services ──────────────────────────────────────────────────────────────────────────────

SERVICES = ["process.pause", "unit.stop"]
APP = UnitFacts("app.service", active=True)
WITH_APP = replace(
    NODE,
    systemd=True,
    units={"app.service": APP, "front.service": APP},
    protected=replace(NODE.protected, units=("postgresql*",)),
)


@pytest.mark.parametrize("kind", SERVICES)
@pytest.mark.parametrize("name", ["app", "app.service", "front"])
def test_a_service_is_hurt_under_a_timer_that_comes_first(kind: str, name: str) -> None:
    timer, unit = compiled(kind, {"unit": name}, WITH_APP)
    assert unit == Unit("app.service", "frozen" if kind == "process.pause" else "stopped")
    assert timer == UndoTimer(f"chs-{ID}", (effects.to_text(unit),))
    assert effects.from_text(timer.undo[0]) == unit


@pytest.mark.parametrize("profile", ["production", "staging", "lab"])
def test_without_systemd_only_the_lab_goes_without_a_timer(profile: str) -> None:
    node = replace(WITH_APP, systemd=False, profile=profile)
    if profile == "lab":
        assert compiled("unit.stop", {"unit": "app"}, node) == (Unit("app.service", "stopped"),)
        return
    with pytest.raises(Refused, match="no systemd"):
        compiled("unit.stop", {"unit": "app"}, node)


@pytest.mark.parametrize("kind", SERVICES)
@pytest.mark.parametrize(
    "facts",
    [
        replace(APP, id="ssh.service"),  # app is an alias of it
        replace(APP, id="postgresql@15-main.service"),
        replace(APP, active=False),
        replace(APP, frozen=True),
    ],
)
def test_a_service_that_matters_or_is_not_running_is_refused(kind: str, facts: UnitFacts) -> None:
    with pytest.raises(Refused):
        compiled(kind, {"unit": "app"}, replace(WITH_APP, units={"app.service": facts}))


@pytest.mark.parametrize("kind", SERVICES)
@pytest.mark.parametrize(
    "name", ["", "a b", "user.slice", "x.socket", "app@.service", "../etc", "-.mount", "a" * 201]
)
def test_what_is_no_services_name_is_refused(kind: str, name: str) -> None:
    with pytest.raises(InvalidInput, match="unit"):
        faults.parse(kind, {"unit": name})


def test_our_own_services_are_protected_in_every_profile() -> None:
    for name in ("chaos-agent", "chaos-link", "chaos-controller", "sshd", "systemd-journald"):
        own = UnitFacts(f"{name}.service", active=True)
        with pytest.raises(Refused, match="protected"):
            compiled("unit.stop", {"unit": name}, replace(WITH_APP, units={own.id: own}))


@pytest.mark.parametrize("kind", ["unit.stop", "unit.restart"])
def test_a_service_whose_end_takes_others_along_is_refused(kind: str) -> None:
    """They would be stopped too, without anybody to start them again."""
    needed = replace(APP, dependents=("web.service", "worker.service"))
    with pytest.raises(Refused, match=r"web\.service, worker\.service"):
        compiled(kind, {"unit": "app"}, replace(WITH_APP, units={"app.service": needed}))


def test_a_pause_takes_nobody_along() -> None:
    needed = replace(APP, dependents=("web.service",))
    assert compiled("process.pause", {"unit": "app"}, replace(WITH_APP, units={APP.id: needed}))


@pytest.mark.parametrize(
    "name", ["qemu-guest-agent", "google-guest-agent", "amazon-ssm-agent", "walinuxagent"]
)
def test_what_the_host_of_a_vm_reaches_it_by_is_protected(name: str) -> None:
    agent = UnitFacts(f"{name}.service", active=True)
    with pytest.raises(Refused, match="protected"):
        compiled("unit.stop", {"unit": name}, replace(WITH_APP, units={agent.id: agent}))


def test_a_restart_knows_which_invocation_it_ends() -> None:
    node = replace(WITH_APP, units={"app.service": replace(APP, invocation="ab12")})
    assert compiled("unit.restart", {"unit": "app"}, node) == (Restart("app.service", "ab12"),)


OLD = ProcessFacts(70, 100, "worker", "app.service")
NEW = ProcessFacts(60, 200, "worker", "app.service")


def test_processes_are_killed_by_identity_the_oldest_first() -> None:
    node = replace(NODE, processes=(NEW, OLD))
    assert compiled("process.kill", {"unit": "app"}, node) == (
        Kill(((70, 100), (60, 200)), "SIGKILL", fatal=True),
    )
    given = {"cmdline": "work", "signal": "HUP", "count": 1}
    assert compiled("process.kill", given, node) == (Kill(((70, 100),), "SIGHUP", fatal=False),)


@pytest.mark.parametrize(
    ("process", "why"),
    [
        (ProcessFacts(1, 1, "systemd"), "PID 1"),
        (ProcessFacts(9, 1, "kworker", kernel=True), "kernel"),
        (replace(NEW, unit="chaos-agent.service"), "protected"),
        (replace(NEW, unit="ssh.service"), "protected"),
        (replace(NEW, unit="postgresql@15-main.service"), "protected"),
    ],
)
def test_one_process_that_matters_refuses_the_whole_kill(process: ProcessFacts, why: str) -> None:
    node = replace(WITH_APP, processes=(OLD, process))
    with pytest.raises(Refused, match=why):
        compiled("process.kill", {"cmdline": "."}, node)


@pytest.mark.parametrize(
    "given",
    [{}, {"signal": "KILL"}, {"unit": "app", "signal": "STOP"}, {"pid": -1},
     {"cmdline": "x" * 201}, {"unit": "user.slice"}, {"unit": "app", "count": -1},
     {"port": 65536}, {"port": -1}],
)  # fmt: skip
def test_a_kill_that_selects_nothing_or_nonsense_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        faults.parse("process.kill", given)
    with pytest.raises(InvalidInput, match="no process"):
        compiled("process.kill", {"unit": "app"}, replace(NODE, processes=()))
    with pytest.raises(InvalidInput, match="lists who listens"):
        compiled("process.kill", {"port": 5432}, replace(NODE, processes=()))


def test_text_that_is_no_effect_is_refused() -> None:
    for text in ("", "[]", "{", '{"effect": "Nothing"}', '{"effect": "Unit", "units": 1}'):
        with pytest.raises(InvalidInput):
            effects.from_text(text)
