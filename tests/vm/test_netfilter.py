"""Network faults that need systemd, or a controller on the other side of the wire.

Runs on the fleet that test_system.py uses.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chaos_core.errors import Exit
from chaos_lab.drill import units
from chaos_lab.drill.context import Drill

LOG = "/run/caller.log"
DELAY_MS = 200
_UNIT = "[Service]\nExecStart=/bin/ping -n -i 0.1 {}\nStandardOutput=append:" + LOG + "\n"


@pytest.fixture
def caller(system: Drill) -> Iterator[Drill]:
    """``caller.service`` on n1 pings n2, and writes down what it sees."""
    unit = "/run/systemd/system/caller.service"
    system.fleet.put("n1", unit, _UNIT.format(system.ip("n2")))
    units.reload(system.fleet, "n1")
    system.fleet.exec("n1", ["systemctl", "start", "caller"])
    yield system
    system.fleet.exec("n1", ["systemctl", "stop", "caller"])
    system.fleet.exec("n1", ["rm", unit, LOG])
    units.reload(system.fleet, "n1")


def times(output: str) -> list[float]:
    """The round-trip times that ping wrote, in ms."""
    return [float(line.split("time=")[1].split()[0]) for line in output.splitlines() if "=" in line]


def seen_by_the_caller(caller: Drill) -> list[float]:
    """Its last three pings."""
    said = caller.fleet.exec("n1", ["tail", "-n", "3", LOG]).stdout
    return times("\n".join(line for line in said.splitlines() if "time=" in line))


def test_only_what_one_service_sends_is_late_until_it_is_restarted(caller: Drill) -> None:
    words = (f"peers={caller.ip('n2')}", f"delay={DELAY_MS}ms", "unit=caller")
    caller.wait_for(lambda: len(seen_by_the_caller(caller)) == 3, "the caller's pings")
    assert max(seen_by_the_caller(caller)) < DELAY_MS
    run = caller.inject("network.latency", *words, nodes=("n1",), seconds=60)
    run.reached("observe")
    caller.wait_for(lambda: min(seen_by_the_caller(caller)) >= DELAY_MS, "the caller to be late")
    ping = ["ping", "-n", "-c", "3", "-i", "0.1", caller.ip("n2")]
    others = caller.fleet.exec("n1", ping).stdout
    assert max(times("\n".join(others.splitlines()[1:4]))) < DELAY_MS
    caller.fleet.exec("n1", ["systemctl", "restart", "caller"])
    assert run.wait() == Exit.FAILED
    ended = caller.node("n1")["faults"][-1]
    assert ended["reason"] == "disturbed", ended
    assert "made anew" in ended["detail"], ended
    caller.wait_for(lambda: max(seen_by_the_caller(caller)) < DELAY_MS, "the caller to be in time")
    assert not caller.node("n1")["quarantine"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("network.down", "interface=eth0"), "is the way to the controller"),
        (("network.reject", "peers=192.0.2.1", "unit=chaos-link"), "protected"),
        (("network.reject", "peers=192.0.2.1", "unit=nosuch"), "does not run"),
    ],
)
def test_what_may_not_be_hit_is_refused(system: Drill, words: tuple[str, ...], said: str) -> None:
    argv = ("inject", *words, "-n", "n1", "--for", "5s", "--yes")
    code, out, err = system.chaosctl(*argv)
    assert (code, said in out + err) == (Exit.REFUSED, True), out + err
