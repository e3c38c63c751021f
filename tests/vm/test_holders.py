"""Disks, device bandwidth and descriptors, from within the sandbox of the agent's own unit."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from chaos_core.errors import Exit
from chaos_lab import provision
from chaos_lab.drill import units
from chaos_lab.drill.context import Drill

STATE = "/var/lib/chaos-agent"  # all that the agent's unit may write on the VM's only disk
MIB = 2**20
KINDS = {
    "disk.fill": (f"path={STATE}", "size=100MiB", "system=true"),
    "io.stress": (f"path={STATE}", "rate=4MiB", "mode=write", "system=true"),
    "fd.exhaust": ("count=30000",),
}
_LOOK = """
import os
room = os.statvfs("/")
disk = next(line.split() for line in open("/proc/diskstats") if " ubda " in line)
files = open("/proc/sys/fs/file-nr").read().split()
print(room.f_bfree * room.f_frsize, 512 * int(disk[9]), files[0])
"""


def look(system: Drill) -> dict[str, int]:
    """What each kind would change: free bytes of the disk, bytes written to it, open files."""
    words = system.fleet.exec("n1", ["python3", "-c", _LOOK]).stdout.split()
    return dict(zip(KINDS, map(int, words), strict=True))


def in_force(kind: str, before: dict[str, int], now: dict[str, int], seconds: float) -> bool:
    """Whether one kind is seen from outside, and as strong as it was asked for."""
    change = now[kind] - before[kind]
    match kind:
        case "disk.fill":
            return 99 * MIB < -change < 120 * MIB
        case "io.stress":
            return 2 * MIB < change / seconds < 6 * MIB
        case _:
            return 29_000 < change < 33_000


@pytest.fixture
def looked_away(system: Drill) -> Iterator[Drill]:
    """No restart, no watchdog, no ``recover``: only the kernel is left."""
    units.look_away(system.fleet, "n1")
    units.restart(system.fleet, "n1")
    provision.wait_connected(system.fleet)
    yield system
    units.look_back(system.fleet, "n1")
    system.fleet.exec("n1", ["systemctl", "kill", "-s", "CONT", provision.KEEPER_UNIT], check=False)
    units.restart(system.fleet, "n1")
    provision.wait_connected(system.fleet)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_taken_as_asked_and_given_back(system: Drill, kind: str) -> None:
    before = look(system)
    with system.fault(kind, *KINDS[kind], nodes=("n1",)):
        began, first = time.monotonic(), look(system)
        time.sleep(4 if kind == "io.stress" else 0)
        now, seconds = look(system), time.monotonic() - began
        assert in_force(kind, first if kind == "io.stress" else before, now, seconds), (before, now)
    if kind == "disk.fill":
        assert abs(look(system)[kind] - before[kind]) < 20 * MIB, "but for logs"


def test_a_stopped_keeper_gives_the_disk_back_with_the_lease(looked_away: Drill) -> None:
    before = look(looked_away)["disk.fill"]
    run = looked_away.inject("disk.fill", *KINDS["disk.fill"], nodes=("n1",), seconds=120)
    run.reached("observe")
    looked_away.fleet.exec("n1", ["systemctl", "kill", "-s", "STOP", provision.KEEPER_UNIT])
    deadline = time.monotonic() + 10
    while before - look(looked_away)["disk.fill"] > 50 * MIB:
        assert time.monotonic() < deadline, "the disk is still full"
        time.sleep(0.2)
    run.wait()


@pytest.mark.parametrize(
    ("params", "why"),
    [
        (("path=/", "size=1MiB"), "path: / is on the file system of the root"),
        (("path=/srv", "size=1MiB", "system=true"), "ReadWritePaths=/"),
        (("path=/proc", "size=1MiB"), "path: /proc is on proc"),
        (("path=/var/run", "size=1MiB"), "path: /var/run is a link"),
        (("path=/nope", "size=1MiB"), "path: there is no /nope on n1"),
        ((f"path={STATE}", "percent=99%", "system=true"), "always stay free"),
    ],
)
def test_what_must_not_be_filled_is_refused(
    system: Drill, params: tuple[str, ...], why: str
) -> None:
    code, out, err = system.chaosctl(
        "inject", "disk.fill", "-n", "n1", *params, "--for", "5s", "--yes"
    )
    assert code != Exit.DONE
    assert why in " ".join(f"{out} {err}".split())
