"""Limits of a real service, where systemd hands out the controllers and rewrites the files.

That systemd puts them back when the agent is gone is for the catalogue and the kill matrix to
show; the timer is the same that test_clock.py and test_hooks.py look at.
Runs on the fleet that test_system.py uses.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from chaos_core.errors import Exit
from chaos_lab.drill import units
from chaos_lab.drill.context import Drill

MIB = 2**20
# It computes, and writes a file past the page cache; each line is how many MiB there are by now.
_PROGRAM = """
import mmap, os, time
out = os.open("/var/tmp/busy", os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
page = mmap.mmap(-1, 1 << 18)
while True:
    os.pwrite(out, page, 0)
"""
_UNIT = "[Service]\nExecStart=/usr/bin/python3 /etc/busy.py\n"
GROUP = "/sys/fs/cgroup/system.slice/busy.service"
KINDS = {
    "cpu.throttle": ["percent=5%"],
    "memory.limit": ["percent=90%"],
    "io.throttle": ["path=/", "write=512KiB", "read=1MiB"],
    "pids.exhaust": [],
}


@pytest.fixture(scope="module")
def busy(system: Drill) -> Iterator[Drill]:
    """``busy.service`` works on n1."""
    system.fleet.put("n1", "/etc/busy.py", _PROGRAM)
    system.fleet.put("n1", "/run/systemd/system/busy.service", _UNIT)
    units.reload(system.fleet, "n1")
    system.fleet.exec("n1", ["systemctl", "start", "busy"])
    yield system
    system.fleet.exec("n1", ["systemctl", "stop", "busy"])
    system.fleet.exec("n1", ["rm", "/run/systemd/system/busy.service", "/etc/busy.py"])
    units.reload(system.fleet, "n1")


def sh(busy: Drill, *argv: str) -> str:
    return busy.fleet.exec("n1", list(argv)).stdout


def limits(busy: Drill) -> str:
    """The service's limits as the kernel has them, and what systemd keeps beside them."""
    files = [f"{GROUP}/{name}" for name in ("cpu.max", "memory.high", "io.max", "pids.max")]
    places = ["/run/systemd/system.control", "/etc/systemd/system.control"]
    kept = busy.fleet.exec("n1", ["find", *places], check=False).stdout
    timers = ["systemctl", "list-units", "--all", "--no-legend", "--plain", "chs-*"]
    return "\n".join([sh(busy, "cat", *files), kept, sh(busy, *timers)])


def written(busy: Drill) -> int:
    """Bytes that the service has written so far, by the kernel's accounts."""
    words = sh(busy, "cat", f"{GROUP}/io.stat").split()
    return next(int(word.partition("=")[2]) for word in words if word.startswith("wbytes="))


def rate(busy: Drill, seconds: float = 2) -> float:
    """Bytes a second."""
    began, before = time.monotonic(), written(busy)
    time.sleep(seconds)
    return (written(busy) - before) / (time.monotonic() - began)


@pytest.mark.parametrize("kind", KINDS)
def test_a_limit_of_a_service_ends_with_the_abort(busy: Drill, kind: str) -> None:
    before = limits(busy)
    run = busy.inject(kind, "unit=busy", *KINDS[kind], nodes=("n1",), seconds=60)
    run.reached("observe")
    assert limits(busy) != before
    busy.abort()
    assert limits(busy) == before
    busy.resume()
    run.wait()
    assert not busy.node("n1")["quarantine"]


def test_a_disk_is_as_slow_as_was_asked(busy: Drill) -> None:
    assert rate(busy) > 2 * MIB
    with busy.fault("io.throttle", "unit=busy", "path=/", "write=512KiB", nodes=("n1",)):
        rate(busy, 1)  # what was on its way
        measured = rate(busy, 4)
        print(f"io.throttle write=512KiB: measured {measured / 1024:.0f} KiB/s")
        assert 0.25 * MIB < measured < 0.75 * MIB
    assert rate(busy) > 2 * MIB


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (["systemctl", "set-property", "--runtime", "busy", "CPUQuota=70%"], "70000 100000"),
        (["systemctl", "restart", "busy"], "max 100000"),
    ],
)
def test_what_the_user_does_to_the_service_meanwhile_stands(
    busy: Drill, change: list[str], left: str
) -> None:
    run = busy.inject("cpu.throttle", "unit=busy", "percent=5%", nodes=("n1",), seconds=60)
    run.reached("observe")
    sh(busy, *change)
    assert run.wait() == Exit.FAILED
    assert [f["reason"] for f in busy.node("n1")["faults"]][-1] == "disturbed"
    assert sh(busy, "cat", f"{GROUP}/cpu.max").strip() == left
    assert not busy.node("n1")["quarantine"]
    sh(busy, "systemctl", "revert", "busy")
    sh(busy, "systemctl", "daemon-reload")
