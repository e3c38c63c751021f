"""A node that is rebooted by a fault: it goes, it comes back, and it never goes twice.

Runs after test_lab.py, on the fleet that test_system.py uses.
"""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from chaos_core.errors import Exit
from chaos_lab import provision
from chaos_lab.drill import residue
from chaos_lab.drill.context import Drill
from chaos_lab.layout import CONTROLLER

_BETWEEN_BOOTS_S = 60
_WAIT_S = 240


def journal(drill: Drill) -> list[dict[str, Any]]:
    lines = drill.fleet.get("n1", "/var/lib/chaos-agent/journal").decode().splitlines()
    return [json.loads(line.partition(" ")[2]) for line in lines]


def uptime(drill: Drill, node: str = "n1") -> float:
    return float(drill.fleet.exec(node, ["cat", "/proc/uptime"]).stdout.split()[0])


def settled(drill: Drill) -> None:
    """A node that has just booted is not rebooted."""
    drill.wait_for(lambda: uptime(drill) > _BETWEEN_BOOTS_S, "n1 to have been up", 90)


def boots(drill: Drill) -> dict[str, str]:
    return {name: drill.fleet.boot_id(name) for name in ("n1", "n2", "n3")}


def refused(drill: Drill, said: str) -> None:
    words = ("inject", "host.reboot", "-n", "n1", "--for", "60s", "--yes")
    code, out, err = drill.chaosctl(*words)
    assert (code, said in out + err) == (Exit.REFUSED, True), out + err


def test_a_reboot_comes_back_and_is_never_done_again(system: Drill) -> None:
    settled(system)
    residue_before, before = residue.listing(system, "n1"), boots(system)
    run = system.inject("host.reboot", nodes=("n1",), seconds=_WAIT_S)
    assert run.wait(_WAIT_S + 30) == Exit.DONE, run.last_words()
    after = boots(system)
    assert after.pop("n1") != before.pop("n1"), "another boot"
    assert after == before, "the others were left alone"
    intent, done = journal(system)[-2:]
    assert (intent["kind"], done["fault"]) == ("host.reboot", intent["fault"])
    assert (done["reason"], done["difference"]) == ("reboot", [])
    said = run.events[-1][1]["text"]
    assert said.startswith("n1: back after ")
    assert f"boot {intent['boot'][:8]} → {done['boot'][:8]}" in said
    assert residue.difference(residue_before, residue.listing(system, "n1")) == []
    assert not system.node("n1")["quarantine"]
    entries = len(journal(system))
    for _ in range(3):  # neither recover nor a keeper finds in the journal what to do
        system.fleet.exec("n1", ["systemctl", "restart", provision.KEEPER_UNIT])
        time.sleep(2)
    provision.wait_connected(system.fleet)
    assert system.fleet.boot_id("n1") == done["boot"]
    assert len(journal(system)) == entries
    assert journal(system)[-1] == done


def test_an_abort_while_the_node_is_down_is_clean_and_latches(system: Drill) -> None:
    settled(system)
    before = system.fleet.boot_id("n1")
    run = system.inject("host.reboot", nodes=("n1",), seconds=_WAIT_S)
    run.reached("observe")
    _, said = system.abort()
    assert run.wait() == Exit.ABORTED
    total = said[-1]
    assert total["clean_after_us"] < 5_000_000
    refused(system, "aborted everything")
    system.resume()
    provision.wait_connected(system.fleet, timeout=_WAIT_S)
    assert system.fleet.boot_id("n1") != before
    assert not system.node("n1")["quarantine"]
    assert journal(system)[-1]["reason"] == "reboot"


def test_a_controller_that_starts_while_the_node_is_down_finds_it_clean(system: Drill) -> None:
    settled(system)
    before = system.fleet.boot_id("n1")
    run = system.inject("host.reboot", nodes=("n1",), seconds=_WAIT_S)
    run.reached("observe")
    system.fleet.exec(CONTROLLER, ["systemctl", "restart", provision.CONTROLLER_UNIT], timeout=60)
    run.drop()
    provision.wait_connected(system.fleet, timeout=_WAIT_S)
    assert system.fleet.boot_id("n1") != before
    node = system.node("n1")
    assert (node["state"], node["quarantine"]) == ("connected", [])
    assert journal(system)[-1]["reason"] == "reboot"
    time.sleep(6)  # what the former controller had given is over
    with system.fault("network.latency", "peers=192.0.2.1", "delay=50ms", nodes=("n1",)):
        pass


@pytest.mark.parametrize("unit", [provision.KEEPER_UNIT, provision.LINK_UNIT])
def test_a_node_that_would_not_come_back_is_not_sent_away(system: Drill, unit: str) -> None:
    settled(system)
    before = system.fleet.boot_id("n1")
    system.fleet.exec("n1", ["systemctl", "disable", unit])
    try:
        refused(system, f"{unit} is disabled, not enabled")
    finally:
        system.fleet.exec("n1", ["systemctl", "enable", unit])
    assert system.fleet.boot_id("n1") == before


def test_a_node_with_a_fault_on_it_is_not_rebooted(system: Drill) -> None:
    """Under a profile that allows two runs; the envelope of this one says so before."""
    settled(system)
    before = system.fleet.boot_id("n1")
    system.set_profile("lab", "n1")
    try:
        with system.fault("network.latency", "peers=192.0.2.1", "delay=50ms", nodes=("n1",)):
            refused(system, "another fault")
    finally:
        system.set_profile("staging", "n1")
    assert system.fleet.boot_id("n1") == before
