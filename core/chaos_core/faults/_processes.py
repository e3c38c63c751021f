"""Processes as targets: which a fault may touch, and which it may never."""

from __future__ import annotations

from abc import ABC
from typing import Annotated, Self

from pydantic import Field, model_validator

from chaos_core.envelope import Draw
from chaos_core.errors import InvalidInput, Refused
from chaos_core.essential import SSH_SERVERS
from chaos_core.faults import Fault
from chaos_core.faults._units import Service, protected
from chaos_core.node import Asks, NodeView, ProcessFacts, ProcessQuery


class ProcessFault(Fault, ABC):
    """A fault of every process that all the given selectors hold for.

    A process is what it was when it was chosen: pid and start time. PID 1, kernel
    threads, the agent, SSH servers, and processes of protected services and of login sessions
    are refused, not skipped.

    Who listens at a ``port`` is known by its cgroup (v2), which is that of a service or of a
    container on the host's network: all of its processes are meant. ``count=1`` is the oldest.
    """

    unit: Annotated[Service | None, Field(description="of this service")] = None
    cmdline: Annotated[str, Field(max_length=200)] = Field(
        default="", description="whose command line holds this text; * stands for anything"
    )
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=0, description="of the service that listens at this TCP port of the node"
    )
    pid: Annotated[int, Field(ge=0, le=2**22)] = Field(default=0, description="this one")

    @model_validator(mode="after")
    def _select(self) -> Self:
        if not (self.unit or self.cmdline or self.port or self.pid):
            raise ValueError("which processes? give unit, cmdline, port or pid")
        return self

    def draw(self) -> Draw:
        return Draw("destructive")

    def asks(self) -> Asks:
        query = ProcessQuery(self.unit or "", self.cmdline, self.pid, self.port)
        return Asks(processes=query)

    def chosen(self, node: NodeView, count: int = 0) -> list[ProcessFacts]:
        """The oldest ``count`` of them (0 is all). Raises InvalidInput when there is none,
        and Refused when one of them may not be touched."""
        found = sorted(node.processes, key=lambda process: (process.started, process.pid))
        chosen = found[: count or None]
        if not chosen:
            raise InvalidInput(
                f"no process on {node.name} is like that",
                where=self.kind,
                hint="`ss -tlnp` on the node lists who listens; a port takes cgroup v2"
                if self.port
                else "",
            )
        for process in chosen:
            why = _protected(node, process)
            if why:
                raise Refused(
                    f"process {process.pid} ({process.name}) is {why}",
                    where=self.kind,
                    hint="select more narrowly",
                )
        return chosen


def _protected(node: NodeView, process: ProcessFacts) -> str:
    if process.pid == 1:
        return "PID 1"
    if process.kernel:
        return "a thread of the kernel"
    if process.name in SSH_SERVERS:
        return "an SSH server, or a session of one, and protected"
    for unit in filter(None, (process.unit, process.session)):
        why = protected(node, unit)
        if why:
            return f"of {unit}, which is protected (as {why})"
    return ""
