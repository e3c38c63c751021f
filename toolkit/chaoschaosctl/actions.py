"""What an experiment of the toolkit's can do here. Each fails with the controller's own words.

Types are written as the toolkit's discovery reads them.
"""

from pathlib import Path
from typing import Any, Dict, List, Optional

from chaoslib.exceptions import ActivityFailed
from chaoslib.types import Configuration

from chaos_core import faults
from chaos_core.errors import InvalidInput, Refused
from chaos_core.units import Duration
from chaoschaosctl._session import LATEST, dirt, names, session
from chaosctl import client
from chaosctl.client import chaos_pb2 as pb
from chaosctl.commands import scenario
from chaosctl.commands.inject import canonical
from chaosctl.commands.run import request_of

__all__ = ["abort", "end_run", "inject", "resume", "run_scenario"]


def inject(
    kind: str,
    nodes: List[str],
    duration: str,
    params: Optional[Dict[str, Any]] = None,
    reason: str = "",
    background: bool = False,
    allow_risky: bool = False,
    configuration: Configuration = None,
) -> Dict[str, Any]:
    """Put a fault in force on nodes for a while, like 60s, and wait until they are clean again.

    With `background`, returns as soon as it is in force; it still ends after its duration, or
    by `end_run`. `chaosctl faults KIND` lists the parameters. What it calls risky is refused
    unless `allow_risky` is true.
    """
    with session(configuration) as controller:
        fault = faults.parse(kind, params or {})
        _check_risky([kind], allow_risky)
        request = pb.InjectRequest(
            kind=kind,
            params=canonical(fault),
            nodes=names(nodes),
            duration_us=_duration(duration),
            reason=reason,
        )
        return controller.follow(controller.stub.Inject(request), background=background)


def run_scenario(
    path: str,
    settings: Optional[Dict[str, str]] = None,
    level: str = "",
    environment: str = "",
    reason: str = "",
    allow_risky: bool = False,
    configuration: Configuration = None,
) -> Dict[str, Any]:
    """Run a scenario file of chaosctl's as a whole, and wait for its verdict.

    Fails unless it is `passed`. A scenario with risky faults needs `allow_risky`.
    """
    with session(configuration) as controller:
        file = Path(path)
        chosen = {name: str(value) for name, value in (settings or {}).items()}
        words = [f"{name}={value}" for name, value in chosen.items()]
        text, loaded = scenario.read(file, words, level, environment)
        _check_risky([step.kind for step in loaded.plan.steps], allow_risky)
        request = request_of(file, text, chosen, level, environment, reason)
        return controller.follow(controller.stub.Experiment(request))


def end_run(
    run: str = LATEST,
    reason: str = "the experiment asked for it",
    configuration: Configuration = None,
) -> str:
    """End one run or experiment now, and wait until it is over; others go on.

    Unless one is named, the one that this identity started last. Returns its verdict.
    """
    with session(configuration) as controller:
        name = controller.run(run)
        controller.end(name, reason)
        for event in controller.stub.Watch(pb.WatchRequest(run=name)):
            if event.verdict:
                return str(event.verdict)
        raise client.lost(controller.whom, f"{name} was over")


def abort(reason: str, configuration: Configuration = None) -> Dict[str, Any]:
    """End every fault on every node. Nothing starts again until `resume`.

    Returns after how many seconds each node was clean; fails if one of them is not.
    """
    with session(configuration) as controller:
        events = list(controller.stub.Abort(pb.AbortRequest(reason=reason)))
        dirty = {
            node.name: dirt(node)
            for node in controller.call("ListNodes", pb.ListNodesRequest()).nodes
            if dirt(node) and (node.quarantine or node.state != "unreachable")
        }
        if dirty:
            told = ", ".join(f"{name}: {what}" for name, what in dirty.items())
            raise ActivityFailed(f"aborted, and not clean: {told}")
        return {each.node: each.clean_after_us / 1_000_000 for each in events if each.node}


def resume(reason: str, configuration: Configuration = None) -> bool:
    """Lift the latch of an abort. Returns whether it was set."""
    with session(configuration) as controller:
        return bool(controller.call("Resume", pb.ResumeRequest(reason=reason)).was.set)


def _duration(text: str) -> Duration:
    try:
        return Duration.parse(text)
    except InvalidInput as error:
        raise InvalidInput(f"duration: {error.what}", hint='"duration": "60s"') from None


def _check_risky(kinds: List[str], allowed: bool) -> None:
    risky = sorted({kind for kind in kinds if faults.lookup(kind).risky})
    if risky and not allowed:
        raise Refused(
            f"risky, and there is nobody to ask: {', '.join(risky)}", hint='"allow_risky": true'
        )
