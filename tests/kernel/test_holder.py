"""CPU and memory held by a child whose lease is a timer of the kernel's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chaos_agent.effects import ops, sweep
from chaos_agent.linux import children
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.host import Host
from chaos_core.effects import Holder
from chaos_core.errors import NotInForce

pytestmark = pytest.mark.usefixtures("kernel")

SECOND = 1_000_000
MIB = 2**20
LAG = 1.5  # a killed process needs some of its cgroup's CPU quota to end
Wait = Callable[..., None]
BURN = Holder("chs-000000c0", "burn", workers=1, cpu_quota=15_000)
HOLD = Holder("chs-000000d0", "hold", memory=38 * MIB, memory_max=43 * MIB)


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as opened:
        yield opened
        sweep.remove(opened)


def start(host: Host, effect: Holder, wait_for: Wait, lease: int = 30 * SECOND, **more: int) -> int:
    """Apply, wait until in force, and return the holder's pid."""
    ops(effect).apply(host, effect, now_us() + lease, **more)
    wait_for(lambda: ops(effect).verify(host, effect) is None, 10)
    pid = host.children.running(effect.name)
    assert pid
    return pid


def cpu_seconds(pids: list[int]) -> float:
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_cpu_is_taken_as_asked(host: Host, wait_for: Wait, kernel: str) -> None:
    start(host, BURN, wait_for)
    pids = host.cgroups.pids(BURN.name)
    assert len(pids) == 1
    used, began = cpu_seconds(pids), time.monotonic()
    time.sleep(3)
    share = (cpu_seconds(pids) - used) / (time.monotonic() - began)
    assert share < 0.16
    assert share > (0.14 if kernel == "guest" else 0.10)  # other tests are busy as well
    ops(BURN).revert(host, BURN)
    assert ops(BURN).absent(host, BURN) is None


def test_every_worker_is_busy(host: Host, wait_for: Wait) -> None:
    effect = Holder("chs-000000c0", "burn", workers=3, cpu_quota=30_000)
    pid = start(host, effect, wait_for)
    threads = [int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()]
    assert len(threads) == 4
    wait_for(lambda: sum(cpu_seconds([thread]) > 0.05 for thread in threads) >= 3, 5)


def test_memory_is_taken_as_asked(host: Host, wait_for: Wait) -> None:
    pid = start(host, HOLD, wait_for)
    wait_for(lambda: abs(children.anonymous(pid) - HOLD.memory) < 128 * 1024)
    assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "1000"
    ops(HOLD).revert(host, HOLD)
    assert ops(HOLD).absent(host, HOLD) is None
    assert not alive(pid)


def test_verify_says_how_far_the_filling_is(host: Host) -> None:
    big = Holder("chs-000000d0", "hold", memory=200 * MIB, memory_max=220 * MIB)
    began = time.monotonic()
    ops(big).apply(host, big, now_us() + 30 * SECOND)
    assert time.monotonic() - began < 1
    text = ops(big).verify(host, big) or ""
    assert "is not in" in text or (text.startswith("filling: ") and "of 200 MiB" in text)


def test_a_stopped_holder_dies_with_its_lease(host: Host, wait_for: Wait) -> None:
    ends = time.monotonic() + 3
    start(host, BURN, wait_for, lease=3 * SECOND)
    pids = host.cgroups.pids(BURN.name)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: "stopped" in (ops(BURN).verify(host, BURN) or ""), 1)
    wait_for(lambda: not any(map(alive, pids)), 5)
    assert -0.1 < time.monotonic() - ends < LAG
    wait_for(lambda: host.children.running(BURN.name) is None)  # its last thread, too
    with pytest.raises(NotInForce):
        ops(BURN).renew(host, BURN, now_us() + 30 * SECOND)
    ops(BURN).revert(host, BURN)
    assert ops(BURN).absent(host, BURN) is None


def test_renewals_keep_it_alive_but_never_beyond_the_deadline(host: Host, wait_for: Wait) -> None:
    ends = time.monotonic() + 3
    pid = start(host, BURN, wait_for, lease=2 * SECOND, deadline_us=now_us() + 3 * SECOND)
    while alive(pid) and time.monotonic() < ends + 2:
        host.children.renew(BURN.name, now_us() + 60 * SECOND)
        time.sleep(0.02)
    assert -0.1 < time.monotonic() - ends < LAG


def test_a_lease_that_is_over_starts_nothing(host: Host) -> None:
    with pytest.raises(NotInForce):
        ops(BURN).apply(host, BURN, now_us() - 1)
    assert ops(BURN).absent(host, BURN) is None


def test_an_expiry_in_the_past_kills_at_once(host: Host, wait_for: Wait) -> None:
    pids = [start(host, BURN, wait_for), *host.cgroups.pids(BURN.name)]
    ops(BURN).renew(host, BURN, 0)
    wait_for(lambda: not any(map(alive, pids)), LAG)


@pytest.mark.parametrize("how", ["killed", "killed, holders stopped", "frozen", "closes"])
def test_holders_do_not_outlive_their_keeper(host: Host, wait_for: Wait, how: str) -> None:
    """Killed: the kernel kills them, stopped or not. Frozen: the lease ends. Closed: the pipe."""
    program = (
        "import sys, time; from chaos_agent.linux.host import Host;"
        "from chaos_agent.effects import ops; from chaos_agent.linux.boottime import now_us;"
        "from chaos_core.effects import Holder; host = Host();"
        "effects = [Holder('chs-000000c0', 'burn', workers=2, cpu_quota=15_000),"
        " Holder('chs-000000d0', 'hold', memory=20 << 20, memory_max=30 << 20)];"
        "[ops(effect).apply(host, effect, now_us() + int(sys.argv[1])) for effect in effects];"
        "print(flush=True); sys.stdin.read(1); host.close(); time.sleep(60)"
    )
    lease = 4 * SECOND if how == "frozen" else 60 * SECOND
    with subprocess.Popen(
        [sys.executable, "-c", program, str(lease)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as keeper:
        try:
            assert keeper.stdout
            assert keeper.stdin
            keeper.stdout.readline()
            names = (BURN.name, HOLD.name)
            wait_for(lambda: sum(len(host.cgroups.pids(name)) for name in names) == 2, 5)
            if "stopped" in how:
                for pid in (pid for name in names for pid in host.cgroups.pids(name)):
                    os.kill(pid, signal.SIGSTOP)
                time.sleep(0.2)
            if how == "closes":
                keeper.stdin.close()
            else:
                keeper.send_signal(signal.SIGSTOP if how == "frozen" else signal.SIGKILL)
            limit = 5 if how == "frozen" else LAG
            wait_for(lambda: not any(host.cgroups.pids(name) for name in names), limit)
        finally:
            keeper.kill()
    assert children.find() == {}
    assert sweep.remove(host) == []
    assert host.cgroups.names() == []


@pytest.mark.parametrize("harm", ["quota", "cap", "cgroup"])
def test_verify_names_what_differs(host: Host, wait_for: Wait, harm: str) -> None:
    effect = HOLD if harm == "cap" else BURN
    start(host, effect, wait_for)
    group = (host.cgroups.memory if harm == "cap" else host.cgroups.cpu) / effect.name
    two = host.cgroups.version == 2
    match harm:
        case "quota":
            (group / ("cpu.max" if two else "cpu.cfs_quota_us")).write_text("16000")
        case "cap":
            cap = group / ("memory.max" if two else "memory.limit_in_bytes")
            cap.write_text(str(64 * MIB))
        case "cgroup":
            host.cgroups.destroy(effect.name)
    words = {"quota": "16000", "cap": str(64 * MIB), "cgroup": "is missing"}
    assert words[harm] in (ops(effect).verify(host, effect) or "")


@pytest.mark.parametrize("stands", ["nothing", "cgroup", "process", "all"])
def test_a_half_applied_holder_can_be_reverted_and_applied(
    host: Host, wait_for: Wait, stands: str
) -> None:
    if stands == "cgroup":
        (host.cgroups.cpu / BURN.name).mkdir()
    if stands == "process":
        later = now_us() + 9 * SECOND
        host.children.start(BURN.name, ("burn", 1, 0, 0, 0), later, later, [])
        wait_for(lambda: BURN.name in children.find().values())  # its exec takes a moment
    if stands == "all":
        start(host, BURN, wait_for)
    with Host() as afresh:
        for _ in range(2):
            ops(BURN).revert(afresh, BURN)
            assert ops(BURN).absent(afresh, BURN) is None
    start(host, BURN, wait_for)
    again = host.children.running(BURN.name)
    ops(BURN).apply(host, BURN, now_us() + 30 * SECOND)
    assert host.children.running(BURN.name) == again, "a holder in force is left alone"


def test_foreign_processes_and_cgroups_are_left_alone(host: Host, wait_for: Wait) -> None:
    mine = host.cgroups.cpu / "mine"
    mine.mkdir()
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        try:
            (mine / "cgroup.procs").write_text(str(sleeper.pid))
            start(host, BURN, wait_for)
            assert sweep.remove(host) == []
            assert mine.is_dir()
            assert sleeper.poll() is None
        finally:
            sleeper.kill()
    wait_for(lambda: not (mine / "cgroup.procs").read_text())
    mine.rmdir()


def test_the_holder_weighs_little(host: Host, wait_for: Wait) -> None:
    pid = start(host, BURN, wait_for)
    status: dict[str, Any] = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    assert int(status["VmRSS"].split()[0]) < 16 * 1024
