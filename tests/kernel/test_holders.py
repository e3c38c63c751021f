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
from pathlib import Path

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


def test_a_ramp_raises_the_quota_to_what_was_asked_and_not_above(
    host: Host, wait_for: Wait
) -> None:
    start(host, SLOWLY, wait_for)
    seen = [host.cgroups.quota(SLOWLY.name)]
    while seen[-1] < SLOWLY.cpu_quota and len(seen) < 100:
        time.sleep(0.1)
        seen.append(host.cgroups.quota(SLOWLY.name))
    assert seen == sorted(seen)
    assert seen[0] < SLOWLY.cpu_quota / 2
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
