"""Hooks of a real node, run by systemd as another user; and what a sealed keeper may flush.

Runs on the fleet that test_system.py uses.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest
from tests.vm.bounds import BOUND_S

from chaos_core.errors import Exit
from chaos_core.lease import HEARTBEAT_INTERVAL, TTL
from chaos_core.units import SECOND
from chaos_lab import provision
from chaos_lab.drill import units
from chaos_lab.drill.context import Drill

PLACE = "/var/tmp/hooked"
MARK = "mark $HOME %n;x"  # no word of a hook is anything but itself
_TOML = f"""
[hooks.mark]
run = ["/bin/mkdir", "{PLACE}/{MARK}"]
undo = ["/bin/rmdir", "{PLACE}/{MARK}"]
user = "nobody"

[hooks.gc]
run = ["/bin/touch", "{PLACE}/collected"]
user = "nobody"

[hooks.fails]
run = ["/bin/false"]
undo = ["/bin/rm", "-f", "{PLACE}/nothing"]
user = "nobody"

[hooks.stuck]
run = ["/bin/true"]
undo = ["/bin/false"]
user = "nobody"
"""


@pytest.fixture(scope="module")
def hooked(system: Drill) -> Iterator[Drill]:
    """n1 has hooks, that leave their marks in a directory of nobody's."""
    sh(system, "install", "-d", "-o", "nobody", PLACE)
    provision.write_config(system.fleet, "n1", "staging", _TOML)
    units.restart(system.fleet, "n1")
    provision.wait_connected(system.fleet)
    yield system
    provision.write_config(system.fleet, "n1", "staging")
    units.restart(system.fleet, "n1")
    provision.wait_connected(system.fleet)
    sh(system, "rm", "-r", PLACE)


def sh(drill: Drill, *argv: str) -> str:
    return drill.fleet.exec("n1", list(argv)).stdout


def marks(drill: Drill) -> str:
    """What the hooks have left, whose it is, and our units."""
    units = ["systemctl", "list-units", "--all", "--no-legend", "--plain", "chs-*"]
    # find ends with 1 when an undo takes a mark away between its two looks at it.
    find = ["find", PLACE, "-mindepth", "1", "-printf", "%f %u\n"]
    return drill.fleet.exec("n1", find, check=False).stdout + sh(drill, *units)


def refused(drill: Drill, *words: str) -> tuple[int, str]:
    code, out, err = drill.chaosctl("inject", *words, "-n", "n1", "--for", "3s", "--yes")
    return code, out + err


def test_a_hook_is_undone_with_the_abort(hooked: Drill) -> None:
    run = hooked.inject("hook.run", "hook=mark", nodes=("n1",), seconds=60)
    run.reached("observe")
    assert marks(hooked).startswith(f"{MARK} nobody\n")
    pressed, _ = hooked.abort()
    assert marks(hooked) == ""
    assert time.monotonic() - pressed < BOUND_S
    hooked.resume()
    run.wait()
    assert not hooked.node("n1")["quarantine"]


def test_a_hook_without_undo_is_over_at_once(hooked: Drill) -> None:
    run = hooked.inject("gc.pressure", nodes=("n1",), seconds=2)
    assert run.wait() == Exit.DONE
    assert marks(hooked) == "collected nobody\n"
    sh(hooked, "rm", f"{PLACE}/collected")


def test_systemd_runs_the_undo_when_the_keeper_is_gone(hooked: Drill) -> None:
    units.look_away(hooked.fleet, "n1")
    units.restart(hooked.fleet, "n1")
    provision.wait_connected(hooked.fleet)
    try:
        run = hooked.inject("hook.run", "hook=mark", nodes=("n1",), seconds=120)
        run.reached("observe")
        hooked.fleet.exec("n1", ["systemctl", "kill", "-s", "KILL", provision.KEEPER_UNIT])
        began = time.monotonic()
        hooked.wait_for(lambda: marks(hooked) == "", "the undo")
        assert time.monotonic() - began < BOUND_S
        run.drop()
    finally:
        units.look_back(hooked.fleet, "n1")
        units.restart(hooked.fleet, "n1")
        provision.wait_connected(hooked.fleet)
    hooked.abort()
    hooked.resume()
    assert not hooked.node("n1")["quarantine"]


def test_a_reboot_in_between_does_not_forget_the_undo(hooked: Drill) -> None:
    run = hooked.inject("hook.run", "hook=mark", nodes=("n1",), seconds=120)
    run.reached("observe")
    assert marks(hooked).startswith(f"{MARK} nobody\n")
    hooked.fleet.reboot("n1")
    run.drop()
    provision.wait_connected(hooked.fleet)
    hooked.abort()
    hooked.resume()
    assert marks(hooked) == ""
    assert not hooked.node("n1")["quarantine"]


def test_a_hook_that_fails_is_no_fault_and_leaves_nothing(hooked: Drill) -> None:
    run = hooked.inject("hook.run", "hook=fails", nodes=("n1",), seconds=20)
    assert run.wait() == Exit.FAILED
    assert marks(hooked) == ""
    assert not hooked.node("n1")["quarantine"]


def test_what_is_not_on_the_list_is_refused_by_name(hooked: Drill) -> None:
    code, said = refused(hooked, "hook.run", "hook=other")
    assert (code, "not on the list" in said) == (Exit.REFUSED, True), said


def test_an_undo_that_fails_quarantines_the_node_until_people_have_looked(hooked: Drill) -> None:
    run = hooked.inject("hook.run", "hook=stuck", nodes=("n1",), seconds=1)
    run.wait()
    hooked.wait_for(lambda: hooked.node("n1")["quarantine"], "the quarantine")
    why = hooked.node("n1")["quarantine"][0]
    assert "its undo failed" in why
    sh(hooked, "systemctl", "reset-failed", re.findall(r"chs-\w+-hook", why)[0])
    hooked.wait_for(lambda: marks(hooked) == "", "its unit and its timer to go")
    provision.operate(hooked.fleet, ["node", "release", "n1", "--reason", "looked"])
    hooked.wait_for(lambda: not hooked.node("n1")["quarantine"], "the release")
    time.sleep((TTL + HEARTBEAT_INTERVAL) / SECOND)  # what was not clean occupies it for its lease


def test_a_sealed_keeper_may_flush_the_page_cache(hooked: Drill) -> None:
    def count() -> int:
        return int(sh(hooked, "grep", "drop_pagecache", "/proc/vmstat").split()[1])

    before = count()
    run = hooked.inject("cache.flush", nodes=("n1",), seconds=1)
    assert run.wait() == Exit.DONE, run.last_words()
    assert count() == before + 1
