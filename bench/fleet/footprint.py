"""Memory and CPU of keeper, link and controller, at rest and while a fault is held.

Memory from ``smaps_rollup``, CPU from the unit's ``cpu.stat``, both read inside the VM.
The floor is what nobody can go below who writes this in Python: the interpreter that does
nothing, and for what speaks gRPC, the interpreter that has imported it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from chaos_lab.drill.context import Drill
from chaos_lab.layout import CONTROLLER, HOST_IP
from chaos_lab.provision import CONTROLLER_UNIT, KEEPER_UNIT, LINK_UNIT

_NODE, _SECONDS = "n3", 15
_PARTS = {
    "keeper": (_NODE, KEEPER_UNIT),
    "link": (_NODE, LINK_UNIT),
    "controller": (CONTROLLER, CONTROLLER_UNIT),
}

# Reads the units once, waits, reads them again.
_READ = """
import json, os, re, sys, time
def read(unit):
    at = f'/sys/fs/cgroup/system.slice/{unit}'
    memory = dict.fromkeys(('Rss', 'Pss', 'Anonymous'), 0)
    groups = [place for place, _, files in os.walk(at) if 'cgroup.procs' in files]
    for pid in [n for place in groups for n in open(f'{place}/cgroup.procs').read().split()]:
        text = open(f'/proc/{pid}/smaps_rollup').read()
        for name in memory:
            memory[name] += int(re.search(rf'^{name}: +(\\\\d+)', text, re.M)[1])
    usage = int(re.search(r'usage_usec (\\\\d+)', open(f'{at}/cpu.stat').read())[1])
    return memory, usage
seconds, *units = sys.argv[1:]
first, start = [read(unit)[1] for unit in units], time.monotonic()
time.sleep(float(seconds))
last, took = [read(unit) for unit in units], time.monotonic() - start
print(json.dumps([{**memory, 'cpu': 60 * (usage - was) / 1e6 / took}
                  for was, (memory, usage) in zip(first, last)]))
""".replace("\\\\", "\\")
_FLOORS = {
    "an idle interpreter": "import time; time.sleep(999)",
    "one that has imported grpc.aio": "import grpc.aio, time; time.sleep(999)",
}
_FLOOR_OF = {"keeper": "an idle interpreter", "link": "one that has imported grpc.aio"}
_FLOOR_OF["controller"] = _FLOOR_OF["link"]


@dataclass(frozen=True, slots=True)
class Use:
    """KiB of memory, and CPU seconds a minute."""

    rss: int
    pss: int
    anonymous: int
    cpu: float


def measure(drill: Drill, console: Console) -> None:
    """At rest, while one node's fault is renewed each second, and after it."""
    drill.say(f"at rest, {_SECONDS} s")
    floors = _floors(drill)
    at_rest = _all(drill)
    with drill.fault("network.latency", f"peers={HOST_IP}", "delay=50ms", nodes=(_NODE,)):
        drill.say(f"with network.latency on {_NODE}, {_SECONDS} s")
        with_fault = _all(drill)
    drill.say(f"after it, {_SECONDS} s")
    after = _all(drill)
    table = Table(
        *("", "when", "RSS MiB", "PSS MiB", "anonymous MiB", "CPU s/min", "RSS / floor"),
        title=f"footprint: controller with {len(drill.fleet.nodes)} nodes, one faulted",
    )
    for name, use in floors.items():
        table.add_row(name, "", *_cells(use), "")
    for name in _PARTS:
        for when, uses in (("rest", at_rest), ("fault", with_fault), ("after", after)):
            ratio = uses[name].rss / floors[_FLOOR_OF[name]].rss
            table.add_row(name, when, *_cells(uses[name]), f"{ratio:.2f}")
    console.print(table)


def _cells(use: Use) -> Iterator[str]:
    yield from (f"{kib / 1024:.1f}" for kib in (use.rss, use.pss, use.anonymous))
    yield f"{use.cpu:.2f}"


def _all(drill: Drill) -> dict[str, Use]:
    """The node's two units and the controller's, over the same seconds."""
    readers = {}
    for vm in (_NODE, CONTROLLER):
        units = [unit for where, unit in _PARTS.values() if where == vm]
        readers[vm] = drill.fleet.popen(vm, ["python3", "-c", _READ, str(_SECONDS), *units])
    found: list[Use] = []
    for reader in readers.values():
        said, _ = reader.communicate(timeout=_SECONDS + 30)
        found += [_use(data) for data in json.loads(said)]
    return dict(zip(_PARTS, found, strict=True))


def _use(data: dict[str, float]) -> Use:
    rss, pss, anonymous = (int(data[name]) for name in ("Rss", "Pss", "Anonymous"))
    return Use(rss, pss, anonymous, data["cpu"])


def _floors(drill: Drill) -> dict[str, Use]:
    """Transient services of the same interpreter that our units run."""
    with _services(drill) as units:
        drill.fleet.exec(_NODE, ["sleep", "4"])
        words = ["python3", "-c", _READ, "2", *units]
        said = drill.fleet.exec(_NODE, words).stdout
    return dict(zip(_FLOORS, map(_use, json.loads(said)), strict=True))


@contextmanager
def _services(drill: Drill) -> Iterator[list[str]]:
    head = drill.fleet.exec(_NODE, ["sh", "-c", "head -1 $(command -v chaos-agent)"]).stdout
    interpreter = head.removeprefix("#!").split()
    units = [f"bench-floor-{number}.service" for number in range(len(_FLOORS))]
    try:
        for unit, program in zip(units, _FLOORS.values(), strict=True):
            run = ["systemd-run", "--quiet", f"--unit={unit}", *interpreter, "-c", program]
            drill.fleet.exec(_NODE, run)
        yield units
    finally:
        drill.fleet.exec(_NODE, ["systemctl", "stop", *units], check=False)
