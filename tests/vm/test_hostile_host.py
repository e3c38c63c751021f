"""A host that is out of CPU, out of disk, out of time or asleep, while faults are in force.

Runs on the fleet that the other system tests use.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from tests.vm.bounds import BOUND_S

from chaos_core.errors import Exit
from chaos_lab import provision
from chaos_lab.drill import residue
from chaos_lab.drill.context import Drill
from chaos_lab.drill.measure import Pings, delayed
from chaos_lab.layout import CONTROLLER, HOST_IP

NODE = "n2"
HIT = delayed(100)
HOUR = 3600
UNIT = "/sys/fs/cgroup/system.slice/chaos-agent.service"
CROWD = ",".join(f"{HOST_IP.rpartition('.')[0]}.{n}" for n in range(100, 228, 2))  # 64, apart
LATENCY = ("network.latency", f"peers={HOST_IP}", "delay=200ms")
_BUSY = "import os\nfor _ in range(199): os.fork() or exec('while True: pass')\nwhile True: pass"
_FILL = """
left=$(df --output=avail -B1 /var/lib/chaos-agent | tail -1)
fallocate -l "$left" /var/lib/fill
cat /dev/zero >/var/lib/fill-the-rest 2>/dev/null
df --output=avail -B1 /var/lib/chaos-agent | tail -1
"""


@pytest.fixture
def lab(system: Drill) -> Iterator[Drill]:
    """The node in profile lab, and the others as they were."""
    system.set_profile("lab", NODE)
    yield system
    system.set_profile("staging", NODE)


@contextmanager
def no_cpu(drill: Drill) -> Iterator[None]:
    """200 busy processes, in a service beside ours."""
    start = ["systemd-run", "--unit=busy", "-p", "TasksMax=infinity", "python3", "-c", _BUSY]
    drill.fleet.exec(NODE, start)
    try:
        yield
    finally:
        drill.fleet.exec(NODE, ["systemctl", "kill", "-s", "KILL", "busy"])


@contextmanager
def no_disk(drill: Drill) -> Iterator[None]:
    """Not one byte left where the journal is."""
    left = drill.fleet.exec(NODE, ["sh", "-c", _FILL]).stdout
    assert int(left) == 0
    try:
        yield
    finally:
        drill.fleet.exec(NODE, ["rm", "/var/lib/fill", "/var/lib/fill-the-rest"])


@contextmanager
def other_time(drill: Drill, name: str, seconds: int) -> Iterator[None]:
    """A VM's wall clock is wrong by so much, and right again afterwards."""
    drill.fleet.exec(name, ["date", "-s", f"{seconds:+d} seconds"])
    try:
        yield
    finally:
        drill.fleet.exec(name, ["date", "-s", f"{-seconds:+d} seconds"])


def in_force(drill: Drill) -> list[str]:
    return [f["kind"] for f in drill.node(NODE)["faults"] if f["state"] == "in_force"]


def last_journal(drill: Drill) -> dict[str, object]:
    text = drill.fleet.get(NODE, "/var/lib/chaos-agent/journal").decode()
    entry: dict[str, object] = json.loads(text.splitlines()[-1].partition(" ")[2])
    return entry


def test_a_starved_agent_goes_on_or_its_faults_end_and_all_is_clean_after_an_abort(
    lab: Drill,
) -> None:
    """Its own faults at the ceiling, 200 busy processes and a full disk, all at once."""
    before = residue.listing(lab, NODE)
    with ExitStack() as stack:
        wire = stack.enter_context(Pings(lab.fleet, "", lab.ip(NODE)))
        for kind, *params in (
            ("cpu.stress", "percent=90%"),
            ("memory.stress", "percent=40%"),
            LATENCY,
        ):
            run = lab.inject(kind, *params, nodes=(NODE,), seconds=120)
            stack.callback(run.drop)
            run.reached("observe")
        wire.wait(HIT)
        assert lab.fleet.get(NODE, f"{UNIT}/keeper/cpu.weight") == b"10000\n"
        with no_disk(lab), no_cpu(lab):
            until = time.monotonic() + 15
            while time.monotonic() < until:
                node = lab.node(NODE)
                if node["state"] != "connected":  # then its leases run out
                    assert wire.clean_after(time.monotonic(), HIT) < BOUND_S
                    break
                time.sleep(0.5)
            # Its intent is larger than a block: what fits into the journal's last one may be kept.
            code, out, err = lab.chaosctl(
                *("inject", "network.loss", f"peers={CROWD}", "percent=1%"),
                *("-n", NODE, "--for", "2s", "--yes"),
            )
            starved = "not heard since its lease ended" in out + err
            assert code in (Exit.REFUSED, Exit.NODE_UNREACHABLE) or starved, out + err
            if code == Exit.REFUSED and node["state"] == "connected":
                assert "journal" in out + err
            pressed, _ = lab.abort()
            assert wire.clean_after(pressed, HIT) < BOUND_S
        lab.resume()
    lab.wait_for(lambda: lab.node(NODE)["state"] == "connected", f"{NODE} to be back")
    assert not in_force(lab)
    assert residue.listing(lab, NODE) == before
    code, out, err = lab.chaosctl(
        *("inject", "memory.stress", "percent=1%", "-n", NODE, "--for", "2s", "--yes")
    )
    assert code == Exit.DONE, out + err


def test_an_agent_that_is_killed_while_the_disk_is_full_comes_back_and_recovers(
    lab: Drill,
) -> None:
    before = residue.listing(lab, NODE)
    run = lab.inject(*LATENCY, nodes=(NODE,), seconds=60)
    run.reached("observe")
    with no_disk(lab):
        units = (provision.KEEPER_UNIT, provision.LINK_UNIT)
        lab.fleet.exec(NODE, ["systemctl", "kill", "--kill-who=all", "-s", "KILL", *units])
        assert run.wait() == Exit.FAILED
        lab.wait_for(lambda: lab.node(NODE)["state"] == "connected", f"{NODE} to be back")
        assert residue.listing(lab, NODE) == before
    assert last_journal(lab)["reason"] == "recover"


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
@pytest.mark.parametrize("where", [NODE, CONTROLLER])
def test_a_wall_clock_that_jumps_by_an_hour_changes_nothing(
    lab: Drill, where: str, seconds: int
) -> None:
    with Pings(lab.fleet, "", lab.ip(NODE)) as wire:
        run = lab.inject(*LATENCY, nodes=(NODE,), seconds=8)
        began = wire.wait(HIT)
        with other_time(lab, where, seconds):
            ended = wire.clean_after(began, HIT)
            assert run.wait() == Exit.DONE
    assert 7 < ended < 11
    assert last_journal(lab)["reason"] == "duration"


def test_a_vm_that_is_paused_by_its_host_wakes_up_without_its_fault(lab: Drill) -> None:
    """As in a live migration: all of the machine stands still for longer than a lease."""
    pid = next(vm.pid for vm in lab.fleet.status() if vm.name == NODE)
    assert pid
    with Pings(lab.fleet, "", lab.ip(NODE)) as wire:
        run = lab.inject(*LATENCY, nodes=(NODE,), seconds=120)
        wire.wait(HIT)
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(6)
        finally:
            os.kill(pid, signal.SIGCONT)
        woke = time.monotonic()
        assert wire.clean_after(woke, HIT) < 2
        run.drop()
    provision.wait_connected(lab.fleet)
    assert last_journal(lab)["reason"] in ("lease", "recover")  # the watchdog may come first
    assert not lab.node(NODE)["quarantine"]
    lab.abort()
    lab.resume()
