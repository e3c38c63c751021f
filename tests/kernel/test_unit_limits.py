"""Limits of a service's cgroup: felt by what runs in it, and put back, whatever happens.

In the guest, which has cgroup v2 and no systemd: a group stands for the service's.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chaos_agent.effects import ops
from chaos_agent.engine import Engine
from chaos_agent.journal import Journal
from chaos_agent.linux import limits
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.host import Host
from chaos_agent.recover import recover
from chaos_core.effects import CgroupLimit
from chaos_core.errors import NotInForce, Refused, Unsupported
from chaos_core.faults import parse
from chaos_core.lease import Lease
from chaos_core.log import Log
from chaos_core.node import NodeView, UnitFacts

pytestmark = pytest.mark.guest
MIB = 2**20
FILES = ("cpu.max", "memory.high", "memory.current", "pids.max", "pids.current", "io.max")


class App:
    """A service's group and the processes that were put into it."""

    def __init__(self) -> None:
        (limits.ROOT / "cgroup.subtree_control").write_text("+cpu +memory +pids +io")
        self.group = limits.ROOT / "app.service"
        self.group.mkdir()
        self.processes: list[subprocess.Popen[str]] = []

    def run(self, program: str) -> subprocess.Popen[str]:
        """A Python program in the group; its first line has been read when this returns."""
        enter = f"open('{self.group}/cgroup.procs', 'w').write('0')\n"
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", enter + program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "\n"
        return process

    def read(self, name: str) -> str:
        return (self.group / name).read_text().strip()

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self.group.rmdir()

    def view(self) -> NodeView:
        facts = limits.facts("/app.service", FILES)
        app = UnitFacts("app.service", active=True, cgroup=facts)
        return replace(NodeView.example(), profile="lab", systemd=False, units={app.id: app})


@pytest.fixture
def app() -> Iterator[App]:
    app = App()
    yield app
    app.close()


class Held:
    """An engine whose node has nothing but the app."""

    def __init__(self, app: App, host: Host, state: Path) -> None:
        self.engine = Engine(host, Journal(state), lambda _: app.view(), now_us)
        self.count = 0

    def start(self, kind: str, **params: Any) -> str:
        fault = self.apply(kind, **params)
        standing, until = self.engine.standing[fault], time.monotonic() + 10
        while standing.state == "applying" and time.monotonic() < until:
            time.sleep(0.05)
            self.engine.check(standing)
        assert standing.state == "in_force", standing.pending
        return fault

    def apply(self, kind: str, **params: Any) -> str:
        self.count += 1
        fault = f"{self.count:08x}"
        now = now_us()
        lease = Lease(fault, "r-1", 1, now, now + 3_000_000, now + 60_000_000)
        self.engine.start("r-1", parse(kind, {"unit": "app", **params}), lease)
        return fault

    def end(self, fault: str) -> tuple[str, ...]:
        """Try for a while, as the supervisor does."""
        for _ in range(20):
            outcome = self.engine.end(fault, "duration")
            if not outcome.again:
                break
            time.sleep(0.1)
        return outcome.difference


@pytest.fixture
def held(app: App, host: Host, tmp_path: Path) -> Held:
    return Held(app, host, tmp_path / "state")


def usage_us(app: App) -> int:
    return int(app.read("cpu.stat").split()[1])


def share(app: App, seconds: float = 1.0) -> float:
    """CPUs that the group takes, by the kernel's accounts."""
    began, before = time.monotonic(), usage_us(app)
    time.sleep(seconds)
    return (usage_us(app) - before) / 1e6 / (time.monotonic() - began)


def test_a_throttled_service_gets_its_share_and_no_more(app: App, held: Held) -> None:
    app.run("print(flush=True)\nwhile True: pass")
    assert share(app) > 0.5
    fault = held.start("cpu.throttle", percent="10%")
    assert share(app, 2) < 0.15
    assert held.end(fault) == ()
    assert app.read("cpu.max") == "max 100000"
    assert share(app) > 0.5


def test_a_service_at_its_limit_of_pids_cannot_fork(app: App, held: Held) -> None:
    worker = app.run(
        "import os, sys\nprint(flush=True)\n"
        "for line in sys.stdin:\n"
        "    try:\n"
        "        pid = os.fork()\n"
        "    except OSError as error: print(error.errno, flush=True)\n"
        "    else:\n"
        "        if not pid: os._exit(0)\n"
        "        os.waitpid(pid, 0); print(0, flush=True)\n"
    )

    def fork() -> int:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
        return int(worker.stdout.readline())

    assert fork() == 0
    fault = held.start("pids.exhaust")
    assert fork() == 11  # EAGAIN
    assert subprocess.run(["true"], check=False).returncode == 0  # a bystander
    assert held.end(fault) == ()
    assert (fork(), app.read("pids.max")) == (0, "max")


def test_a_service_above_its_limit_of_memory_is_slowed(app: App, held: Held) -> None:
    """Without swap nothing can be reclaimed, and each allocation waits."""
    worker = app.run(
        "import mmap, sys, time\nkept = []\n"
        "def take(pages):\n"
        "    began, new = time.monotonic(), mmap.mmap(-1, pages * 4096)\n"
        "    for page in range(pages): new[page * 4096] = 1\n"
        "    kept.append(new)\n"
        "    print(time.monotonic() - began, flush=True)\n"
        "    return new\n"
        f"kept.append(mmap.mmap(-1, {16 * MIB}))\n"
        f"for at in range(0, {16 * MIB}, 4096): kept[0][at] = 1\n"
        "print(flush=True)\n"
        "for line in sys.stdin: take(256)\n"
    )

    def took() -> float:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
        return float(worker.stdout.readline())

    used = int(app.read("memory.current"))
    assert used > 15 * MIB
    assert took() < 0.5
    began = time.monotonic()
    fault = held.start("memory.limit", percent="50%")
    assert time.monotonic() - began < 5  # the keeper does not wait for the reclaim
    assert took() > 1
    assert held.end(fault) == ()
    assert app.read("memory.high") == "max"
    assert took() < 0.5


def test_what_another_has_set_meanwhile_stays(app: App, held: Held) -> None:
    fault = held.start("cpu.throttle", percent="10%")
    (app.group / "cpu.max").write_text("70000 100000")
    with pytest.raises(NotInForce, match=r"cpu\.max is 70000"):
        held.engine.check(held.engine.standing[fault])
    assert held.end(fault) == ()
    assert app.read("cpu.max") == "70000 100000"


def test_a_new_group_of_the_same_name_is_not_ours(app: App, held: Held) -> None:
    """As after a restart of the service; even if it has our very value."""
    fault = held.start("pids.exhaust", margin=7)
    value = app.read("pids.max")
    app.group.rmdir()
    app.group.mkdir()
    (app.group / "pids.max").write_text(value)
    with pytest.raises(NotInForce, match="anew"):
        held.engine.check(held.engine.standing[fault])
    assert held.end(fault) == ()
    assert app.read("pids.max") == value


def test_no_second_fault_takes_the_first_ones_value_for_the_users(app: App, held: Held) -> None:
    fault = held.start("cpu.throttle", percent="50%")
    with pytest.raises(Refused, match=f"{fault} holds app.service's cpu.max"):
        held.start("cpu.throttle", percent="20%")
    other = held.start("pids.exhaust", margin=5)
    assert held.end(fault) == held.end(other) == ()
    assert (app.read("cpu.max"), app.read("pids.max")) == ("max 100000", "max")


def test_recover_puts_back_what_a_dead_keeper_left(app: App, held: Held, tmp_path: Path) -> None:
    held.start("cpu.throttle", percent="10%")
    held.start("pids.exhaust", margin=5)
    held.engine.journal.close()
    report = recover(held.engine.host, tmp_path / "state", now_us, Log.to_stderr("test"))
    assert (len(report.faults), report.difference) == (2, [])
    assert (app.read("cpu.max"), app.read("pids.max")) == ("max 100000", "max")


def test_it_is_a_residue_when_the_kernel_does_not_take_it_back(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = held.start("cpu.throttle", percent="10%")
    monkeypatch.setattr(held.engine.host.limits, "write", lambda *_: None)
    difference = held.end(fault)
    assert any("is still 10000 100000" in line for line in difference), difference
    assert any(line.startswith("+ limits: ") for line in difference), difference


def test_a_value_that_the_kernel_refuses_is_not_applied(app: App, host: Host) -> None:
    inode = app.group.stat().st_ino
    effect = CgroupLimit("app.service", "/app.service", inode, "cpu.max", "", "max 100000", "1 1")

    def ask() -> None:
        ops(effect).apply(host, effect, now_us() + 3_000_000)
        for _ in range(100):  # on a busy machine it is told later
            time.sleep(0.05)
            ops(effect).verify(host, effect)

    with pytest.raises(Unsupported, match="does not take"):
        ask()
    assert app.read("cpu.max") == "max 100000"


def test_a_path_in_memory_is_on_no_disk() -> None:
    assert limits.block_of("/run") == limits.block_of("/nowhere") == limits.block_of("run") == ""
    Path("/run/link").symlink_to("/")
    assert limits.block_of("/run/link") == ""


def test_a_limit_that_the_kernel_takes_late_does_not_outlive_its_fault(
    app: App, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue that is being frozen, a reclaim, a starved node: the write is still under way."""

    def late(path: str, data: bytes) -> None:
        time.sleep(0 if data == b"max" else 1.5)
        put(path, data)

    put = limits.put
    monkeypatch.setattr(limits, "put", late)
    fault = held.apply("pids.exhaust")
    assert held.engine.standing[fault].state == "applying"
    assert held.end(fault) == ()
    time.sleep(2)
    assert app.read("pids.max") == "max"
