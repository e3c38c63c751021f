"""What actions and probes share: whom they talk to, and how runs are followed and named.

What it promises: an action that is interrupted while it waits for a run ends this run; and if
nobody is left to do so (SIGKILL), the run ends as every other: by its duration or its lease.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
from chaoslib.exceptions import ActivityFailed
from chaoslib.types import Configuration

from chaos_core.errors import ChaosError, InvalidInput
from chaos_core.run import Phase
from chaos_proto.credentials import Credentials
from chaosctl import client, options
from chaosctl.client import chaos_pb2 as pb
from chaosctl.timeline import stamp

LATEST: Final = "latest"
_NEWEST: Final = 100  # runs among which the latest of our own is looked for
_GOOD: Final = ("held", "passed")
_OVER: Final = ("ended", "refused")

logger = logging.getLogger("chaostoolkit")


@dataclass(frozen=True, slots=True)
class Session:
    """One activity's connection to the controller."""

    stub: Any
    whom: options.Target

    def call(self, method: str, request: Any) -> Any:
        """A plain question."""
        return getattr(self.stub, method)(request, timeout=client.ANSWER_S)

    def run(self, name: str) -> str:
        """The run of this name; «latest» is the one that this identity started last."""
        if name != LATEST:
            return name
        us = str(Credentials.read(self.whom.pki).check().identity)
        for run in self.call("ListRuns", pb.ListRunsRequest(limit=_NEWEST)).runs:
            if run.actor == us:
                return str(run.id)
        raise InvalidInput(f"{us} has started no run yet", hint="name the run")

    def end(self, run: str, reason: str) -> None:
        """End one run now."""
        self.call("End", pb.EndRequest(run=run, reason=reason))

    def follow(self, events: Iterable[pb.RunEvent], *, background: bool = False) -> dict[str, Any]:
        """A run's outcome; with ``background``, only until it is in force.

        Raises ActivityFailed when its verdict is bad.
        """
        run = ""
        try:
            for event in events:
                run = event.run
                logger.info(f"{run} {stamp(event.at_us)} {event.node} {event.text}".rstrip())
                in_force = event.event == "phase" and event.phase == Phase.OBSERVE
                if event.verdict or (background and in_force):
                    return _outcome(event)
        except grpc.RpcError:  # told by client.operator; without its controller the run ends
            raise
        except ActivityFailed:
            raise
        except BaseException:  # Ctrl-C, SIGTERM, the toolkit's own signals
            self._interrupted(run)
            raise
        raise client.lost(self.whom, f"the verdict of {run}" if run else "it began")

    def _interrupted(self, run: str) -> None:
        if not run:
            logger.warning("interrupted before the controller answered; look: chaosctl runs")
            return
        try:
            self.end(run, "chaos run was interrupted")
            logger.warning(f"{run} was ended, since its activity was interrupted")
        except grpc.RpcError:
            logger.warning(f"{run} could not be ended; it ends by its duration or its lease")


@contextmanager
def session(configuration: Configuration) -> Iterator[Session]:
    """To the controller of the experiment's configuration, or that of chaosctl itself.

    An error of ours becomes the toolkit's, on one line.
    """
    settings = configuration or {}
    try:
        controller = _setting(settings, "controller")
        pki = _setting(settings, "pki")
        whom = options.target(controller, Path(pki).expanduser() if pki else None)
        with client.operator(whom) as stub:
            yield Session(stub, whom)
    except ChaosError as error:
        raise ActivityFailed(one_line(error)) from error


def one_line(error: ChaosError) -> str:
    """The toolkit keeps the first line of what it is told."""
    return " ".join(str(error).split())


def names(nodes: list[str]) -> list[str]:
    """Names of nodes, each once. Raises InvalidInput for anything else."""
    if not isinstance(nodes, list) or not all(isinstance(name, str) for name in nodes):
        raise InvalidInput(f"nodes: {nodes!r} is not a list of names", hint='"nodes": ["web1"]')
    return list(dict.fromkeys(nodes))


def dirt(node: pb.Node) -> str:
    """What is left on a node that ought to be clean; empty when nothing is."""
    going = [f"{each.kind} ({each.run})" for each in node.faults if each.state not in _OVER]
    return "; ".join([*node.quarantine, *going])


def _setting(configuration: Configuration, name: str) -> str:
    variable = os.environ.get(f"CHAOSCTL_{name.upper()}", "")
    value = configuration.get(f"chaosctl_{name}") or variable
    if not isinstance(value, str):
        raise InvalidInput(f"configuration: chaosctl_{name}: {value!r} is not a text")
    return value


def _outcome(event: pb.RunEvent) -> dict[str, Any]:
    if event.verdict and event.verdict not in _GOOD:
        raise ActivityFailed(f"{event.run} {event.verdict}: {event.text}")
    reason = event.text if event.verdict else ""
    return {"run": event.run, "verdict": event.verdict, "reason": reason}
