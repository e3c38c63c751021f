"""Boots a fleet, measures, shows, and ends the fleet whatever happened."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable

from bench.fleet import abort, bystander, footprint
from rich.console import Console

from chaos_core.errors import ChaosError
from chaos_lab.drill.context import Drill
from chaos_lab.fleet import Fleet
from chaos_lab.layout import LabDir
from chaos_lab.provision import provision

# In this order: the first is on a node that has never had a fault, and so is the second.
_FIGURES: dict[str, Callable[[Drill, Console], None]] = {
    "bystander": bystander.measure,
    "footprint": footprint.measure,
    "abort": abort.measure,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench/on_fleet.py", description=__doc__)
    parser.add_argument("figure", nargs="*", choices=[*_FIGURES, []], help="only these")
    chosen = parser.parse_args().figure or list(_FIGURES)
    started = time.monotonic()
    console = Console(highlight=False, width=120)

    def say(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - started:6.1f} s  {text}[/dim]")

    fleet = Fleet(LabDir.find().beside("bench"), say=say)
    fleet.down()
    try:
        fleet.up(nodes=3)
        provision(fleet, profile="lab", say=say)
        for name in chosen:
            say(f"{name}; load {os.getloadavg()[0]:.1f}")
            _FIGURES[name](Drill(fleet, say), console)
    finally:
        fleet.down()
        say("the fleet is down")


if __name__ == "__main__":
    try:
        main()
    except ChaosError as error:
        sys.exit(str(error))
