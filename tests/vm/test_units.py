"""Faults that only systemd can end when the agent is gone, on a service of the user's.

Runs after test_lab.py, on the fleet that test_system.py uses.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.vm.bounds import BOUND_S

from chaos_core.errors import Exit
from chaos_lab import provision
from chaos_lab.catalogue.services import PORT
from chaos_lab.drill import units
from chaos_lab.drill.context import Drill
from chaos_lab.drill.measure import Answers, delayed

HIT = delayed(250)
KINDS = ["process.pause", "unit.stop"]
_STOPPED = """
import socket
from chaos_agent.linux.systemd import Systemd
ours, theirs = socket.socketpair()
argv = ["/usr/bin/python3", "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"]
Systemd().serve("chs-00000000-w", argv, theirs.fileno(), within_us=2_000_000)
"""


def answers(app: Drill) -> Answers:
    return Answers(app.fleet, "n2", app.ip("n1"), PORT)


def state(app: Drill) -> str:
    """How app.service is, and which undo timers there are."""
    show = ["systemctl", "show", "app", "-p", "ActiveState,FreezerState", "--value"]
    timers = ["systemctl", "list-units", "--all", "--no-legend", "--plain", "chs-*"]
    return " ".join(
        app.fleet.exec("n1", argv).stdout.replace("\n", " ").strip() for argv in (show, timers)
    ).strip()


@contextmanager
def systemd_looks_away(app: Drill) -> Iterator[None]:
    """No restart, no watchdog, no ``recover``: only the undo timer is left."""
    units.look_away(app.fleet, "n1")
    units.restart(app.fleet, "n1")
    provision.wait_connected(app.fleet)
    try:
        yield
    finally:
        units.look_back(app.fleet, "n1")
        app.fleet.exec(
            "n1", ["systemctl", "kill", "-s", "CONT", provision.KEEPER_UNIT], check=False
        )
        units.restart(app.fleet, "n1")
        provision.wait_connected(app.fleet)


@pytest.mark.parametrize("kind", KINDS)
def test_a_service_is_hurt_and_comes_back_with_the_abort(app: Drill, kind: str) -> None:
    before = state(app)
    with answers(app) as wire:
        wire.wait(lambda reply: not HIT(reply))
        run = app.inject(kind, "unit=app", nodes=("n1",), seconds=60)
        run.reached("observe")
        wire.wait(HIT)
        time.sleep(4)  # longer than a lease: it has been renewed
        assert HIT(wire.replies[-1])
        pressed, _ = app.abort()
        assert wire.clean_after(pressed, HIT) < BOUND_S
        app.resume()
        run.wait()
    assert state(app) == before
    assert not app.node("n1")["quarantine"]


def test_a_duration_ends_a_pause(app: Drill) -> None:
    before = state(app)
    run = app.inject("process.pause", "unit=front", nodes=("n1",), seconds=3)
    assert run.wait() == Exit.DONE
    assert state(app) == before


@pytest.mark.parametrize("number", ["KILL", "STOP"])
@pytest.mark.parametrize("kind", KINDS)
def test_systemd_ends_it_when_the_keeper_is_gone(app: Drill, kind: str, number: str) -> None:
    before = state(app)
    with systemd_looks_away(app), answers(app) as wire:
        run = app.inject(kind, "unit=app", nodes=("n1",), seconds=120)
        run.reached("observe")
        wire.wait(HIT)
        hit_at = time.monotonic()
        app.fleet.exec("n1", ["systemctl", "kill", "-s", number, provision.KEEPER_UNIT])
        assert wire.clean_after(hit_at, HIT) < BOUND_S
        run.drop()
        assert state(app) == before
    assert not app.node("n1")["quarantine"]
    app.abort()
    app.resume()


def test_a_proxy_hurts_requests_and_ends_with_its_lease(app: Drill) -> None:
    """It is a service of systemd's, outside of the keeper's sandbox and gone after all ends."""
    before = state(app)
    words = (f"port={PORT}", "status=503", "path=/")
    with answers(app) as wire:
        with app.fault("http.fault", *words, nodes=("n1",)):
            wire.wait(HIT)
            assert "-w.service loaded active running" in state(app)
        wire.wait(lambda reply: not HIT(reply))
        assert state(app) == before
        with systemd_looks_away(app):
            run = app.inject("http.fault", *words, nodes=("n1",), seconds=60)
            run.reached("observe")
            wire.wait(HIT)
            hit_at = time.monotonic()
            app.fleet.exec("n1", ["systemctl", "kill", "-s", "STOP", provision.KEEPER_UNIT])
            assert wire.clean_after(hit_at, HIT) < BOUND_S
            run.drop()
        app.wait_for(lambda: state(app) == before, "all to be as before")
    assert not app.node("n1")["quarantine"]
    app.abort()
    app.resume()


def test_a_worker_that_rewrites_packets_has_one_capability_and_no_user(app: Drill) -> None:
    before = state(app)
    words = (f"peers={app.ip('n2')}", f"local_ports={PORT}", "find=200", "replace=500")
    with answers(app) as wire:
        with app.fault("tamper.payload", *words, nodes=("n1",)):
            wire.wait(HIT)
            show = ["systemctl", "show", "chs-*-w.service", "-p", "MainPID", "--value"]
            pid = app.fleet.exec("n1", show).stdout.strip()
            status = app.fleet.exec("n1", ["cat", f"/proc/{pid}/status"]).stdout
        wire.wait(lambda reply: not HIT(reply))
    held = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if "\t" in line}
    assert (int(held["CapEff"], 16), int(held["CapBnd"], 16)) == (1 << 12, 1 << 12)
    assert int(held["Uid"]) >= 61184, "DynamicUser= begins there"
    assert state(app) == before


def test_a_worker_that_was_stopped_before_it_has_its_lease_is_killed_by_systemd(app: Drill) -> None:
    before = state(app)
    app.fleet.exec("n1", ["/opt/chaosctl/bin/python3", "-c", _STOPPED])
    assert "chs-00000000-w.service loaded activating" in state(app)
    app.wait_for(lambda: state(app) == before, "systemd to kill it", timeout=BOUND_S)


def test_a_killed_keeper_recovers_and_no_timer_is_left(app: Drill) -> None:
    before = state(app)
    run = app.inject("process.pause", "unit=app", nodes=("n1",), seconds=120)
    run.reached("observe")
    app.fleet.exec("n1", ["systemctl", "kill", "-s", "KILL", provision.KEEPER_UNIT])
    assert run.wait() == Exit.FAILED
    provision.wait_connected(app.fleet)
    assert state(app) == before
    journal = app.fleet.get("n1", "/var/lib/chaos-agent/journal").decode()
    assert json.loads(journal.splitlines()[-1].partition(" ")[2])["reason"] == "recover"


@pytest.mark.parametrize("kind", KINDS)
def test_a_reboot_in_the_middle_quarantines_nobody(app: Drill, kind: str) -> None:
    """While a machine goes down, systemd takes no order; after it, there is nothing to undo."""
    before = state(app)
    run = app.inject(kind, "unit=app", nodes=("n1",), seconds=120)
    run.reached("observe")
    app.fleet.reboot("n1")
    run.drop()
    provision.wait_connected(app.fleet)
    app.abort()
    app.resume()
    assert state(app) == before
    assert not app.node("n1")["quarantine"]


def test_recover_needs_no_journal_to_undo_what_a_timer_holds(app: Drill) -> None:
    """Everything that the agent knew is gone; the timer says itself what it would undo."""
    before = state(app)
    run = app.inject("unit.stop", "unit=app", nodes=("n1",), seconds=120)
    run.reached("observe")
    assert "chs-" in state(app)
    app.fleet.exec("n1", ["rm", "/var/lib/chaos-agent/journal"])
    app.fleet.exec("n1", ["systemctl", "kill", "-s", "KILL", provision.KEEPER_UNIT])
    run.wait()
    provision.wait_connected(app.fleet)
    assert state(app) == before


def test_a_user_who_starts_a_stopped_service_ends_the_fault_as_disturbed(app: Drill) -> None:
    run = app.inject("unit.stop", "unit=app", nodes=("n1",), seconds=120)
    run.reached("observe")
    app.fleet.exec("n1", ["systemctl", "start", "app"])
    assert run.wait() == Exit.FAILED
    assert [f["reason"] for f in app.node("n1")["faults"]][-1] == "disturbed"
    assert "chs-" not in state(app)


def main_pid(app: Drill) -> str:
    return app.fleet.exec("n1", ["systemctl", "show", "app", "-p", "MainPID", "--value"]).stdout


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        ("unit.restart", ["unit=front"]),
        ("process.kill", ["unit=app"]),
        ("process.kill", [f"port={PORT}"]),
        ("process.kill", [f"cmdline=http.server {PORT}", "signal=SEGV"]),
    ],
)
def test_what_is_over_at_once_is_seen_to_have_happened(
    app: Drill, kind: str, params: list[str]
) -> None:
    """systemd starts it again (``Restart=``), as another process."""
    before, pid = state(app), main_pid(app)
    run = app.inject(kind, *params, nodes=("n1",), seconds=3)
    assert run.wait() == Exit.DONE
    app.wait_for(lambda: main_pid(app) not in (pid, "0\n"), "app to be back")
    app.wait_for(lambda: state(app) == before, "app to be as before")
    assert not app.node("n1")["quarantine"]


def test_a_process_of_ours_is_not_killed(app: Drill) -> None:
    words = ("process.kill", "cmdline=chaos", "-n", "n1", "--for", "5s", "--yes")
    code, out, err = app.chaosctl("inject", *words)
    assert (code, "protected" in out + err) == (Exit.REFUSED, True), out + err


@pytest.mark.parametrize(
    ("unit", "code", "said"),
    [
        ("nosuch", Exit.REFUSED, "there is no nosuch.service"),
        ("chaos-link", Exit.REFUSED, "protected"),
        ("ssh", Exit.REFUSED, "protected"),
        ("dbus", Exit.REFUSED, "protected"),
        ("user.slice", Exit.INVALID, "not a service"),
        ("../app", Exit.INVALID, "not a service"),
    ],
)
def test_what_may_not_be_hurt_is_refused(app: Drill, unit: str, code: Exit, said: str) -> None:
    before = state(app)
    got, out, err = app.chaosctl(
        "inject", "unit.stop", f"unit={unit}", "-n", "n1", "--for", "5s", "--yes"
    )
    assert (got, said in out + err) == (code, True), out + err
    assert state(app) == before


@pytest.mark.parametrize("kind", ["unit.stop", "unit.restart"])
@pytest.mark.parametrize("bond", ["Requires=front.service", "PartOf=app.service"])
def test_a_service_that_others_go_down_with_is_left_alone(app: Drill, kind: str, bond: str) -> None:
    """systemd would stop them with it; nobody would start them again."""
    before = state(app)
    needs = f"[Unit]\n{bond}\n[Service]\nExecStart=/bin/sleep infinity\n"
    app.fleet.put("n1", "/run/systemd/system/needs.service", needs)
    units.reload(app.fleet, "n1")
    words = ("inject", kind, "unit=app", "-n", "n1", "--for", "2s", "--yes")
    try:
        app.fleet.exec("n1", ["systemctl", "start", "needs"])
        code, out, err = app.chaosctl(*words)
        assert (code, "systemd stops needs.service" in out + err) == (Exit.REFUSED, True), out + err
        assert state(app) == before
        app.fleet.exec("n1", ["systemctl", "stop", "needs"])
        code, out, err = app.chaosctl(*words)  # what is down already is none
        assert code == Exit.DONE, out + err
    finally:
        app.fleet.exec("n1", ["systemctl", "stop", "needs"])
        app.fleet.exec("n1", ["rm", "/run/systemd/system/needs.service"])
        units.reload(app.fleet, "n1")


def test_a_service_that_is_down_cannot_be_stopped(app: Drill) -> None:
    app.fleet.exec("n1", ["systemctl", "stop", "app"])
    try:
        code, out, err = app.chaosctl(
            "inject", "unit.stop", "unit=app", "-n", "n1", "--for", "5s", "--yes"
        )
        assert (code, "not running" in out + err) == (Exit.REFUSED, True), out + err
    finally:
        app.fleet.exec("n1", ["systemctl", "start", "app"])
