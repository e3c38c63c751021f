"""What an experiment of the toolkit's can ask here. They change nothing: a viewer's identity does.

Types are written as the toolkit's discovery reads them.
"""

from typing import List, Optional

from chaoslib.types import Configuration

from chaos_core.errors import InvalidInput
from chaoschaosctl._session import LATEST, Session, dirt, names, session
from chaosctl.client import chaos_pb2 as pb

__all__ = ["fault_in_force", "nodes_clean", "nodes_connected", "run_verdict"]


def nodes_connected(nodes: Optional[List[str]] = None, configuration: Configuration = None) -> bool:
    """Whether all these nodes, or all that are known, are connected and can take a fault."""
    with session(configuration) as controller:
        return all(node.state == "connected" for node in _nodes(controller, nodes))


def nodes_clean(nodes: Optional[List[str]] = None, configuration: Configuration = None) -> bool:
    """Whether all these nodes, or all that are known, are connected and carry nothing of ours."""
    with session(configuration) as controller:
        found = _nodes(controller, nodes)
        return all(node.state == "connected" and not dirt(node) for node in found)


def run_verdict(run: str = LATEST, configuration: Configuration = None) -> str:
    """The verdict of a run (held, passed, failed, …), or its phase while it goes on.

    Unless one is named, that of the run which this identity started last.
    """
    with session(configuration) as controller:
        request = pb.GetRunRequest(id=controller.run(run))
        found = controller.call("GetRun", request).run
        return str(found.verdict or found.phase)


def fault_in_force(run: str = LATEST, configuration: Configuration = None) -> bool:
    """Whether a node reports a fault of this run, or of a step of it, as in force.

    Unless one is named, of the run which this identity started last.
    """
    with session(configuration) as controller:
        name = controller.run(run)
        controller.call("GetRun", pb.GetRunRequest(id=name))  # a name that is wrong is an error
        return any(
            fault.state == "in_force" and (fault.run == name or fault.run.startswith(f"{name}-"))
            for node in _nodes(controller, None)
            for fault in node.faults
        )


def _nodes(controller: Session, nodes: Optional[List[str]]) -> List[pb.Node]:
    """Those of these names; all when none are given. Raises InvalidInput for a name not known."""
    known = {each.name: each for each in controller.call("ListNodes", pb.ListNodesRequest()).nodes}
    for name in names(nodes or []):
        if name not in known:
            told = ", ".join(known) or "none"
            raise InvalidInput(f"there is no node {name!r}", hint=f"known: {told}")
    return [known[name] for name in nodes or known]
