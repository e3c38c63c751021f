"""What else a holder holds: ramps, disks, device bandwidth, descriptors.

Each is measured from outside of the holder, and each is gone when the keeper is killed,
when it is stopped, and when the holder itself is stopped.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from chaos_agent.effects import ops, sweep
from chaos_agent.linux import children
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.host import Host
from chaos_core import effects
from chaos_core.effects import Holder

pytestmark = pytest.mark.usefixtures("kernel")

SECOND = 1_000_000
MIB = 2**20
Wait = Callable[..., None]
Sh = Callable[..., str]
LEAK = Holder("chs-000000e0", "hold", memory=64 * MIB, memory_max=69 * MIB, ramp=4 * SECOND)
SLOWLY = Holder("chs-000000e1", "burn", workers=1, cpu_quota=40_000, ramp=4 * SECOND)


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as opened:
        yield opened
        sweep.remove(opened)


def start(host: Host, effect: Holder, wait_for: Wait, lease: int = 30 * SECOND) -> int:
    """Apply, wait until in force, and return the holder's pid."""
    ops(effect).apply(host, effect, now_us() + lease)
    wait_for(lambda: ops(effect).verify(host, effect) is None, 10)
    pid = host.children.running(effect.name)
    assert pid
    return pid


def gone(host: Host, effect: Holder) -> None:
    ops(effect).revert(host, effect)
    assert ops(effect).absent(host, effect) is None


def test_a_leak_grows_evenly_and_ends_at_its_ceiling(host: Host, wait_for: Wait) -> None:
    pid = start(host, LEAK, wait_for)
    seen: list[tuple[float, int]] = []
    while children.age_us(pid) < 3 * SECOND:
        seen.append((children.age_us(pid) / LEAK.ramp, children.anonymous(pid)))
        time.sleep(0.2)
    # Never ahead of its schedule; how far behind, a busy machine decides. It began at once.
    assert all(held <= part * LEAK.memory + 16 * MIB for part, held in seen)
    assert seen[-1][1] > seen[0][1]
    wait_for(lambda: LEAK.memory - children.anonymous(pid) < MIB, 10)
    time.sleep(0.5)
    assert children.anonymous(pid) < LEAK.memory + MIB
    assert ops(LEAK).verify(host, LEAK) is None
    gone(host, LEAK)


def test_a_leak_that_stands_still_is_no_longer_in_force(host: Host, wait_for: Wait) -> None:
    """Its cgroup takes no more: a cap that somebody else has put above would do that."""
    short = Holder("chs-000000e0", "hold", memory=64 * MIB, memory_max=20 * MIB, ramp=SECOND)
    ops(short).apply(host, short, now_us() + 30 * SECOND)
    wait_for(lambda: ops(short).verify(host, short) is not None, 10)
    gone(host, short)


def shmem(host: Host, effect: Holder) -> int:
    """The page cache that no file on a disk is behind, as the kernel accounts for the group."""
    lines = (host.cgroups.memory / effect.name / "memory.stat").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("shmem "))


def everywhere() -> int:
    """The same of the whole machine, which others use as well."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Shmem:"))


def test_page_cache_is_taken_and_given_back(host: Host, wait_for: Wait) -> None:
    effect = Holder("chs-000000e2", "cache", memory=96 * MIB, memory_max=101 * MIB, ramp=SECOND)
    alone = "CHAOS_GUEST" in os.environ
    before = everywhere()
    pid = start(host, effect, wait_for)
    wait_for(lambda: shmem(host, effect) > 80 * MIB, 10)  # the rest is the interpreter's own
    time.sleep(0.5)
    assert ops(effect).verify(host, effect) is None
    assert shmem(host, effect) + children.anonymous(pid) < 97 * MIB
    assert not alone or abs(everywhere() - before - shmem(host, effect)) < 2 * MIB
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: shmem(host, effect) < MIB, 10)
    assert not alone or abs(everywhere() - before) < 2 * MIB
    wait_for(lambda: ops(effect).verify(host, effect) is not None, 10)
    gone(host, effect)


CHURN = Holder(
    "chs-000000e3", "churn", cpu_quota=50_000, memory_max=32 * MIB, rate=8 * MIB
)  # fmt: skip


def test_churn_keeps_its_rate_and_never_has_much_at_once(host: Host, wait_for: Wait) -> None:
    pid = start(host, CHURN, wait_for)
    time.sleep(1)
    touched, began, most = children.touched_bytes(pid), time.monotonic(), 0
    while time.monotonic() - began < 3:
        most = max(most, children.anonymous(pid))
        time.sleep(0.01)
    rate = (children.touched_bytes(pid) - touched) / (time.monotonic() - began)
    # Never above; how far below, a busy machine decides, down to what is told as too little.
    assert 0.4 * CHURN.rate < rate < 1.25 * CHURN.rate
    assert most < 24 * MIB
    assert ops(CHURN).verify(host, CHURN) is None
    gone(host, CHURN)


def test_churn_that_its_share_of_the_cpu_is_too_small_for_is_seen(
    host: Host, wait_for: Wait
) -> None:
    starved = replace(CHURN, cpu_quota=2_000, rate=4096 * MIB)
    ops(starved).apply(host, starved, now_us() + 30 * SECOND)
    time.sleep(2)
    wait_for(lambda: "too small" in (ops(starved).verify(host, starved) or ""), 10)
    gone(host, starved)


def test_a_churner_dies_with_its_lease_stopped_or_not(host: Host, wait_for: Wait) -> None:
    pid = start(host, CHURN, wait_for, lease=4 * SECOND)
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: children.age_us(pid) == 0, 6)
    gone(host, CHURN)


def test_a_ramp_raises_the_quota_to_what_was_asked_and_not_above(
    host: Host, wait_for: Wait
) -> None:
    start(host, SLOWLY, wait_for)
    seen = [host.cgroups.quota(SLOWLY.name)]
    while seen[-1] < SLOWLY.cpu_quota and len(seen) < 100:
        time.sleep(0.1)
        seen.append(host.cgroups.quota(SLOWLY.name))
    assert seen == sorted(seen)
    assert seen[0] < SLOWLY.cpu_quota * 0.75
    assert seen[-1] == SLOWLY.cpu_quota
    assert len(set(seen)) > 5, "it was no ramp"
    assert ops(SLOWLY).verify(host, SLOWLY) is None
    (
        host.cgroups.cpu
        / SLOWLY.name
        / ("cpu.max" if host.cgroups.version == 2 else "cpu.cfs_quota_us")
    ).write_text("50000")
    assert "50000" in (ops(SLOWLY).verify(host, SLOWLY) or "")
    gone(host, SLOWLY)


# ── disks ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def disk(host: Host, sh: Sh, tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 MiB on a disk of its own, of which only what is written is there."""
    image, place = tmp_path / "image", tmp_path / "disk"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(512 * MIB)
    sh("mkfs.ext4", "-q", "-O", "^has_journal", "-E", "nodiscard", str(image))
    sh("mount", "-o", "loop,nodiscard,noinit_itable", str(image), str(place))
    try:
        yield place
    finally:
        sweep.remove(host)
        sh("umount", str(place))


def free(disk: Path) -> int:
    room = os.statvfs(disk)
    return room.f_bfree * room.f_frsize


def transferred(disk: Path) -> tuple[int, int]:
    """Bytes read from and written to the device, as the kernel counts them: /proc/diskstats."""
    device = disk.stat().st_dev
    for line in Path("/proc/diskstats").read_text().splitlines():
        fields = line.split()
        if (int(fields[0]), int(fields[1])) == (os.major(device), os.minor(device)):
            return 512 * int(fields[5]), 512 * int(fields[9])
    raise AssertionError("no such device")


def fill(disk: Path, size: int = 100 * MIB) -> Holder:
    return Holder(
        "chs-000000f0",
        "fill",
        memory_max=64 * MIB,
        directory=str(disk),
        device=disk.stat().st_dev,
        size=size,
        reserve=256 * MIB,
    )


def load(
    disk: Path, rate: int = 8 * MIB, mode: Literal["read", "write", "both"] = "both"
) -> Holder:
    return Holder(
        "chs-000000f1",
        "io",
        workers=2,
        memory_max=64 * MIB,
        directory=str(disk),
        device=disk.stat().st_dev,
        size=4 * MIB,
        rate=rate,
        mode=mode,
    )


def test_a_disk_is_filled_as_asked_and_given_back(host: Host, wait_for: Wait, disk: Path) -> None:
    effect, before = fill(disk), free(disk)
    start(host, effect, wait_for)
    taken = before - free(disk)
    assert 0 <= taken - effect.size < MIB, "the file's own blocks, and a few that map them"
    assert sorted(path.name for path in disk.iterdir()) == ["lost+found"], "it has no name"
    gone(host, effect)
    wait_for(lambda: free(disk) == before)


def test_the_reserve_stays_free_even_if_others_fill_the_disk_meanwhile(
    host: Host, wait_for: Wait, disk: Path
) -> None:
    """Room for the file was there when it was looked at, and no longer is when it is made."""
    with (disk / "others").open("wb") as others:
        os.posix_fallocate(others.fileno(), 0, free(disk) - 300 * MIB)
    effect = fill(disk)
    ops(effect).apply(host, effect, now_us() + 30 * SECOND)
    wait_for(lambda: free(disk) < 280 * MIB, 10)
    time.sleep(0.5)
    assert free(disk) >= 256 * MIB
    assert "MiB of disk" in (ops(effect).verify(host, effect) or "")
    gone(host, effect)


def test_on_another_file_system_than_was_looked_at_nothing_is_made(
    host: Host, wait_for: Wait, disk: Path, sh: Sh
) -> None:
    effect, before = fill(disk), free(disk)
    sh("mount", "-t", "tmpfs", "none", str(disk))
    try:
        ops(effect).apply(host, effect, now_us() + 30 * SECOND)
        wait_for(lambda: host.children.running(effect.name) is None, 10)
        assert list(disk.iterdir()) == []
    finally:
        sh("umount", str(disk))
    assert free(disk) == before
    gone(host, effect)


@pytest.mark.parametrize("mode", ["read", "write", "both"])
def test_a_device_is_kept_as_busy_as_asked(
    host: Host, wait_for: Wait, disk: Path, mode: Literal["read", "write", "both"]
) -> None:
    effect, before = load(disk, mode=mode), transferred(disk)[0]
    start(host, effect, wait_for)
    if mode != "write":  # which it does first
        wait_for(lambda: transferred(disk)[0] - before > effect.size / 2, 10)
    (read, written), began = transferred(disk), time.monotonic()
    time.sleep(2)
    seconds = time.monotonic() - began
    rates = [
        (after - before) / seconds
        for after, before in zip(transferred(disk), (read, written), strict=True)
    ]
    assert sum(rates) < 1.05 * effect.rate
    assert sum(rates) > 0.7 * effect.rate, "less by as much as other tests were busy"
    wanted = {"read": (1, 0), "write": (0, 1), "both": (0.5, 0.5)}[mode]
    for rate, part in zip(rates, wanted, strict=True):
        assert rate == pytest.approx(part * sum(rates), abs=0.1 * effect.rate)
    assert sorted(path.name for path in disk.iterdir()) == ["lost+found"]
    gone(host, effect)
    at_the_end = transferred(disk)
    time.sleep(0.5)
    assert transferred(disk) == at_the_end


def test_a_device_that_is_too_slow_is_said_to_be(host: Host, wait_for: Wait, disk: Path) -> None:
    effect = load(disk, rate=2**40)
    ops(effect).apply(host, effect, now_us() + 30 * SECOND)
    wait_for(lambda: host.cgroups.pids(effect.name) != [], 10)
    time.sleep(1)
    assert "slower than the rate" in (ops(effect).verify(host, effect) or "")
    gone(host, effect)


# ── descriptors ───────────────────────────────────────────────────────────────────────────

FILES = Holder("chs-000000f2", "files", memory_max=66 * MIB, count=3_500, reserve=1_024)


def open_files() -> int:
    """In the whole system, as the kernel counts them."""
    return int(Path("/proc/sys/fs/file-nr").read_text().split()[0])


def test_files_are_open_as_asked(host: Host, wait_for: Wait) -> None:
    before = open_files()
    pid = start(host, FILES, wait_for)
    assert 0 <= children.open_files(pid) - FILES.count < 20
    assert abs(open_files() - before - FILES.count) < FILES.count / 3  # others open and close, too
    gone(host, FILES)
    wait_for(lambda: open_files() - before < FILES.count / 3)


@pytest.mark.guest
def test_the_system_is_left_its_reserve_of_files(host: Host, wait_for: Wait) -> None:
    """It had more when it was looked at. In the guest: it would be everybody's here."""
    limit = Path("/proc/sys/fs/file-max")
    before = limit.read_text()
    limit.write_text(str(open_files() + 3_000))
    try:
        ops(FILES).apply(host, FILES, now_us() + 30 * SECOND)
        wait_for(lambda: "opened: 1" in (ops(FILES).verify(host, FILES) or ""), 10)
        time.sleep(0.5)
        assert open_files() <= int(limit.read_text()) - 900, "the count is off by a batch a CPU"
        assert f"of {FILES.count}" in (ops(FILES).verify(host, FILES) or "")
        gone(host, FILES)
    finally:
        limit.write_text(before)


# ── as faults ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        ("cpu.stress", {"percent": "10%"}),
        ("cpu.stress", {"percent": "10%", "cores": 1, "ramp": "1s"}),
        ("memory.stress", {"size": "40MiB"}),
        ("memory.leak", {"rate": "20MiB", "percent": "5%"}),
        ("disk.fill", {"path": "DISK", "percent": "25%"}),
        ("io.stress", {"path": "DISK", "rate": "4MiB", "workers": 2}),
        ("fd.exhaust", {"count": 2_000}),
    ],
)
def test_it_comes_into_force_and_leaves_nothing(
    net: object,  # noqa: ARG001 - a namespace of its own, for the snapshots
    new_node: Callable[..., Any],
    disk: Path,
    kind: str,
    params: dict[str, Any],
) -> None:
    node, before = new_node(), free(disk)
    if "path" in params:
        params = {**params, "path": str(disk)}
    fault = node.apply(kind, **params)
    assert node.status(fault).state != "refused", node.status(fault).detail
    node.await_in_force(fault)
    node.supervisor.end_all("stopped", now_us())
    status = node.status(fault)
    assert (status.state, status.clean) == ("ended", True), status.detail
    assert free(disk) == before


# ── who ends them ─────────────────────────────────────────────────────────────────────────

_LEASE_S = 5
_KEEPER = """
import sys, time
from chaos_agent.effects import ops
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.host import Host
from chaos_core.effects import from_text

lease, texts = int(sys.argv[1]), sys.argv[2:]
host, effects, said = Host(), [from_text(text) for text in texts], False
for effect in effects:
    ops(effect).apply(host, effect, now_us() + lease)
while True:
    for effect in effects:
        ops(effect).renew(host, effect, now_us() + lease)
    if not said and not any(ops(effect).verify(host, effect) for effect in effects):
        print("in force", flush=True)
        said = True
    time.sleep(0.2)
"""


@pytest.mark.parametrize("how", ["keeper killed", "keeper stopped", "holders stopped"])
def test_all_are_gone_with_their_lease_whatever_happens(
    host: Host, wait_for: Wait, disk: Path, how: str
) -> None:
    """Killed: at once. Stopped: when the lease is over, which nobody of ours can see to."""
    held = (SLOWLY, LEAK, fill(disk), load(disk), FILES)
    before, files = free(disk), open_files()
    texts = map(effects.to_text, held)
    with subprocess.Popen(
        (sys.executable, "-c", _KEEPER, str(_LEASE_S * SECOND), *texts), stdout=subprocess.PIPE
    ) as keeper:
        try:
            assert keeper.stdout
            assert keeper.stdout.readline() == b"in force\n"
            pids = [pid for effect in held for pid in host.cgroups.pids(effect.name)]
            assert len(pids) == len(held)
            keeper.send_signal(signal.SIGKILL if how == "keeper killed" else signal.SIGSTOP)
            ends = time.monotonic() + (0 if how == "keeper killed" else _LEASE_S)
            if how == "holders stopped":
                for pid in pids:
                    os.kill(pid, signal.SIGSTOP)
            wait_for(lambda: not any(host.cgroups.pids(effect.name) for effect in held), 15)
            assert time.monotonic() - ends < 2
            wait_for(lambda: free(disk) == before, 2)
            wait_for(lambda: open_files() - files < FILES.count / 3, 2)
            at_the_end = transferred(disk)
            time.sleep(0.3)
            assert transferred(disk) == at_the_end
        finally:
            keeper.kill()
    for effect in held:
        gone(host, effect)
