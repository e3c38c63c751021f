"""What a service collects on a signal, and memory that comes and goes, on a real node.

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
_MARK = "/run/collected"
_COLLECTS = f"""
[Service]
Type=exec
ExecStart=/bin/sh -c 'trap "echo x >> {_MARK}" USR1; while :; do sleep 0.2; done'
"""
_DIES = "[Service]\nType=exec\nExecStart=/bin/sleep infinity\n"


@pytest.fixture(scope="module")
def services(system: Drill) -> Iterator[Drill]:
    """``collects`` handles SIGUSR1, ``dies`` would die of it."""
    for name, text in (("collects", _COLLECTS), ("dies", _DIES)):
        system.fleet.put("n1", f"/run/systemd/system/{name}.service", text)
    units.reload(system.fleet, "n1")
    system.fleet.exec("n1", ["systemctl", "start", "collects", "dies"])
    yield system
    system.fleet.exec("n1", ["systemctl", "stop", "collects", "dies"])
    system.fleet.exec("n1", ["rm", "-f", _MARK])
    for name in ("collects", "dies"):
        system.fleet.exec("n1", ["rm", f"/run/systemd/system/{name}.service"])
    units.reload(system.fleet, "n1")


def pid(drill: Drill, unit: str) -> str:
    return drill.fleet.exec("n1", ["systemctl", "show", unit, "-p", "MainPID", "--value"]).stdout


def meminfo(drill: Drill) -> dict[str, int]:
    """In bytes."""
    lines = drill.fleet.get("n1", "/proc/meminfo").decode().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}


def test_a_service_that_handles_the_signal_gets_it(services: Drill) -> None:
    before = pid(services, "collects")
    run = services.inject("gc.pressure", "unit=collects", "signal=USR1", nodes=("n1",), seconds=2)
    assert run.wait() == Exit.DONE, run.last_words()
    services.wait_for(lambda: services.fleet.get("n1", _MARK) == b"x\n", "the mark")
    assert pid(services, "collects") == before


def test_a_service_that_would_die_of_it_is_left_alone(services: Drill) -> None:
    before = pid(services, "dies")
    words = ("inject", "gc.pressure", "unit=dies", "signal=USR1", "-n", "n1", "--for", "2s")
    code, out, err = services.chaosctl(*words, "--yes")
    assert (code, "does not handle SIGUSR1" in out + err) == (Exit.REFUSED, True), out + err
    assert pid(services, "dies") == before


def test_churn_is_in_force_and_ends(system: Drill) -> None:
    with system.fault("gc.pressure", "churn=4MiB", "cpu=20%", nodes=("n1",)):
        time.sleep(4)
        system.node("n1")
    assert not system.node("n1")["quarantine"]


def test_page_cache_is_taken_and_given_back(system: Drill) -> None:
    before = meminfo(system)
    wanted = before["MemTotal"] // 5
    with system.fault("memory.stress", "percent=20%", "mode=pagecache", nodes=("n1",)):
        time.sleep(4)  # longer than a lease
        during = meminfo(system)
    taken = during["Shmem"] - before["Shmem"]
    print(f"memory.stress percent=20% mode=pagecache: Shmem +{100 * taken / wanted / 5:.1f} points")
    assert wanted - 16 * MIB < taken < wanted + MIB  # the rest is the holder's own
    assert during["Cached"] - before["Cached"] > 0.7 * taken
    system.wait_for(
        lambda: abs(meminfo(system)["Shmem"] - before["Shmem"]) < 2 * MIB, "it to be gone"
    )
    assert not system.node("n1")["quarantine"]
