"""``recover`` takes off what a dead keeper left: with a journal, with half of one, without."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chaos_agent.config import AgentConfig
from chaos_agent.engine import Engine
from chaos_agent.journal import Journal
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.host import Host
from chaos_agent.linux.systemd import Systemd
from chaos_agent.offers import node_view
from chaos_agent.recover import recover
from chaos_core.faults import parse
from chaos_core.lease import Lease
from chaos_core.log import Log

FAULT = "0a1b2c3d"


def crash(host: Host, state: Path, kind: str, **params: str) -> None:
    """Start a fault and forget about it, as a killed keeper does."""
    config = AgentConfig(node="n1", state=state)
    engine = Engine(host, Journal(state), lambda fault: node_view(config, host, fault), now_us)
    now = now_us()
    lease = Lease(FAULT, "r-1", 1, now, now + 60_000_000, now + 60_000_000)
    engine.start("r-1", parse(kind, params), lease)


def partition(host: Host, state: Path) -> None:
    crash(host, state, "network.partition", peers="10.9.0.2", direction="in", action="reject")


def recovered(state: Path) -> Any:
    with Host() as fresh:
        return recover(fresh, state, now_us, Log.to_stderr("test"))


def last_entry(state: Path) -> dict[str, Any]:
    return list(Journal(state).entries())[-1]


def test_what_a_crash_left_is_taken_off(host: Host, net: Any, users: Any, tmp_path: Path) -> None:
    before = users.listing()
    partition(host, tmp_path)
    assert not net.ping_from_peer(4, net.peer[4])
    report = recovered(tmp_path)
    assert report.faults == [f"{FAULT} (network.partition): recover"]
    assert report.difference == []
    assert net.ping_from_peer(4, net.peer[4])
    assert users.listing() == before
    assert (last_entry(tmp_path)["reason"], last_entry(tmp_path)["difference"]) == ("recover", [])
    again = recovered(tmp_path)
    assert (again.faults, again.swept, again.difference) == ([], [], [])


@pytest.mark.guest
def test_a_pipe_that_a_crash_left_is_taken_off(host: Host, users: Any, tmp_path: Path) -> None:
    before = users.listing()
    crash(host, tmp_path, "network.latency", peers="10.9.0.2", delay="40ms")
    assert recovered(tmp_path).difference == []
    assert users.listing() == before


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.99])
def test_a_journal_cut_anywhere_is_enough(
    host: Host, users: Any, tmp_path: Path, share: float
) -> None:
    before = users.listing()
    partition(host, tmp_path)
    journal = tmp_path / "journal"
    whole = journal.read_bytes()
    journal.write_bytes(whole[: int(len(whole) * share)])
    report = recovered(tmp_path)
    assert report.swept
    assert report.difference == []
    assert users.listing() == before


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_a_journal_damaged_anywhere_is_said_and_undone(
    host: Host, users: Any, tmp_path: Path, share: float
) -> None:
    before = users.listing()
    partition(host, tmp_path)
    journal = tmp_path / "journal"
    whole = bytearray(journal.read_bytes())
    whole[int(len(whole) * share)] ^= 1
    journal.write_bytes(whole)
    report = recovered(tmp_path)
    assert users.listing() == before
    assert report.swept
    (line,) = report.difference
    assert "1 entries cannot be read" in line
    assert json.loads((tmp_path / "quarantine").read_text()) == [line]
    assert (tmp_path / "journal.damaged").read_bytes() == whole
    assert recovered(tmp_path).difference == []  # it is said once


def test_a_holder_that_a_crash_left_is_ended(host: Host, tmp_path: Path) -> None:
    crash(host, tmp_path, "cpu.stress", percent="5%")
    assert host.cgroups.names()
    assert recovered(tmp_path).difference == []
    assert host.cgroups.names() == []


def test_after_a_reboot_the_journal_says_so(host: Host, tmp_path: Path) -> None:
    partition(host, tmp_path)
    journal = tmp_path / "journal"
    (entry,) = (json.loads(line.partition(b" ")[2]) for line in journal.read_bytes().splitlines())
    data = json.dumps({**entry, "boot": "another"}).encode()
    journal.write_bytes(b"%08x %s\n" % (zlib.crc32(data), data))
    assert recovered(tmp_path).faults == [f"{FAULT} (network.partition): reboot"]
    assert last_entry(tmp_path)["reason"] == "reboot"


def test_a_difference_is_kept_as_quarantine(
    host: Host, sh: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition(host, tmp_path)
    hold_on = ("-m", "set", "--match-set", f"chs-{FAULT}-4", "src", "-j", "ACCEPT")
    sh("iptables-legacy", "-A", "FORWARD", *hold_on)
    monkeypatch.setattr("chaos_agent.recover._BUDGET", 500_000)
    report = recovered(tmp_path)
    assert all(f"chs-{FAULT}-4" in line for line in report.difference)
    assert json.loads((tmp_path / "quarantine").read_text()) == [*dict.fromkeys(report.difference)]


def test_what_others_have_changed_meanwhile_is_no_difference(
    host: Host, sh: Callable[..., str], tmp_path: Path
) -> None:
    sh("iptables-legacy", "-A", "INPUT", "-s", "192.0.2.8", "-j", "DROP")
    partition(host, tmp_path)
    sh("iptables-legacy", "-A", "INPUT", "-s", "192.0.2.9", "-j", "DROP")
    sh("iptables-legacy", "-D", "INPUT", "-s", "192.0.2.8", "-j", "DROP")
    assert recovered(tmp_path).difference == []
    assert not (tmp_path / "quarantine").exists()


def test_a_lock_that_is_held_for_a_while_is_waited_for(
    host: Host, tmp_path: Path, lock_held: Callable[[float], Any]
) -> None:
    """kube-proxy's and Docker's restores of a big table hold it for seconds."""
    partition(host, tmp_path)
    with lock_held(2.5):
        assert recovered(tmp_path).difference == []
    assert host.xtables.chains(4, "filter").keys() == {"INPUT", "FORWARD", "OUTPUT"}


def test_a_difference_does_not_replace_what_a_node_is_quarantined_for(
    host: Host, sh: Callable[..., str], tmp_path: Path
) -> None:
    partition(host, tmp_path)
    (tmp_path / "quarantine").write_text('["fault 0: - rules: one of the user\'s"]')
    sh("iptables-legacy", "-A", "INPUT", "-s", "192.0.2.9", "-j", "DROP")
    report = recovered(tmp_path)
    kept = json.loads((tmp_path / "quarantine").read_text())
    assert kept == ["fault 0: - rules: one of the user's", *report.difference]


def test_without_a_state_directory_the_sweep_runs_all_the_same(
    host: Host, users: Any, tmp_path: Path
) -> None:
    before = users.listing()
    partition(host, tmp_path / "state")
    blocked = tmp_path / "blocked"
    blocked.write_text("a file in the way")
    report = recovered(blocked)
    assert users.listing() == before
    assert str(blocked) in report.difference[0]


def test_what_goes_while_the_machine_goes_down_is_left_to_the_next_boot(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that stops takes its link along, and nobody is to be quarantined for that."""
    partition(host, tmp_path)
    monkeypatch.setattr("chaos_agent.recover._compare", lambda *_: ["- links: near veth up"])
    monkeypatch.setattr(Systemd, "going_down", lambda _: True)
    assert recovered(tmp_path).difference == []
    assert [intent.fault for intent in Journal(tmp_path).open_intents()] == [FAULT]
    monkeypatch.setattr(Systemd, "going_down", lambda _: False)
    assert recovered(tmp_path).difference == [f"fault {FAULT}: - links: near veth up"]
