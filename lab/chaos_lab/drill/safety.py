"""Abort, latch, and everything that can die: each measured on the wire."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from chaos_core.errors import Exit, LabError
from chaos_lab import provision
from chaos_lab.drill import residue, units
from chaos_lab.drill.context import Drill, Injection
from chaos_lab.drill.measure import Pings, Resources, delayed
from chaos_lab.layout import CONTROLLER, HOST_IP

_BOUND_S = 5.0
_DELAY, _HIT_MS = "200ms", 100.0  # in profile lab: far from any jitter of this machine


def abort_reachable(drill: Drill) -> None:
    """All nodes faulted; the abort clears all of them."""
    with ExitStack() as stack:
        wires = _faulted(drill, stack)
        pressed, _ = drill.abort()
        worst = max(wire.clean_after(pressed, delayed(_HIT_MS)) for wire in wires.values())
    drill.check(
        "abort.reachable",
        "P3",
        f"{len(wires)} nodes clean < 5 s after the abort",
        worst,
        "s",
        worst < _BOUND_S,
    )
    _latch(drill)


def _latch(drill: Drill) -> None:
    """After an abort nothing starts until ``resume``."""
    word = ["inject", "cpu.stress", "percent=1%", "-n", "n1", "--for", "2s", "--yes"]
    blocked, _, said = drill.chaosctl(*word)
    drill.resume()
    allowed, _, said_after = drill.chaosctl(*word)
    passed = blocked == Exit.REFUSED and allowed == Exit.DONE
    drill.check(
        "latch.blocks",
        "P3",
        "refused (3) until resume, then held (0)",
        f"exit {blocked}, then {allowed}"
        + ("" if passed else f": {said.strip()} {said_after.strip()}"),
        "",
        passed,
    )


def abort_unreachable(drill: Drill) -> None:
    """The same with one node cut from the controller: its lease ends it."""
    away = drill.fleet.nodes[-1]
    with ExitStack() as stack:
        wires = _faulted(drill, stack)
        drill.fleet.cut(away, CONTROLLER)
        try:
            pressed, _ = drill.abort()
            times = {n: wire.clean_after(pressed, delayed(_HIT_MS)) for n, wire in wires.items()}
        finally:
            drill.fleet.heal()
    drill.resume()
    provision.wait_connected(drill.fleet)
    drill.check(
        "abort.unreachable",
        "P3",
        f"clean < 5 s though {away} is cut off",
        times[away],
        "s",
        max(times.values()) < _BOUND_S,
    )


def _faulted(drill: Drill, stack: ExitStack) -> dict[str, Pings]:
    """All nodes delayed towards this host, and pings from it to each, seen to be delayed."""
    wires = {
        name: stack.enter_context(Pings(drill.fleet, "", drill.ip(name)))
        for name in drill.fleet.nodes
    }
    run = drill.inject(
        "network.latency",
        f"peers={HOST_IP}",
        f"delay={_DELAY}",
        nodes=drill.fleet.nodes,
        seconds=60,
    )
    stack.callback(run.drop)
    run.reached("observe")
    for wire in wires.values():
        wire.wait(delayed(_HIT_MS))
    return wires


def controller_lost(drill: Drill) -> None:
    """SIGKILL of the controller, which stays away."""
    fleet = drill.fleet
    with ExitStack() as stack:
        wires = _faulted(drill, stack)
        fleet.exec(CONTROLLER, ["systemctl", "mask", "--runtime", provision.CONTROLLER_UNIT])
        try:
            killed = time.monotonic()
            fleet.exec(CONTROLLER, ["systemctl", "kill", "-s", "KILL", provision.CONTROLLER_UNIT])
            worst = max(wire.clean_after(killed, delayed(_HIT_MS)) for wire in wires.values())
        finally:
            fleet.exec(CONTROLLER, ["systemctl", "unmask", "--runtime", provision.CONTROLLER_UNIT])
            fleet.exec(CONTROLLER, ["systemctl", "start", provision.CONTROLLER_UNIT], timeout=60)
    provision.wait_connected(fleet)
    _settle(drill)
    drill.check(
        "controller.lost", "P2", "clean < 5 s after its SIGKILL", worst, "s", worst < _BOUND_S
    )


# ── the agent itself ──────────────────────────────────────────────────────────────────────

_SIGNAL = """
import os, signal, subprocess, sys
pids = set()
for unit in ('chaos-agent', 'chaos-link'):
    for place, _, files in os.walk(f'/sys/fs/cgroup/system.slice/{unit}.service'):
        if 'cgroup.procs' in files:
            pids |= {int(n) for n in open(f'{place}/cgroup.procs').read().split()}
number = getattr(signal, sys.argv[1])
if number:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass
print(len(pids))
"""


def agent_gone(drill: Drill) -> None:
    """SIGKILL, then SIGSTOP of keeper, link and holders; nothing restarts, nothing recovers."""
    with _systemd_looks_away(drill, "n1"):
        _without_agent(drill, "agent.killed", "SIGKILL")
        _restart_agent(drill, "n1")
        _without_agent(drill, "agent.frozen", "SIGSTOP")


def _without_agent(drill: Drill, name: str, number: str) -> None:
    """Delay, CPU and memory on n1 at once; then its agent is no more, and systemd looks away."""
    fleet = drill.fleet
    with ExitStack() as stack:
        wire = stack.enter_context(Pings(fleet, "n2", drill.ip("n1")))
        resources = stack.enter_context(Resources(fleet, "n1"))
        cpu, free = resources.over(3)
        for run in _three_faults(drill):
            stack.callback(run.drop)
        wire.wait(delayed(_HIT_MS))
        loaded, left = resources.over(3)
        half_cpu, half_free = (cpu + loaded) / 2, (free + left) / 2
        if loaded - cpu < 20 or free - left < 0.1 * free:
            raise LabError(f"CPU {cpu:.0f}→{loaded:.0f} %, free memory {free:.0f}→{left:.0f}")
        hit_at = time.monotonic()
        count = int(fleet.exec("n1", ["python3", "-c", _SIGNAL, number]).stdout)
        network = wire.clean_after(hit_at, delayed(_HIT_MS))
        rest = resources.back_after(
            hit_at, lambda cpu_now, free_now: cpu_now < half_cpu and free_now > half_free
        )
        alive = int(fleet.exec("n1", ["python3", "-c", _SIGNAL, "SIG_DFL"]).stdout)
    worst = max(network, rest)
    # Killed: nobody is left. Stopped: keeper and link are, and do nothing.
    as_meant = alive == 0 if number == "SIGKILL" else alive > 0
    drill.check(
        name,
        "P2",
        f"latency, CPU, memory gone < 5 s, {count} × {number}",
        worst,
        f"s ({alive} of ours left)",
        worst < _BOUND_S and as_meant,
    )


def _restart_agent(drill: Drill, node: str) -> None:
    """Kill what is left of a node's agent, and start it anew."""
    drill.fleet.exec(node, ["python3", "-c", _SIGNAL, "SIGKILL"])
    units.restart(drill.fleet, node)
    provision.wait_connected(drill.fleet)
    _settle(drill)


def _three_faults(drill: Drill) -> Iterator[Injection]:
    for kind, *params in (
        ("network.latency", f"peers={drill.ip('n2')}", f"delay={_DELAY}"),
        ("cpu.stress", "percent=40%"),
        ("memory.stress", "percent=25%"),
    ):
        run = drill.inject(kind, *params, nodes=("n1",), seconds=120)
        yield run
        run.reached("observe")


@contextmanager
def _systemd_looks_away(drill: Drill, node: str) -> Iterator[None]:
    """No restart, no watchdog, no ``recover``: what ends a fault now is the kernel alone."""
    units.look_away(drill.fleet, node)
    _restart_agent(drill, node)
    try:
        yield
    finally:
        units.look_back(drill.fleet, node)
        _restart_agent(drill, node)


def reboot(drill: Drill) -> None:
    """The plug of a faulted node is pulled; it comes back clean and its journal says so."""
    fleet, node = drill.fleet, "n3"
    run = drill.inject(
        "network.latency", f"peers={HOST_IP}", f"delay={_DELAY}", nodes=(node,), seconds=120
    )
    run.reached("observe")
    fleet.power_cut(node)
    fleet.start(node)
    run.drop()
    provision.wait_connected(fleet)
    _settle(drill)
    residue.give(drill, node)
    journal = fleet.get(node, "/var/lib/chaos-agent/journal").decode().splitlines()
    last = json.loads(journal[-1].partition(" ")[2])
    with Pings(fleet, "", drill.ip(node)) as wire:
        rtt = wire.median(2)
    clean = last.get("reason") == "reboot" and not last.get("difference")
    clean = clean and not drill.node(node)["quarantine"]
    drill.check(
        "reboot.clean",
        "P2",
        "back, clean, and the journal says so",
        f"journal: {last.get('reason')}, RTT {rtt:.1f} ms",
        "",
        clean and rtt < _HIT_MS,
    )


def _settle(drill: Drill) -> None:
    """Wait until no node carries or owes a fault and the latch is open."""
    drill.abort()
    drill.resume()
