"""Processes that are sent a signal."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from chaos_core.effects import Effect, Kill
from chaos_core.envelope import Draw
from chaos_core.errors import InvalidInput, Refused
from chaos_core.faults import Fault
from chaos_core.faults._units import Service, protected
from chaos_core.node import Asks, NodeView, ProcessFacts, ProcessQuery

Signal = Literal["KILL", "TERM", "INT", "QUIT", "ABRT", "SEGV", "HUP", "USR1", "USR2"]
_FATAL = ("KILL", "TERM", "INT", "QUIT", "ABRT", "SEGV")


class ProcessKill(Fault):
    """Every process that all the given selectors hold for is sent ``signal``, once.

    A process is what it was when it was chosen: pid and start time. PID 1, kernel
    threads, the agent and processes of protected services are refused, not skipped.
    The duration is how long the run goes on watching afterwards.
    """

    kind = "process.kill"
    summary = "send a signal to processes"
    lease_holder = "nobody has to: it is over at once"
    example = "unit=nginx signal=KILL"
    risky = True
    needs: ClassVar[tuple[str, ...]] = ("kill",)

    unit: Annotated[Service | None, Field(description="of this service")] = None
    cmdline: Annotated[str, Field(max_length=200)] = Field(
        default="", description="whose command line holds this text; * stands for anything"
    )
    pid: Annotated[int, Field(ge=0, le=2**22)] = Field(default=0, description="this one")
    signal: Signal = Field(default="KILL", description="the signal's name, without SIG")
    count: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=0, description="at most so many, the oldest first; 0 is all"
    )

    @model_validator(mode="after")
    def _select(self) -> Self:
        if not (self.unit or self.cmdline or self.pid):
            raise ValueError("which processes? give unit, cmdline or pid")
        return self

    def draw(self) -> Draw:
        return Draw("destructive")

    def asks(self) -> Asks:
        query = ProcessQuery(self.unit or "", self.cmdline, self.pid)
        return Asks(processes=query)

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:  # noqa: ARG002
        found = sorted(node.processes, key=lambda process: (process.started, process.pid))
        chosen = found[: self.count or None]
        if not chosen:
            raise InvalidInput(f"no process on {node.name} is like that", where=self.kind)
        for process in chosen:
            why = _protected(node, process)
            if why:
                raise Refused(
                    f"process {process.pid} ({process.name}) is {why}",
                    where=self.kind,
                    hint="select more narrowly",
                )
        victims = tuple((process.pid, process.started) for process in chosen)
        return (Kill(victims, f"SIG{self.signal}", self.signal in _FATAL),)


def _protected(node: NodeView, process: ProcessFacts) -> str:
    if process.pid == 1:
        return "PID 1"
    if process.kernel:
        return "a thread of the kernel"
    pattern = protected(node, process.unit) if process.unit else ""
    return f"of {process.unit}, which is protected (as {pattern})" if pattern else ""
