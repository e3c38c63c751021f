"""The drill: the whole system on a fleet of VMs, measured from outside.

``run`` provisions a fresh fleet, plays every check and returns the report. A
check that cannot be carried out counts as failed, and the next one is played.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from chaos_core.errors import ChaosError
from chaos_lab.drill import limits, network, residue, resources, safety
from chaos_lab.drill.context import Check, Drill
from chaos_lab.drill.report import Report
from chaos_lab.fleet import Fleet
from chaos_lab.provision import provision

_IN_PRODUCTION: tuple[Callable[[Drill], None], ...] = (
    network.latency,
    network.loss,
    network.duration,
    resources.cpu,
    resources.memory,
    limits.limits,
)
_IN_LAB: tuple[Callable[[Drill], None], ...] = (
    safety.abort_reachable,
    safety.abort_unreachable,
    safety.controller_lost,
    safety.agent_gone,
    safety.reboot,
)


def run(fleet: Fleet, *, say: Callable[[str], None], tell: Callable[[Check], None]) -> Report:
    """Provision the fleet, which must be up and fresh, and drill it.

    ``say`` hears what is being done, ``tell`` each result as it comes.
    """
    started = time.monotonic()
    provision(fleet, profile="production", say=say)
    drill = Drill(fleet, say, tell=tell)
    for node in fleet.nodes:
        residue.give(drill, node)
    before = {node: residue.listing(drill, node) for node in fleet.nodes}
    _play(drill, _IN_PRODUCTION)
    say("all nodes: profile lab")
    drill.set_profile("lab", *fleet.nodes)
    _play(drill, _IN_LAB)
    drill.set_profile("production", *fleet.nodes)
    residue.residue(drill, before)
    return Report(tuple(drill.checks), time.monotonic() - started)


def _play(drill: Drill, steps: tuple[Callable[[Drill], None], ...]) -> None:
    for step in steps:
        assert step.__doc__ is not None
        drill.say(step.__doc__.splitlines()[0])
        try:
            step(drill)
        except ChaosError as error:
            what = str(error).splitlines()[0]
            drill.check(step.__name__, "", "to be carried out", what, "", False)
            with suppress(ChaosError):  # the checks that follow will say what is wrong
                drill.fleet.heal()
                drill.abort()
                drill.resume()


def keep_logs(fleet: Fleet, directory: Path) -> None:
    """Write what our units said on each VM to ``directory``, a file a VM."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in fleet.names:
        with suppress(ChaosError):  # a VM that is down has nothing to say
            keep_log(fleet, name, directory / f"{name}.log")


def keep_log(fleet: Fleet, name: str, path: Path) -> None:
    """Write what was said on one VM, since its disk is new. Raises LabError when it is down."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(fleet.exec(name, ["journalctl", "--no-pager", "-o", "short-monotonic"]).stdout)
