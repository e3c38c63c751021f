"""A kill that is done again and again: to whoever is there by then, and only under the lease."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from chaos_agent.linux.boottime import now_us

MARK = f"chaos-test-repeat-{os.getpid()}"
SECOND = 1_000_000


class Respawned:
    """A process that is started anew by hand, as a service with ``Restart=`` would be."""

    def __init__(self) -> None:
        self.process = self.start()

    def start(self, program: str = "") -> subprocess.Popen[bytes]:
        words = [
            sys.executable,
            "-c",
            f"{program}\nimport time; print(flush=True); time.sleep(600)",
        ]
        process = subprocess.Popen([*words, MARK], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        self.process = process
        return process


@pytest.fixture
def victim() -> Iterator[Respawned]:
    victim = Respawned()
    yield victim
    victim.process.kill()
    victim.process.wait()


def test_each_round_finds_who_is_there_by_then(node: Any, victim: Respawned) -> None:
    fault = node.apply("process.kill", cmdline=MARK, repeat="1s", seconds=60)
    assert victim.process.wait(5) == -signal.SIGKILL
    node.await_in_force(fault)
    at = node.engine.standing[fault].round_at
    for number in range(1, 4):
        node.grant("r-1")
        assert victim.start().poll() is None
        node.supervisor.tick(at + SECOND - 1)
        assert victim.process.poll() is None, "too early"
        node.supervisor.tick(at + SECOND)
        assert victim.process.wait(5) == -signal.SIGKILL, f"round {number}"
        at = node.engine.standing[fault].round_at
        node.supervisor.tick(at + SECOND)  # nobody is there: no round, and no harm
        at = node.engine.standing[fault].round_at
    assert node.status(fault).state == "in_force"
    node.supervisor.end_all("shutdown", now_us())
    assert node.status(fault).clean


def test_no_round_without_a_lease(node: Any, victim: Respawned) -> None:
    fault = node.apply("process.kill", cmdline=MARK, repeat="4s", seconds=60)
    victim.process.wait(5)
    node.await_in_force(fault)
    victim.start()
    node.supervisor.tick(now_us() + 5 * SECOND)  # the lease was over before the round was due
    assert node.status(fault).reason == "lease"
    assert victim.process.poll() is None


def test_a_round_that_was_survived_ends_the_fault(
    node: Any, victim: Respawned, wait_for: Callable[..., None]
) -> None:
    fault = node.apply("process.kill", cmdline=MARK, signal="TERM", repeat="1s", seconds=60)
    victim.process.wait(5)
    node.await_in_force(fault)
    victim.start("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    standing = node.engine.standing[fault]

    def ended() -> bool:
        node.grant("r-1")
        node.supervisor.tick(now_us())
        return bool(node.status(fault).state == "ended")

    wait_for(ended)
    assert node.status(fault).reason == "disturbed"
    assert str(victim.process.pid) in node.status(fault).detail
    assert standing.round
    assert victim.process.poll() is None


def test_one_that_may_not_be_touched_ends_the_fault_unharmed(
    node: Any, victim: Respawned, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chaos_core.faults import _processes

    fault = node.apply("process.kill", cmdline=MARK, repeat="1s", seconds=60)
    victim.process.wait(5)
    node.await_in_force(fault)
    victim.start()
    monkeypatch.setattr(_processes, "_protected", lambda *_: "protected")
    node.grant("r-1")
    node.supervisor.tick(node.engine.standing[fault].round_at + SECOND)
    assert node.status(fault).state == "ended"
    assert victim.process.poll() is None
