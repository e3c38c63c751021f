"""Seconds from accepting an abort to the first undelayed ping, at three nodes.

All nodes delay what they send to this host; the last of them to be clean is what counts.
Then the same with one node cut off from the controller, whose lease alone ends its fault.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from rich.console import Console
from rich.table import Table

from chaos_core.lease import ABORT_BOUND, REVERT_BUDGET, TTL
from chaos_lab import provision
from chaos_lab.drill.context import Drill, Injection
from chaos_lab.drill.measure import Pings, delayed
from chaos_lab.layout import CONTROLLER, HOST_IP
from chaos_lab.provision import operator_argv

_REACHABLE, _CUT_OFF = 10, 4
_DELAY, HIT_MS = "200ms", 100.0
HIT = delayed(HIT_MS)


def measure(drill: Drill, console: Console) -> None:
    """Abort again and again."""
    with ExitStack() as stack:
        wires = {
            name: stack.enter_context(Pings(drill.fleet, "", drill.ip(name)))
            for name in drill.fleet.nodes
        }
        reachable: list[float] = []
        for number in range(_REACHABLE):
            reachable.append(max(abort(drill, wires)[1].values()))
            drill.say(f"abort {number + 1} of {_REACHABLE}: {reachable[-1]:.2f} s")
        others, cut_off = [], []
        for number in range(_CUT_OFF):
            _, times = abort(drill, wires, cut=("n3",), wait=number / _CUT_OFF)
            cut_off.append(times.pop("n3"))
            others.append(max(times.values()))
            drill.say(f"n3 cut off, {number + 1} of {_CUT_OFF}: {cut_off[-1]:.2f} s")
    table = Table(
        *("last node clean after", "aborts", "s median (min–max)", "bound s", "worst / bound"),
        title="abort at 3 nodes, on the wire",
    )
    bound, lapse = ABORT_BOUND / 1_000_000, (TTL + REVERT_BUDGET) / 1_000_000
    _row(table, "all reachable", reachable, bound)
    _row(table, "one cut off: the others", others, bound)
    _row(table, "one cut off: that one", cut_off, bound)
    _row(table, "the same, beside ttl + revert", cut_off, lapse)
    console.print(table)


def _row(table: Table, name: str, values: list[float], bound: float) -> None:
    low, middle, high = min(values), statistics.median(values), max(values)
    spread = f"{middle:.2f} ({low:.2f}–{high:.2f})"
    table.add_row(name, str(len(values)), spread, f"{bound:g}", f"{high / bound:.2f}")


def abort(
    drill: Drill, wires: dict[str, Pings], *, cut: Sequence[str] = (), wait: float = 0.0
) -> tuple[float, dict[str, float]]:
    """Fault all nodes, press abort after ``wait``, and see when each is clean.

    Returns when the controller accepted it, and each node's seconds from then on. That
    moment is told from its answers, which say how long ago it was: what comes before is the
    start of a Python program. A lease is renewed each second; ``wait`` moves the cut
    within that second.
    """
    run = drill.inject(
        *("network.latency", f"peers={HOST_IP}", f"delay={_DELAY}"),
        nodes=drill.fleet.nodes,
        seconds=60,
    )
    try:
        run.reached("observe")
        for wire in wires.values():
            wire.wait(HIT)
        time.sleep(wait)
        for name in cut:
            drill.fleet.cut(name, CONTROLLER)
        with ThreadPoolExecutor() as pool:  # at once: a late ping seconds after proves nothing
            pressed = time.monotonic()
            found = {
                name: pool.submit(wire.clean_after, pressed, HIT) for name, wire in wires.items()
            }
            button = Injection(operator_argv(drill.fleet, ["abort", "-o", "json"]))
            button.wait()
        accepted = min(
            at - int(event["clean_after_us"]) / 1_000_000
            for at, event in button.events
            if event.get("node")
        )
        times = {name: pressed + future.result() - accepted for name, future in found.items()}
    finally:
        run.drop()
        drill.fleet.heal()
    drill.resume()
    provision.wait_connected(drill.fleet)
    return accepted, times
