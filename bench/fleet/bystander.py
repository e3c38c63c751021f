"""TCP between two VMs that no fault is meant for, with a fault's plumbing on its way and without.

The fault delays what n1 sends to another peer. Everything else that n1 sends passes
its chain, which does not match, and its filter, which does not either.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table

from chaos_core.errors import LabError
from chaos_lab.drill.context import Drill

_ROUNDS, _SECONDS = 8, 2
_SENDER, _RECEIVER, _VICTIM = "n1", "n2", "n3"


def measure(drill: Drill, console: Console) -> None:
    """Before any fault, then in turn with the plumbing in place and without."""
    found: dict[str, list[float]] = {"before any fault": [], "without": [], "with": []}
    with _server(drill):
        _gbits(drill)  # warm up
        found["before any fault"] = [_gbits(drill) for _ in range(_ROUNDS // 2)]
        for number in range(_ROUNDS):
            with drill.fault(
                "network.latency",
                f"peers={drill.ip(_VICTIM)}",
                "delay=50ms",
                nodes=(_SENDER,),
            ):
                found["with"].append(_gbits(drill))
            found["without"].append(_gbits(drill))
            drill.say(f"round {number + 1} of {_ROUNDS}: {_last(found)}")
    table = Table("plumbing", "rounds", "Gbit/s median (min–max)", title="bystander throughput")
    for name, values in found.items():
        spread = f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"
        table.add_row(name, str(len(values)), spread)
    console.print(table)
    middle = {name: statistics.median(values) for name, values in found.items()}
    pairs = [a / b for a, b in zip(found["with"], found["without"], strict=True)]
    console.print(
        f"with / without: medians {middle['with'] / middle['without']:.3f},"
        f" best rounds {max(found['with']) / max(found['without']):.3f},"
        f" neighbours {statistics.median(pairs):.3f} ({min(pairs):.2f}–{max(pairs):.2f});"
        f" with / before any fault: {middle['with'] / middle['before any fault']:.3f}"
    )


def _last(found: dict[str, list[float]]) -> str:
    return f"{found['with'][-1]:.2f} Gbit/s with, {found['without'][-1]:.2f} without"


@contextmanager
def _server(drill: Drill) -> Iterator[None]:
    drill.fleet.exec(_RECEIVER, ["iperf3", "--server", "--daemon", "--pidfile", "/run/iperf3.pid"])
    time.sleep(0.5)
    try:
        yield
    finally:
        drill.fleet.exec(_RECEIVER, ["sh", "-c", "kill $(cat /run/iperf3.pid)"], check=False)


def _gbits(drill: Drill) -> float:
    """What arrived, over some seconds."""
    words = ["iperf3", "--client", drill.ip(_RECEIVER), "--time", str(_SECONDS), "--json"]
    done = drill.fleet.exec(_SENDER, words, check=False)
    said = json.loads(done.stdout)
    if "error" in said:
        raise LabError(f"iperf3: {said['error']}", where=_SENDER)
    return float(said["end"]["sum_received"]["bits_per_second"]) / 1e9
