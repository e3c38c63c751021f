"""The catalogue: every kind of fault, measured from outside on a fleet of VMs.

For each kind: its effect against what was asked, and how long it outlives the end of its
duration, an abort, and the death of an agent that nobody starts again; then the node is
compared with its listing from before. A kind is added by a ``Measure`` in the module of
its family.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from chaos_core.errors import ChaosError, LabError
from chaos_core.hits import Hits
from chaos_lab import provision
from chaos_lab.catalogue import (
    databases,
    filtering,
    hooks,
    limits,
    network,
    resources,
    selecting,
    services,
    shaping,
)
from chaos_lab.catalogue.probe import NODE, Measure, Probe
from chaos_lab.drill import residue, units
from chaos_lab.drill.context import Drill, Injection
from chaos_lab.layout import HOST_IP

MEASURES: tuple[Measure, ...] = (
    *network.MEASURES,
    *filtering.MEASURES,
    *shaping.MEASURES,
    *selecting.MEASURES,
    *resources.MEASURES,
    *services.MEASURES,
    *limits.MEASURES,
    *hooks.MEASURES,
    *databases.MEASURES,
)

_BOUND_S = 5.0  # P3: an abort's; the others are bounded by the lease, which is shorter
_LONG_S, _SHORT_S = 90, 5
_TRIES = 5


@dataclass(slots=True)
class Row:
    """What was found of one kind. ``gone`` is in seconds from the cause, by its name; ``hits``

    is what the agent reports, ``measured`` what was seen from outside.
    """

    kind: str
    params: str
    asked: str
    measured: str = ""
    hits: str = ""
    held: bool = False
    gone: dict[str, float] = field(default_factory=dict)
    residue: str = ""
    date: str = ""

    @property
    def line(self) -> str:
        """In one line, for people."""
        gone = ", ".join(f"{cause} {seconds:.1f} s" for cause, seconds in self.gone.items())
        hits = f"; hits: {self.hits}" if self.hits else ""
        return (
            f"{self.kind}: {self.measured} (asked: {self.asked}){hits}; gone: {gone or 'at once'}"
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def run(drill: Drill, measures: Sequence[Measure], tell: Callable[[Row], None]) -> list[Row]:
    """Measure on a fleet that is up and provisioned with profile lab. ``tell`` hears each row."""
    services.give(drill)
    with selecting.second_wire(drill):
        pass
    if set(measures) & set(databases.MEASURES):
        databases.give(drill)
    provision.write_config(drill.fleet, NODE, "lab", hooks.LISTED + databases.LISTED)
    _start(drill)
    for node in {other for one in measures for other in one.nodes} - {NODE}:
        _warm_up(drill, node)
    rows = [
        Row(one.kind, " ".join(one.words(drill)[1:]), one.asked, date=time.strftime("%Y-%m-%d"))
        for one in measures
    ]
    played = list(zip(measures, rows, strict=True))
    for one, row in played:
        if not one.reboots:
            _try(drill, one, row, (_bites, _lasts))
            tell(row)
    units.look_away(drill.fleet, NODE)
    try:
        _start(drill)
        for one, row in played:
            if one.lasts and row.held:
                _try(drill, one, row, (_orphaned,))
                tell(row)
    finally:
        units.look_back(drill.fleet, NODE)
        _start(drill)
    for one, row in played:
        if one.reboots:
            drill.fleet.reboot(NODE)  # so that it is compared with a boot to which nothing was done
            provision.wait_connected(drill.fleet)
            _try(drill, one, row, (_bites,))
            tell(row)
    return rows


Step = Callable[[Drill, Measure, Probe, Row], None]


def _try(drill: Drill, measure: Measure, row: Row, steps: Iterable[Step]) -> None:
    """Play the steps on a node that must be the same before and after."""
    before = {node: residue.listing(drill, node) for node in measure.nodes}
    try:
        with measure.probe(drill) as probe:
            for step in steps:
                step(drill, measure, probe, row)
    except ChaosError as error:
        row.measured, row.held = str(error).splitlines()[0], False
        with suppress(ChaosError):
            drill.abort()
            drill.resume()
    row.residue = "; ".join(
        f"{node}: {line}"
        for node, lines in before.items()
        for line in residue.difference(lines, residue.listing(drill, node))
    )
    row.held = row.held and not row.residue and all(s < _BOUND_S for s in row.gone.values())


def _bites(drill: Drill, measure: Measure, probe: Probe, row: Row) -> None:
    """What it does; and an abort."""
    probe.base()
    run = drill.inject(*measure.words(drill), nodes=measure.nodes, seconds=_LONG_S)
    run.reached("observe")
    row.measured, row.held = probe.during()
    pressed, _ = drill.abort()
    if measure.lasts:
        row.gone["abort"] = probe.gone_after(pressed)
    drill.resume()
    run.wait()
    row.hits = _hits(run)


def _hits(run: Injection) -> str:
    """What the node said last of what it hit; empty where that is not counted."""
    said = [event["hits"] for _, event in run.events if event.get("hits")]
    return str(Hits.model_validate(said[-1])) if said else ""


def _lasts(drill: Drill, measure: Measure, probe: Probe, row: Row) -> None:
    """The end of its duration."""
    if not measure.lasts:
        return
    run = drill.inject(*measure.words(drill), nodes=measure.nodes, seconds=_SHORT_S)
    asked = run.reached("inject")
    run.reached("observe")
    row.gone["duration"] = max(0.0, probe.gone_after(asked + _SHORT_S))
    run.wait()


def _orphaned(drill: Drill, measure: Measure, probe: Probe, row: Row) -> None:
    """The keeper is killed, and nobody starts it or ``recover``."""
    probe.base()
    run = drill.inject(*measure.words(drill), nodes=measure.nodes, seconds=_LONG_S)
    run.reached("observe")
    time.sleep(1.5)  # it has been renewed
    hit_at = time.monotonic()
    drill.fleet.exec(NODE, ["systemctl", "kill", "-s", "KILL", provision.KEEPER_UNIT])
    row.gone["killed"] = probe.gone_after(hit_at)
    run.drop()
    _start(drill)
    drill.abort()
    drill.resume()


def _start(drill: Drill) -> None:
    units.restart(drill.fleet, NODE)
    provision.wait_connected(drill.fleet)
    _warm_up(drill, NODE)


def _warm_up(drill: Drill, node: str) -> None:
    """Play a small fault until one goes through.

    The first one after a start loads libraries. In a VM of a busy machine that can take longer
    than the keeper's watchdog waits, and would be measured as a fault that is not held.
    """
    for left in reversed(range(_TRIES)):
        run = drill.inject(
            "network.latency", f"peers={HOST_IP}", "delay=1ms", nodes=(node,), seconds=1
        )
        try:
            run.reached("observe")
        except LabError:
            if not left:
                raise
            run.wait()
            provision.wait_connected(drill.fleet)
        else:
            run.wait()
            return
