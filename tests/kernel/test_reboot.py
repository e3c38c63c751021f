"""A node is rebooted once, whatever is found in its journal and whoever reads it, and when.

This machine is not: its systemd only counts how often it is told to, and a boot is another
number in a file. What a reboot really is, ``tests/vm/test_reboot.py`` sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chaos_agent.config import AgentConfig
from chaos_agent.engine import Engine
from chaos_agent.journal import Journal
from chaos_agent.linux import boottime
from chaos_agent.linux.boottime import boot_id, now_us
from chaos_agent.linux.host import Host
from chaos_agent.linux.systemd import Systemd
from chaos_agent.offers import node_view
from chaos_agent.recover import recover
from chaos_agent.supervisor import Supervisor
from chaos_core.effects import Reboot
from chaos_core.envelope import PROFILES
from chaos_core.errors import Refused, Unsupported
from chaos_core.lease import TTL
from chaos_core.log import Log
from chaos_core.messages import Apply, FaultStatus, Grant, Revert

FAULT, OTHER = "0a1b2c3d", "0a1b2c3e"
SECOND = 1_000_000


class Machine(Systemd):
    """systemd, of a machine that goes down when told to, unless somebody cancels it."""

    def __init__(self) -> None:
        super().__init__()
        self.rebooted = 0
        self.down = False
        self.states = dict.fromkeys(("chaos-agent.service", "chaos-link.service"), "enabled")
        self.refuses = ""

    def version(self) -> str:
        return "252"

    def going_down(self) -> bool:
        return self.down

    def enabled(self, unit: str) -> str:
        return self.states[unit]

    def reboot(self) -> None:
        if self.refuses:
            raise Unsupported(self.refuses)
        self.rebooted += 1
        self.down = True


class Node:
    """A keeper's insides, and the boots that they see."""

    def __init__(self, host: Host, state: Path, boot: Path) -> None:
        self.host, self.state, self._boot = host, state, boot
        self.machine = Machine()
        host.__dict__["systemd"] = self.machine
        self.config = AgentConfig(node="n1", envelope=PROFILES["lab"], state=state)
        self.uptime = 3600 * SECOND
        self.boots(1)

    def boots(self, number: int) -> None:
        """The machine is up, for the ``number``-th time; nothing of ours has run yet."""
        self._boot.write_text(f"{number:08}-0000-4000-8000-000000000000\n")
        self.machine.down = False

    def starts(self) -> None:
        """systemd runs ``recover``, then the keeper."""
        self.report = recover(self.host, self.state, now_us, Log.to_stderr("test"))
        self.journal = Journal(self.state)
        self.engine = Engine(self.host, self.journal, self.view, now_us)
        self.supervisor = Supervisor(self.config, self.engine, Log.to_stderr("test"), 2**30)

    def view(self, fault: Any) -> Any:
        from dataclasses import replace

        return replace(node_view(self.config, self.host, fault), now=self.uptime)

    def apply(self, fault: str = FAULT, kind: str = "host.reboot", params: str = "{}") -> Apply:
        now = now_us()
        request = Apply(
            epoch=1,
            seq=self.supervisor.heartbeat(now).seq,
            ttl_us=int(TTL),
            run="r-1",
            fault=fault,
            kind=kind,
            params=params,
            duration_us=60 * SECOND,
        )
        self.supervisor.obey(request, now)
        return request

    def status(self, fault: str = FAULT) -> FaultStatus | None:
        found = self.supervisor.heartbeat(now_us()).faults
        return next((one for one in reversed(found) if one.fault == fault), None)

    def entries(self) -> list[tuple[str, str]]:
        return [(one["entry"], one.get("reason", "")) for one in Journal(self.state).entries()]


@pytest.fixture
def node(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    boot = tmp_path / "boot_id"
    monkeypatch.setattr(boottime, "_BOOT_ID", boot)
    made = Node(host, tmp_path / "state", boot)
    made.starts()
    yield made
    for standing in list(made.engine.standing):
        made.engine.end(standing, "test")


def test_it_is_journaled_asked_for_and_read_back(node: Node) -> None:
    node.apply()
    status = node.status()
    assert status is not None
    assert (status.state, node.machine.rebooted) == ("in_force", 1)
    assert node.entries() == [("intent", "")]


@pytest.mark.parametrize("reason", ["shutdown", "lease", "duration"])
def test_what_ends_it_while_the_machine_goes_down_leaves_the_end_to_the_next_boot(
    node: Node, reason: str
) -> None:
    """The keeper is told to stop, or hears no grant any more: nobody may say that it is over."""
    node.apply()
    if reason == "shutdown":
        node.supervisor.end_all("shutdown", now_us())
    else:
        later = {"lease": 4, "duration": 61}[reason] * SECOND
        node.supervisor.tick(now_us() + later)
    status = node.status()
    assert status is not None
    assert (status.state, status.clean) == ("reverting", True)
    assert node.entries() == [("intent", "")]
    node.starts()  # ExecStopPost, and a keeper that systemd restarts while it goes down
    assert node.entries() == [("intent", "")]
    assert node.machine.rebooted == 1


def test_after_the_boot_the_hello_says_what_it_survived(node: Node) -> None:
    before = boot_id()
    node.apply()
    node.supervisor.end_all("shutdown", now_us())
    node.boots(2)
    node.starts()
    (survived,) = node.journal.survived()
    assert survived.model_dump() == {
        "boot": before, "run": "r-1", "fault": FAULT, "kind": "host.reboot",
    }  # fmt: skip
    assert node.entries() == [("intent", ""), ("done", "reboot")]
    assert node.report.difference == []
    node.boots(3)  # for another reason: this boot has survived nothing
    node.starts()
    assert node.journal.survived() == ()
    assert node.machine.rebooted == 1


def test_a_journal_that_was_rotated_with_the_boot_still_says_so(node: Node) -> None:
    node.apply()
    padding = b"00000000 padding\n" * 70_000
    node.boots(2)
    path = node.state / "journal"
    path.write_bytes(path.read_bytes() + padding)
    node.starts()
    assert [one.fault for one in node.journal.survived()] == [FAULT]
    assert node.journal.knows(FAULT)


@pytest.mark.parametrize("entries", [0, 1, 2])
@pytest.mark.parametrize("same_boot", [True, False])
@pytest.mark.parametrize("going_down", [True, False])
def test_no_journal_starts_a_reboot(
    node: Node, entries: int, same_boot: bool, going_down: bool
) -> None:
    """Cut at each entry, read in the same boot and in the next, by ``recover`` and the keeper."""
    node.apply()
    node.machine.down = False
    node.supervisor.end_all("test", now_us())
    path = node.state / "journal"
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 2
    path.write_bytes(b"".join(lines[:entries]))
    if not same_boot:
        node.boots(2)
    node.machine.down = going_down
    for _ in range(3):
        node.starts()
        node.supervisor.tick(now_us() + 10 * SECOND)
        node.supervisor.end_all("shutdown", now_us())
    assert node.machine.rebooted == 1
    assert node.report.difference == []


@pytest.mark.parametrize("next_boot", [True, False])
def test_a_request_that_comes_twice_is_obeyed_once(node: Node, next_boot: bool) -> None:
    request = node.apply()
    node.supervisor.obey(request, now_us())
    assert node.machine.rebooted == 1
    if next_boot:
        node.boots(2)
    node.starts()
    # Even under the number of a heartbeat of this boot: then the journal knows it.
    seq = node.supervisor.heartbeat(now_us()).seq
    node.supervisor.obey(request.model_copy(update={"seq": seq}), now_us())
    status = node.status()
    assert status is not None
    assert (status.state, "started before" in status.detail) == ("refused", True)
    assert node.machine.rebooted == 1


def test_a_request_of_another_boot_is_not_obeyed(node: Node) -> None:
    from chaos_agent.effects import ops

    effect = Reboot(boot_id())
    node.boots(2)
    with pytest.raises(Refused, match="which is over"):
        ops(effect).apply(node.host, effect, now_us())
    assert node.machine.rebooted == 0


def test_a_shutdown_that_is_cancelled_ends_it_as_disturbed(node: Node) -> None:
    node.apply()
    node.supervisor.obey(
        Grant(epoch=1, seq=node.supervisor.heartbeat(now_us()).seq, ttl_us=int(TTL), runs=("r-1",)),
        now_us(),
    )
    node.machine.down = False
    node.supervisor.tick(now_us() + SECOND + 100_000)
    status = node.status()
    assert status is not None
    assert (status.state, status.reason) == ("ended", "disturbed")
    assert node.entries() == [("intent", ""), ("done", "disturbed")]


def test_an_abort_while_it_goes_down_is_answered(node: Node) -> None:
    node.apply()
    node.supervisor.obey(Revert(reason="abort"), now_us())
    status = node.status()
    assert status is not None
    assert (status.state, status.reason, status.clean) == ("ended", "abort", True)
    assert node.entries() == [("intent", "")]


def test_a_systemd_that_refuses_is_a_refusal(node: Node) -> None:
    node.machine.refuses = "systemd refuses StartUnit: reboot.target is masked"
    node.apply()
    status = node.status()
    assert status is not None
    assert (status.state, "masked" in status.detail) == ("refused", True)


@pytest.mark.parametrize("first", ["host.reboot", "cpu.stress"])
def test_a_reboot_and_another_fault_are_not_on_a_node_together(node: Node, first: str) -> None:
    params = {"host.reboot": "{}", "cpu.stress": '{"percent": "5%"}'}
    second = next(kind for kind in params if kind != first)
    node.apply(FAULT, first, params[first])
    node.apply(OTHER, second, params[second])
    status = node.status(OTHER)
    assert status is not None
    assert (status.state, "another fault" in status.detail) == ("refused", True)
    assert node.machine.rebooted == (first == "host.reboot")


@pytest.mark.parametrize("unit", ["chaos-agent.service", "chaos-link.service"])
def test_a_node_whose_agent_would_not_come_back_is_not_rebooted(node: Node, unit: str) -> None:
    node.machine.states[unit] = "disabled"
    node.apply()
    status = node.status()
    assert status is not None
    assert (status.state, f"{unit} is disabled" in status.detail) == ("refused", True)
    assert (node.machine.rebooted, node.entries()) == (0, [])


def test_a_node_that_has_just_booted_is_not_rebooted(node: Node) -> None:
    node.uptime = 59 * SECOND
    node.apply()
    status = node.status()
    assert status is not None
    assert (status.state, "up for 59 s only" in status.detail) == ("refused", True)
    assert (node.machine.rebooted, node.entries()) == (0, [])
