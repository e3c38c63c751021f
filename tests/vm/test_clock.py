"""A wall clock that jumps on a real node, with a time daemon that would set it right.

Runs on the fleet that test_system.py uses.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import pytest
from tests.vm.bounds import BOUND_S

from chaos_core.errors import Exit
from chaos_lab import provision
from chaos_lab.drill import units
from chaos_lab.drill.context import Drill

NEAR_S = 0.5
# In the place of chrony, which the lab has not: it must be down while the clock is wrong.
_DAEMON = "[Service]\nExecStart=/bin/sleep infinity\n"
_SAY = "import time; print(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME))"


@pytest.fixture(scope="module")
def timed(system: Drill) -> Iterator[Drill]:
    system.fleet.put("n1", "/run/systemd/system/chrony.service", _DAEMON)
    units.reload(system.fleet, "n1")
    system.fleet.exec("n1", ["systemctl", "start", "chrony"])
    yield system
    system.fleet.exec("n1", ["systemctl", "stop", "chrony"])
    system.fleet.exec("n1", ["rm", "/run/systemd/system/chrony.service"])
    units.reload(system.fleet, "n1")


def clock(drill: Drill) -> float:
    """Where n1's wall clock stands against its time since boot, in s."""
    return float(drill.fleet.exec("n1", ["python3", "-c", _SAY]).stdout)


def state(drill: Drill) -> str:
    """How the daemon is, and which undo timers there are."""
    show = ["systemctl", "show", "chrony", "-p", "ActiveState", "--value"]
    timers = ["systemctl", "list-units", "--all", "--no-legend", "--plain", "chs-*"]
    return " ".join(drill.fleet.exec("n1", argv).stdout.strip() for argv in (show, timers)).strip()


@pytest.mark.parametrize(("offset", "seconds"), [("+1h", 3600), ("-10m", -600)])
def test_a_skew_lasts_through_leases_and_ends_with_the_abort(
    timed: Drill, offset: str, seconds: int
) -> None:
    before = clock(timed)
    run = timed.inject("clock.skew", f"offset={offset}", nodes=("n1",), seconds=60)
    run.reached("observe")
    time.sleep(4)  # longer than a lease: it has been renewed
    moved = clock(timed) - before
    print(f"clock.skew offset={offset}: measured {moved:+.6f} s")
    assert abs(moved - seconds) < NEAR_S
    assert state(timed).startswith("inactive")
    pressed, _ = timed.abort()
    assert abs(clock(timed) - before) < NEAR_S
    assert time.monotonic() - pressed < BOUND_S
    timed.resume()
    run.wait()
    print(f"after: {clock(timed) - before:+.6f} s")
    assert state(timed) == "active"
    assert not timed.node("n1")["quarantine"]


_TURNS = """
import time
for _ in range(100):
    print(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME))
    time.sleep(0.05)
"""


def test_a_strobe_goes_to_and_fro_through_leases_and_ends_with_the_abort(timed: Drill) -> None:
    before = clock(timed)
    run = timed.inject("clock.skew", "offset=+10m", "strobe=1s", nodes=("n1",), seconds=60)
    run.reached("observe")
    time.sleep(4)  # longer than a lease: it has been renewed
    said = timed.fleet.exec("n1", ["python3", "-c", _TURNS], timeout=60).stdout.split()
    moved = [round(float(line) - before) for line in said]
    jumps = sum(one != other for one, other in itertools.pairwise(moved))
    print(f"clock.skew strobe=1s: {moved.count(600)} × +600 s, {moved.count(0)} × 0, {jumps} jumps")
    assert set(moved) == {0, 600}
    assert jumps >= 3
    pressed, _ = timed.abort()
    assert abs(clock(timed) - before) < NEAR_S
    assert time.monotonic() - pressed < BOUND_S
    timed.resume()
    run.wait()
    assert abs(clock(timed) - before) < NEAR_S
    assert state(timed) == "active"
    assert not timed.node("n1")["quarantine"]


@pytest.mark.parametrize("strobe", [(), ("strobe=1s",)])
def test_systemd_sets_the_clock_right_when_the_keeper_is_stopped(
    timed: Drill, strobe: tuple[str, ...]
) -> None:
    """And the keeper, when it goes on, does not set it right a second time."""
    before = clock(timed)
    units.look_away(timed.fleet, "n1")
    units.restart(timed.fleet, "n1")
    provision.wait_connected(timed.fleet)
    try:
        run = timed.inject("clock.skew", "offset=+10m", *strobe, nodes=("n1",), seconds=120)
        run.reached("observe")
        timed.wait_for(lambda: abs(clock(timed) - before - 600) < NEAR_S, "the clock to be wrong")
        timed.fleet.exec("n1", ["systemctl", "kill", "-s", "STOP", provision.KEEPER_UNIT])
        began = time.monotonic()
        timed.wait_for(lambda: abs(clock(timed) - before) < NEAR_S, "the clock")
        assert time.monotonic() - began < BOUND_S
        timed.wait_for(lambda: state(timed) == "active", "the daemon, and no timer")
        assert abs(clock(timed) - before) < NEAR_S, "no turn after the last"
        run.drop()
    finally:
        units.look_back(timed.fleet, "n1")
        timed.fleet.exec(
            "n1", ["systemctl", "kill", "-s", "CONT", provision.KEEPER_UNIT], check=False
        )
        units.restart(timed.fleet, "n1")
        provision.wait_connected(timed.fleet)
    assert abs(clock(timed) - before) < NEAR_S  # not twice
    assert not timed.node("n1")["quarantine"]
    timed.abort()
    timed.resume()


def test_a_user_who_sets_the_clock_meanwhile_is_right(timed: Drill) -> None:
    before = clock(timed)
    run = timed.inject("clock.skew", "offset=+10m", nodes=("n1",), seconds=60)
    run.reached("observe")
    set_back = f"import time; time.clock_settime(0, time.clock_gettime(7) + {before})"
    timed.fleet.exec("n1", ["python3", "-c", set_back])
    assert run.wait() == Exit.FAILED
    assert [f["reason"] for f in timed.node("n1")["faults"]][-1] == "disturbed"
    assert abs(clock(timed) - before) < NEAR_S
    assert state(timed) == "active"
    assert not timed.node("n1")["quarantine"]
