"""Supervisor and engine on a real kernel: leases, limits, and nothing left behind."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chaos_agent.effects.chain import ChainOps
from chaos_agent.engine import Engine
from chaos_agent.journal import Journal
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.xtables import Xtables
from chaos_core.errors import Busy, Unsupported
from chaos_core.messages import Release, Revert

SECOND = 1_000_000


@pytest.mark.usefixtures("kernel")
def test_a_fault_bites_and_a_revert_leaves_nothing(node: Any, net: Any, users: Any) -> None:
    before = users.listing()
    fault = node.partition()
    assert node.status(fault).state == "in_force"
    assert not net.ping_from_peer(4, net.peer[4])
    assert net.ping_from_peer(4, net.bystander[4])
    node.supervisor.obey(Revert(), now_us())
    assert (node.status(fault).state, node.status(fault).clean) == ("ended", True)
    assert net.ping_from_peer(4, net.peer[4])
    assert users.listing() == before


@pytest.mark.guest
def test_latency_is_added_and_taken_away(node: Any, net: Any, users: Any) -> None:
    before = users.listing()
    fault = node.apply("network.latency", peers="10.9.0.2,fd09::2", delay="40ms")
    assert node.status(fault).state == "in_force"
    for family in (4, 6):
        assert all(40 <= rtt < 60 for rtt in net.ping(net.peer[family]))
        assert all(rtt < 20 for rtt in net.ping(net.bystander[family]))
    node.supervisor.obey(Revert(fault=fault), now_us())
    assert node.status(fault).clean
    assert all(rtt < 20 for rtt in net.ping(net.peer[4]))
    assert users.listing() == before


def test_a_lease_that_is_not_renewed_ends_the_fault(node: Any) -> None:
    fault = node.partition()
    node.supervisor.tick(now_us() + 2 * SECOND)
    assert node.status(fault).state == "in_force"
    node.supervisor.tick(now_us() + 3 * SECOND)
    assert (node.status(fault).state, node.status(fault).reason) == ("ended", "lease")


def test_a_grant_renews_the_runs_that_it_names_and_no_others(node: Any) -> None:
    mine, other = node.partition(run="r-1"), node.partition(run="r-2", peers="10.9.0.3")
    was = {fault: node.status(fault).expires_at for fault in (mine, other)}
    node.grant("r-1")
    assert node.status(mine).expires_at > was[mine]
    assert node.status(other).expires_at == was[other]


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("error", [Unsupported("refused"), ValueError("a defect")])
def test_one_renewal_that_fails_in_any_way_keeps_no_other_from_being_renewed(
    node: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """It ends the fault that it is for, and no other."""
    bad, good = node.partition(), node.partition(peers="10.9.0.3")
    renew, was = Engine.renew, node.status(good).expires_at

    def silent(engine: Engine, fault: str, hold_until: int) -> None:
        if fault == bad:
            raise error
        renew(engine, fault, hold_until)

    monkeypatch.setattr(Engine, "renew", silent)
    node.grant("r-1")
    assert (node.status(bad).state, node.status(bad).clean) == ("ended", True)
    assert str(error) in node.status(bad).detail
    assert node.status(good).state == "in_force"
    assert node.status(good).expires_at > was
    # A defect is for people to look at, also when nothing is left of the fault.
    assert bool(node.supervisor.quarantine) == isinstance(error, ValueError)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("verb", ["renew", "check"])
@pytest.mark.parametrize("times", [1, 2])
def test_what_is_busy_is_asked_again_before_a_fault_ends(
    node: Any, monkeypatch: pytest.MonkeyPatch, verb: str, times: int
) -> None:
    """PID 1 is silent during a reload, or another program holds the xtables lock."""
    fault, calls = node.partition(), []
    works = getattr(Engine, verb)

    def silent(*words: Any) -> None:
        calls.append(words)
        if len(calls) <= times:
            raise Busy("systemd has not answered")
        works(*words)

    monkeypatch.setattr(Engine, verb, silent)
    node.grant("r-1")
    node.look()
    node.look()
    status = node.status(fault)
    if times == 1:
        assert status.state == "in_force"
    else:
        assert (status.state, status.reason, status.clean) == ("ended", "disturbed", True)
    assert node.supervisor.quarantine == []


@pytest.mark.parametrize("step", ["apply", "verify", "revert", "absent"])
def test_a_defect_in_any_step_ends_its_fault_and_nothing_else(
    node: Any, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    good = node.partition(peers="10.9.0.3")
    works, broken = getattr(ChainOps, step), [True]

    def breaks(ops: Any, host: Any, effect: Any, *more: Any) -> Any:
        if broken[0] and effect.name.startswith("CHAOS-00000002"):
            raise KeyError("a defect")
        return works(ops, host, effect, *more)

    monkeypatch.setattr(ChainOps, step, breaks)
    bad = node.partition()
    node.look()
    node.supervisor.obey(Revert(fault=bad), now_us())
    broken[0] = False
    assert node.status(bad).state == "ended"
    assert node.status(good).state == "in_force"
    assert node.engine.standing.keys() == {good}
    assert "the agent has failed: KeyError: 'a defect' (" in node.supervisor.quarantine[0]


def test_a_revert_is_tried_until_it_is_clean(
    node: Any, sh: Callable[..., str], lock_held: Callable[[float], Any]
) -> None:
    fault = node.partition()
    with lock_held(2.5):
        began = time.monotonic()
        node.supervisor.obey(Revert(fault=fault), now_us())
        node.supervisor.obey(Revert(fault=fault), now_us())
        assert time.monotonic() - began < 2  # it waits for the lock once
        beat = node.supervisor.heartbeat(now_us())
        assert [one.state for one in beat.faults] == ["reverting"]
        assert "xtables.lock" in beat.faults[0].detail
    status = node.status(fault)
    assert (status.state, status.reason, status.clean) == ("ended", "revert", True)
    assert node.supervisor.quarantine == []
    assert "CHAOS" not in sh("iptables-legacy-save")


def test_a_keeper_that_stops_leaves_to_recover_what_it_cannot_end(
    node: Any, new_node: Callable[..., Any], sh: Callable[..., str]
) -> None:
    fault = node.partition()
    undo = hold_on_to_our_set(sh, fault)
    node.supervisor.end_all("shutdown", now_us())
    assert [intent.fault for intent in node.engine.journal.open_intents()] == [fault]
    sh(*undo)
    assert new_node().engine.journal.open_intents() == node.engine.journal.open_intents()


def test_the_duration_ends_a_fault_however_often_it_is_renewed(node: Any) -> None:
    fault = node.partition(seconds=2)
    node.grant("r-1")
    node.supervisor.tick(now_us() + 2 * SECOND)
    assert (node.status(fault).reason, node.status(fault).clean) == ("duration", True)


def test_a_lower_epoch_is_not_obeyed_but_a_revert_always_is(
    node: Any, new_node: Callable[..., Any]
) -> None:
    fault = node.partition(epoch=7)
    expires_at = node.status(fault).expires_at
    node.grant("r-1", epoch=6)
    assert node.status(fault).expires_at == expires_at
    assert node.status(node.partition(epoch=6)).code == "fenced"
    node.supervisor.obey(Revert(fault=fault), now_us())
    assert node.status(fault).state == "ended"
    again = new_node()  # the epoch was kept on disk
    again.faults = 50
    assert again.status(again.partition(epoch=6)).code == "fenced"


def test_the_envelope_is_the_nodes_own(new_node: Callable[..., Any]) -> None:
    node = new_node("production")
    assert node.status(node.partition()).code == "envelope"
    assert node.status(node.apply("cpu.stress", percent="16%")).code == "envelope"
    assert node.status(node.apply("cpu.stress", percent="10%")).state == "applying"
    assert node.status(node.apply("cpu.stress", percent="10%")).code == "envelope"
    assert node.status(node.apply("cpu.stress", percent="1%", run="r-2")).code == "envelope"
    node.supervisor.end_all("test", now_us())
    assert not node.engine.standing


@pytest.mark.parametrize(
    ("kind", "params", "code"),
    [
        ("network.latncy", {}, "invalid"),
        ("cpu.stress", {"percent": 15}, "invalid"),
        ("cpu.stress", {"percent": "1%", "nodes": "2"}, "invalid"),
        ("network.latency", {"peers": "10.9.0.1", "delay": "1ms"}, "refused"),
        ("network.latency", {"peers": "203.0.113.1", "delay": "1ms"}, "invalid"),
        ("network.latency", {"peers": "10.9.0.2", "delay": "1ms", "interface": "v7"}, "invalid"),
    ],
)
def test_nonsense_is_refused_before_anything_is_done(
    node: Any, tmp_path: Path, kind: str, params: dict[str, Any], code: str
) -> None:
    status = node.status(node.apply(kind, **params))
    assert (status.state, status.code) == ("refused", code)
    assert (tmp_path / "state" / "journal").read_bytes() == b""


def test_what_this_kernel_lacks_is_refused_and_nothing_is_left(
    node: Any, users: Any, tmp_path: Path
) -> None:
    before = users.listing()
    status = node.status(node.apply("network.latency", peers="10.9.0.2", delay="1ms"))
    assert (status.state, status.code) == ("refused", "unsupported")
    assert "netem" in status.detail
    assert users.listing() == before
    assert Journal(tmp_path / "state").open_intents() == []


def test_a_change_by_somebody_else_ends_the_fault(node: Any, sh: Callable[..., str]) -> None:
    fault = node.partition()
    sh("iptables-legacy", "-F", f"CHAOS-{fault}-in")
    node.supervisor.tick(now_us() + 1 * SECOND)
    status = node.status(fault)
    assert (status.state, status.reason, status.clean) == ("ended", "disturbed", True)
    assert "CHAOS" not in sh("iptables-legacy-save")


def hold_on_to_our_set(sh: Callable[..., str], fault: str) -> tuple[str, ...]:
    """Make a rule that keeps our set from being destroyed; returns what undoes that."""
    rule = ("-m", "set", "--match-set", f"chs-{fault}-4", "src", "-j", "ACCEPT")
    sh("iptables-legacy", "-A", "FORWARD", *rule)
    return ("iptables-legacy", "-D", "FORWARD", *rule)


def test_what_we_leave_behind_quarantines_the_node_until_it_is_released(
    node: Any, new_node: Callable[..., Any], sh: Callable[..., str], tmp_path: Path
) -> None:
    fault = node.partition()
    undo = hold_on_to_our_set(sh, fault)
    node.supervisor.obey(Revert(), now_us())
    node.give_up()
    assert not node.status(fault).clean
    refused = node.status(node.partition())
    assert refused.state == "refused"
    assert "quarantined" in refused.detail
    assert f"chs-{fault}-4" in refused.detail
    again = new_node()  # also after a restart
    assert f"chs-{fault}-4" in again.supervisor.quarantine[0]
    node.supervisor.obey(Release(epoch=1, reason="looked"), now_us())
    assert f"chs-{fault}-4" in node.supervisor.heartbeat(now_us()).quarantine[0]
    sh(*undo)
    node.supervisor.obey(Release(epoch=1, reason="looked"), now_us())
    assert node.supervisor.heartbeat(now_us()).quarantine == ()
    assert not (tmp_path / "state" / "quarantine").exists()
    assert node.status(node.partition()).state == "in_force"


def test_what_one_fault_leaves_is_told_beside_what_another_has_left(
    node: Any, new_node: Callable[..., Any], sh: Callable[..., str]
) -> None:
    faults = node.partition(), node.partition(run="r-2", peers="10.9.0.3")
    for fault in faults:
        hold_on_to_our_set(sh, fault)
    node.supervisor.obey(Revert(), now_us())
    node.give_up()
    for told in (node.supervisor.quarantine, new_node().supervisor.quarantine):
        for fault in faults:
            assert any(f"chs-{fault}-4" in line for line in told), told


@pytest.mark.parametrize("step", ["apply", "revert"])
def test_what_we_break_quarantines_the_node(
    node: Any, sh: Callable[..., str], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A defect of ours takes a rule of the user's along, in the commit to the table."""
    sh("iptables-legacy", "-A", "INPUT", "-s", "192.0.2.9", "-j", "DROP")
    works, steps = Xtables._change, []

    def clumsy(self: Any, family: Any, table: str, where: str, asked: Any) -> None:
        def more(handle: Any) -> Any:
            done = asked(handle)
            if step in steps:
                handle.flush_entries("INPUT")
            return done

        works(self, family, table, where, more)

    monkeypatch.setattr(Xtables, "_change", clumsy)
    steps.append("apply")
    node.partition()
    steps.append("revert")
    node.supervisor.obey(Revert(), now_us())
    node.give_up()
    assert "has changed rules of others" in node.supervisor.quarantine[0]
    assert not node.engine.standing


def test_what_others_change_meanwhile_is_told_and_quarantines_nothing(
    node: Any, sh: Callable[..., str]
) -> None:
    sh("iptables-legacy", "-A", "INPUT", "-s", "192.0.2.8", "-j", "DROP")
    fault = node.partition()
    sh("iptables-legacy", "-A", "INPUT", "-s", "192.0.2.9", "-j", "DROP")
    sh("iptables-legacy", "-D", "INPUT", "-s", "192.0.2.8", "-j", "DROP")
    node.supervisor.obey(Revert(), now_us())
    status = node.status(fault)
    assert status.clean
    told = status.detail.removeprefix("changed by others during the fault: ").split("; ")
    assert [line.split("#")[0] for line in told] == [
        "- rules: IPv4 filter INPUT 1: -s 192.0.2.8/32 -j DROP ",
        "+ rules: IPv4 filter INPUT 1: -s 192.0.2.9/32 -j DROP ",
    ]
    assert node.supervisor.quarantine == []


def test_two_faults_end_independently(node: Any, net: Any, users: Any) -> None:
    before = users.listing()
    first = node.partition()
    second = node.partition(run="r-2", peers="10.9.0.3")
    node.supervisor.obey(Revert(fault=first), now_us())
    assert node.status(first).clean
    assert net.ping_from_peer(4, net.peer[4])
    assert not net.ping_from_peer(4, net.bystander[4])
    assert node.status(second).state == "in_force"
    node.supervisor.obey(Revert(fault=second), now_us())
    assert node.status(second).clean
    assert users.listing() == before


@pytest.mark.guest
def test_two_pipes_on_one_device_end_independently(node: Any, net: Any, users: Any) -> None:
    before = users.listing()
    first = node.apply("network.latency", peers="10.9.0.2", delay="40ms")
    second = node.apply("network.latency", peers="10.9.0.3", delay="80ms", run="r-2")
    # A busy machine makes some slower than their delay, and none faster.
    assert 40 <= min(net.ping(net.peer[4])) < 60
    assert 80 <= min(net.ping(net.bystander[4])) < 100
    node.grant("r-1", "r-2")
    node.supervisor.obey(Revert(fault=first), now_us())
    assert node.status(first).clean
    assert min(net.ping(net.peer[4])) < 20
    assert 80 <= min(net.ping(net.bystander[4])) < 100
    node.supervisor.obey(Revert(fault=second), now_us())
    assert node.status(second).clean
    assert users.listing() == before


@pytest.mark.guest
def test_faults_on_two_interfaces_add_up_and_end_each_for_itself(
    new_node: Callable[..., Any], net: Any, sh: Callable[..., str], listing: Any
) -> None:
    sh("ip", "link", "add", "w0", "type", "veth", "peer", "name", "w1")
    net.take("w1")
    for run, device, end in ((sh, "w0", 1), (net.there, "w1", 2)):
        run("ip", "addr", "add", f"10.8.0.{end}/24", "dev", device)
        run("ip", "addr", "add", f"fd08::{end}/64", "dev", device, "nodad")
        run("ip", "link", "set", device, "up")
    node = new_node("staging")
    before = listing()
    first = node.apply("network.latency", peers="10.9.0.2,fd09::2", delay="60ms")
    second = node.apply("network.latency", peers="10.8.0.2,fd08::2", delay="150ms")
    node.grant("r-1")
    third = node.apply("network.latency", peers="10.9.0.4", delay="291ms")
    assert node.status(third).state == "refused"
    assert "latency 291ms (with 210ms in force)" in node.status(third).detail

    def late(address: str, least: float, most: float) -> bool:
        node.grant("r-1")
        found = min(net.ping(address))
        assert least <= found < most, (address, found, node.status(first), node.status(second))
        return True

    assert late("10.9.0.2", 60, 150)
    assert late("fd09::2", 60, 150)
    assert late("10.8.0.2", 150, 300)
    assert late("fd08::2", 150, 300)
    assert late("10.9.0.3", 0, 60)
    assert listing() == before
    node.supervisor.obey(Revert(fault=first), now_us())
    assert (node.status(first).clean, node.status(first).detail) == (True, "")
    assert late("10.9.0.2", 0, 60)
    assert late("10.8.0.2", 150, 300)
    node.look()
    assert node.status(second).state == "in_force", node.status(second).detail
    node.supervisor.obey(Revert(fault=second), now_us())
    assert (node.status(second).clean, node.engine.residue()) == (True, [])
    assert late("fd08::2", 0, 60)
    assert listing() == before
