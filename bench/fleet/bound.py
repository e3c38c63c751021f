"""How long an abort takes: many aborts, at fleets of several sizes, reachable and cut off.

    .venv/bin/python -m bench.fleet.bound --nodes 1 3 7 --aborts 30 --to docs/safety-case

Writes every single figure to ``abort.json``, where those of other sizes are kept, all of
them in one picture, and a timeline of one abort and of one lost controller, drawn from
what was recorded. A node whose lease was over before the abort was accepted counts as 0 s.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.fleet import picture
from bench.fleet.abort import HIT, HIT_MS, abort
from rich.console import Console
from rich.table import Table

from chaos_core.errors import ChaosError
from chaos_core.lease import ABORT_BOUND, REVERT_BUDGET, TTL
from chaos_lab import provision
from chaos_lab.drill.context import Drill
from chaos_lab.drill.measure import Pings
from chaos_lab.fleet import Fleet
from chaos_lab.layout import CONTROLLER, HOST_IP, LabDir

_SECOND = 1_000_000
_LAPSE, _BOUND = (TTL + REVERT_BUDGET) / _SECOND, ABORT_BOUND / _SECOND
_SHOWN_S = 6.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.fleet.bound", description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 3, 7])
    parser.add_argument("--aborts", type=int, default=30, help="at each size, of each sort")
    parser.add_argument("--to", type=Path, required=True, help="directory for the results")
    wanted = parser.parse_args()
    wanted.to.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False, width=100)
    kept = wanted.to / "abort.json"
    records: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else {}
    for nodes in wanted.nodes:
        found: dict[str, list[float]] = {}
        _at_size(nodes, wanted.aborts, wanted.to, console, found)
        for name, values in found.items():
            records[name] = {
                "measured": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
                "load": round(os.getloadavg()[2], 1),
                "seconds": [round(max(0.0, value), 3) for value in values],
            }
        kept.write_text(json.dumps(dict(sorted(records.items())), indent=1) + "\n")
    everything = {name: record["seconds"] for name, record in sorted(records.items())}
    _show(console, everything)
    picture.spread(
        wanted.to / "abort.svg",
        "From accepting an abort until the last node is clean on the wire",
        everything,
        {f"ttl + revert {_LAPSE:g} s": _LAPSE, f"promised {_BOUND:g} s": _BOUND},
    )


def _at_size(
    nodes: int, aborts: int, to: Path, console: Console, found: dict[str, list[float]]
) -> None:
    started = time.monotonic()

    def say(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - started:6.1f} s  {nodes} nodes: {text}[/dim]")

    fleet = Fleet(LabDir.find().beside("bound"), say=say)
    fleet.down()
    try:
        fleet.up(nodes=nodes)
        provision.provision(fleet, profile="lab", say=say)
        drill = Drill(fleet, say)
        with ExitStack() as stack:
            wires = {
                name: stack.enter_context(Pings(fleet, "", drill.ip(name))) for name in fleet.nodes
            }
            for sort, cut in (("reachable", ()), ("cut off", fleet.nodes)):
                times = found.setdefault(f"{nodes} {sort}", [])
                for number in range(aborts):
                    times.append(
                        max(abort(drill, wires, cut=cut, wait=number / aborts)[1].values())
                    )
                    say(f"{sort}, {number + 1} of {aborts}: {times[-1]:.2f} s")
            if nodes == 3:
                _draw_abort(drill, wires, to)
                _draw_loss(drill, wires, to)
    finally:
        fleet.down()


def _show(console: Console, found: dict[str, list[float]]) -> None:
    heads = ("nodes", "aborts", "median s", "p95 s", "worst s", "worst / (ttl + revert)")
    table = Table(*heads, title="abort accepted to the last node clean, on the wire")
    for name, values in found.items():
        worst, p95 = max(values), sorted(values)[round(0.95 * (len(values) - 1))]
        figures = (f"{value:.2f}" for value in (statistics.median(values), p95, worst))
        table.add_row(name, str(len(values)), *figures, f"{worst / _LAPSE:.2f}")
    console.print(table)


def _draw_abort(drill: Drill, wires: dict[str, Pings], to: Path) -> None:
    """One node is cut off, so that both ways of ending are in the picture."""
    accepted, times = abort(drill, wires, cut=("n3",))
    events = {"abort accepted; n3 cut off": 0.0}
    events |= {f"{name} clean": after for name, after in times.items()}
    picture.timeline(
        to / "abort-timeline.svg",
        "An abort at three nodes, one of them out of reach: each ping by when it was sent",
        *(accepted, {name: wire.replies for name, wire in wires.items()}, events),
        hit_ms=HIT_MS,
        last=_SHOWN_S,
    )


def _draw_loss(drill: Drill, wires: dict[str, Pings], to: Path) -> None:
    """SIGKILL of the controller, which stays away: nothing but leases."""
    fleet, unit = drill.fleet, provision.CONTROLLER_UNIT
    run = drill.inject(
        *("network.latency", f"peers={HOST_IP}", "delay=200ms"), nodes=fleet.nodes, seconds=60
    )
    run.reached("observe")
    for wire in wires.values():
        wire.wait(HIT)
    fleet.exec(CONTROLLER, ["systemctl", "mask", "--runtime", unit])
    killed = time.monotonic()
    fleet.exec(CONTROLLER, ["systemctl", "kill", "-s", "KILL", unit])
    time.sleep(_SHOWN_S)
    events = {"controller killed (SIGKILL)": 0.0}
    events |= {f"{name} clean": wire.clean_after(killed, HIT) for name, wire in wires.items()}
    run.drop()
    fleet.exec(CONTROLLER, ["systemctl", "unmask", "--runtime", unit])
    picture.timeline(
        to / "controller-loss.svg",
        "A controller is lost: the leases run out by themselves",
        *(killed, {name: wire.replies for name, wire in wires.items()}, events),
        hit_ms=HIT_MS,
        last=_SHOWN_S,
    )


if __name__ == "__main__":
    try:
        main()
    except ChaosError as error:
        sys.exit(str(error))
