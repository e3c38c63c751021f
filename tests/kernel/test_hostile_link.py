"""A taken-over link against the keeper as a process, judged by what is in the kernel.

A few seconds by default; ``CHAOS_FUZZ_SECONDS`` and ``CHAOS_FUZZ_SEED`` play longer and
other sessions (``make fuzz`` sets them).
"""

from __future__ import annotations

import errno
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fuzz.dice import Dice, dumped
from tests.fuzz.keeper_messages import Hostile, steps
from tests.kernel.keeper_process import Keeper, Link

from chaos_core.errors import InvalidInput
from chaos_core.messages import Heartbeat, Revert, from_keeper

SECONDS = float(os.environ.get("CHAOS_FUZZ_SECONDS", "3"))
SEED = int(os.environ.get("CHAOS_FUZZ_SEED", "1"))
BURST_S = 6.0
LEASE_S = 3.0
REVERT_S = 2.5  # the budget is 1 s; other sessions share this machine
LOOP_S = 2.5  # between two heartbeats, where one is due each second; the watchdog has 3
GROWTH_KB = 24 << 10
CPU, LOSS, MEMORY = 0.05, 0.05, 0.01  # as below
LONGEST_S = 5.0
ENVELOPE = """profile = "staging"
cpu = "5%"
memory = "1%"
duration_loss = "5s"
duration_cpu = "5s"
duration_memory = "5s"
"""


class Kernel:
    """What of ours is in force, read with the system's own tools."""

    def __init__(self, sh: Callable[..., str]) -> None:
        self._sh = sh
        self.since: dict[str, float] = {}

    def judge(self) -> None:
        sets = re.findall(
            r"add chs-(\w{8})-\d \S+ timeout (\d+)", self._sh("ipset", "save", check=False)
        )
        live = {fault for fault, _ in sets}
        assert all(0 < int(left) <= LEASE_S for _, left in sets), sets
        rules = self._sh("iptables-legacy-save") + self._sh("ip6tables-legacy-save")
        losses = {
            fault: float(share)
            for fault, share in re.findall(
                r"-A CHAOS-(\w{8})-in .*--probability ([\d.]+) .*-j DROP", rules
            )
            if fault in live
        }
        assert sum(losses.values()) <= LOSS + 0.001, losses
        quotas, limits = self._groups("cpu/chs-*"), self._groups("memory/chs-*")
        shares = {
            name: int((path / "cpu.cfs_quota_us").read_text()) / 100_000 / (os.cpu_count() or 1)
            for name, path in quotas.items()
            if self._holders(path)
        }
        assert sum(shares.values()) <= CPU + 0.001, shares
        held = {
            name: int((path / "memory.limit_in_bytes").read_text())
            for name, path in limits.items()
            if name not in shares and self._holders(path)
        }
        slack = len(held) * (8 << 20)
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        assert sum(held.values()) <= total * (MEMORY + 0.001) + slack, held
        now = time.monotonic()
        present = live | set(shares) | set(held)
        assert len(present) <= 16, present
        self.since = {fault: self.since.get(fault, now) for fault in present}
        for fault in set(losses) | set(shares) | set(held):
            assert now - self.since[fault] <= LONGEST_S + REVERT_S, f"{fault} lasts"

    def nothing(self) -> bool:
        rules = self._sh("iptables-legacy-save") + self._sh("ip6tables-legacy-save")
        sets = self._sh("ipset", "list", "-n", check=False)
        return not (
            "CHAOS-" in rules or "chs-" in sets or self._groups("cpu/chs-*")
            or "chs-" in self._sh("ip", "link")
        )  # fmt: skip

    def _groups(self, pattern: str) -> dict[str, Path]:
        return {path.name[4:12]: path for path in Path("/sys/fs/cgroup").glob(pattern)}

    def _holders(self, path: Path) -> bool:
        try:
            return bool((path / "cgroup.procs").read_text())
        except OSError:
            return False  # it went while we looked


class Rogue:
    """A link that says what the dice say, and hears the keeper's heart beat."""

    def __init__(self, keeper: Keeper, kernel: Kernel, dice: Dice) -> None:
        self._keeper = keeper
        self._kernel = kernel
        self._dice = dice
        self._hostile = Hostile()
        self._link: Link | None = None
        self._sent_at = 0
        self.said = 0
        self.heard = 0

    def burst(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for step in steps(self._dice):
                if time.monotonic() > until:
                    break
                if step[0] == "wait":
                    time.sleep(min(step[1] / 1e6, 0.3))
                else:
                    self._say(self._hostile.spoken(step))
                self._hear()
                self._kernel.judge()
            if self._dice.one_in(4):
                self._flood()

    def _flood(self) -> None:
        message = dumped({"type": "revert", "fault": "ffffffff"}).encode()
        for _ in range(300):
            self._say(message)

    def _say(self, data: bytes) -> None:
        self.said += 1
        try:
            if self._link is None:
                time.sleep(0.1)
                self._link = Link(self._keeper.socket)
                self._link.socket.setblocking(False)
            self._link.socket.send(data)
        except (ConnectionError, InvalidInput, BlockingIOError):
            self._link = None  # refused as a flood, or dropped for one
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise

    def _hear(self) -> None:
        """Every heartbeat in time, and of a size that a link takes."""
        try:
            while self._link is not None:
                data = self._link.socket.recv(1 << 20)
                if not data:
                    self._link = None
                    return
                beat = from_keeper(data)
                assert isinstance(beat, Heartbeat)
                gap = (beat.sent_at - self._sent_at) / 1e6
                assert not self._sent_at or gap < LOOP_S, f"no heartbeat for {gap:.1f} s"
                self._sent_at = beat.sent_at
                self._hostile.seqs.append(beat.seq)
                self.heard += 1
        except (BlockingIOError, ConnectionError):
            return

    def leave(self) -> None:
        if self._link is not None:
            self._link.socket.close()
        self._link, self._sent_at = None, 0


@pytest.fixture
def keeper(net: Any, tmp_path: Path, wait_for: Callable[..., None]) -> Iterator[Keeper]:  # noqa: ARG001
    started = Keeper(tmp_path, ENVELOPE)
    try:
        wait_for(started.socket.exists, 20)
        yield started
    finally:
        started.process.kill()
        started.process.wait()


def test_a_taken_over_link_gets_no_more_than_the_envelope_allows(
    keeper: Keeper, sh: Callable[..., str], wait_for: Callable[..., None], net: Any
) -> None:
    kernel = Kernel(sh)
    rogue = Rogue(keeper, kernel, Dice(SEED))
    began, before = time.monotonic(), 0
    while not before or time.monotonic() < began + SECONDS:
        rogue.burst(min(BURST_S, SECONDS))
        rogue.leave()
        quiet = time.monotonic()
        wait_for(kernel.nothing, LEASE_S + REVERT_S)
        assert time.monotonic() - quiet <= LEASE_S + REVERT_S
        assert keeper.process.poll() is None
        before = before or _rss(keeper.process.pid)
    assert _rss(keeper.process.pid) - before < GROWTH_KB
    assert rogue.heard > 0
    print(f"{rogue.said} hostile messages, {rogue.heard} heartbeats, seed {SEED}")
    _honest(Link(keeper.socket), net)
    log = keeper.end()
    assert "Traceback" not in log
    assert all(line.isprintable() for line in log.splitlines())


def _rss(pid: int) -> int:
    """Resident memory in kB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0])


def _honest(link: Link, net: Any) -> None:
    """After all that the keeper serves whoever is honest; a node in quarantine may refuse."""
    first, second = link.heartbeat(), link.heartbeat()
    assert second.sent_at - first.sent_at < LOOP_S * 1e6
    assert not second.quarantine, second.quarantine
    epoch = second.epoch
    link.send(Revert())
    request = {
        "type": "apply", "epoch": epoch, "seq": link.heartbeat().seq, "ttl_us": 3_000_000,
        "run": "r-9", "fault": "0a1b2c3d", "kind": "network.partition", "duration_us": 60_000_000,
        "params": json.dumps({"peers": "10.9.0.2", "direction": "in", "action": "reject"}),
    }  # fmt: skip
    link.socket.settimeout(10)
    link.socket.send(dumped(request).encode())
    while not (status := [s for s in link.heartbeat().faults if s.fault == "0a1b2c3d"]):
        continue
    assert status[0].state in ("applying", "in_force"), status
    link.send(Revert())
    while link.heartbeat().faults[-1].state != "ended":
        continue
    assert net.ping_from_peer(4, net.peer[4])
