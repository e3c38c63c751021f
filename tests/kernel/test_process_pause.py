"""Chosen processes stand still and go on, and nobody else does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from chaos_agent.effects import ops
from chaos_agent.linux import processes
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.host import Host
from chaos_agent.undo import undo
from chaos_core.effects import Stop, to_text
from chaos_core.node import ProcessQuery

MARK = f"chaos-test-pause-{os.getpid()}"
_COUNTS = (
    "import itertools, time\nfor n in itertools.count(): print(n, flush=True); time.sleep(.01)"
)


class Counting:
    """A process that counts aloud."""

    def __init__(self, mark: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _COUNTS, mark], stdout=subprocess.PIPE, text=True
        )
        self.count()

    def count(self) -> int:
        """How far it has come: waits for its next line."""
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def identity(self) -> tuple[int, int]:
        started = processes.started(self.process.pid)
        assert started is not None
        return self.process.pid, started

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def two() -> Iterator[list[Counting]]:
    counting = [Counting(MARK), Counting(MARK)]
    yield counting
    for one in counting:
        one.close()


@pytest.fixture
def bystander() -> Iterator[Counting]:
    one = Counting("another")
    yield one
    one.close()


def ticks(one: Counting) -> int:
    """CPU time that it has taken, by the kernel's accounts; one that stands still takes none."""
    with open(f"/proc/{one.process.pid}/status") as status:  # noqa: PTH123
        return sum(int(line.split()[1]) for line in status if "ctxt_switches" in line)


def test_they_stand_still_and_go_on(
    host: Host, two: list[Counting], bystander: Counting, wait_for: Callable[..., None]
) -> None:
    effect = Stop(tuple(one.identity() for one in two))
    assert ops(effect).verify(host, effect)
    ops(effect).apply(host, effect, now_us() + 3_000_000)
    wait_for(lambda: ops(effect).verify(host, effect) is None)
    before = [ticks(one) for one in two]
    beside = bystander.count()
    assert bystander.count() > beside
    assert [ticks(one) for one in two] == before
    for _ in range(2):
        ops(effect).revert(host, effect)
        assert ops(effect).absent(host, effect) is None
    wait_for(lambda: all(ticks(one) > was for one, was in zip(two, before, strict=True)))


def test_the_timers_undo_lets_them_go_on(two: list[Counting], host: Host) -> None:
    effect = Stop(tuple(one.identity() for one in two))
    ops(effect).apply(host, effect, now_us() + 3_000_000)
    undo([to_text(effect)])
    assert not processes.stopped(effect.victims)


def test_a_fault_of_them_ends_clean_and_leaves_who_was_stopped_before(
    node: Any, two: list[Counting], wait_for: Callable[..., None]
) -> None:
    asleep, awake = two
    asleep.process.send_signal(signal.SIGSTOP)
    wait_for(lambda: processes.is_stopped(*asleep.identity()))
    fault = node.apply("process.pause", cmdline=MARK, seconds=20)
    node.await_in_force(fault)
    assert processes.is_stopped(*awake.identity())
    before = ticks(awake)
    node.supervisor.end_all("shutdown", now_us())
    assert node.status(fault).clean, node.status(fault)
    wait_for(lambda: ticks(awake) > before)
    assert processes.is_stopped(*asleep.identity())


@pytest.mark.parametrize("how", ["CONT", "KILL"])
def test_one_that_goes_on_or_ends_is_disturbed_and_the_others_go_on(
    node: Any, two: list[Counting], wait_for: Callable[..., None], how: str
) -> None:
    mine, other = two
    fault = node.apply("process.pause", cmdline=MARK, seconds=20)
    node.await_in_force(fault)
    mine.process.send_signal(getattr(signal, f"SIG{how}"))
    wait_for(lambda: not processes.is_stopped(*_seen(mine)))
    node.look()
    status = node.status(fault)
    assert (status.reason, status.clean) == ("disturbed", True), status
    assert not processes.is_stopped(*other.identity())


def _seen(one: Counting) -> tuple[int, int]:
    return one.process.pid, processes.started(one.process.pid) or 0


def test_a_recycled_pid_is_neither_stopped_nor_woken(
    host: Host, two: list[Counting], wait_for: Callable[..., None]
) -> None:
    pid, start = two[0].identity()
    effect = Stop(((pid, start - 1),))
    ops(effect).apply(host, effect, now_us() + 3_000_000)
    assert not processes.is_stopped(pid, start)
    two[0].process.send_signal(signal.SIGSTOP)
    wait_for(lambda: processes.is_stopped(pid, start))
    assert ops(effect).absent(host, effect) is None
    ops(effect).revert(host, effect)
    assert processes.is_stopped(pid, start)


def test_stopped_processes_are_known_as_such(
    two: list[Counting], wait_for: Callable[..., None]
) -> None:
    two[0].process.send_signal(signal.SIGSTOP)
    wait_for(lambda: processes.is_stopped(*two[0].identity()))
    found = {one.pid: one.stopped for one in processes.find(ProcessQuery(cmdline=MARK))}
    assert found == {two[0].process.pid: True, two[1].process.pid: False}


def test_who_asks_is_none_of_them() -> None:
    """Or it would stop itself, in ``chaos-agent apply --local``."""
    assert not list(processes.find(ProcessQuery(pid=os.getpid())))
