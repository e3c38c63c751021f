"""Processes that are sent a signal."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from chaos_core.effects import Effect, Kill
from chaos_core.faults._processes import ProcessFault
from chaos_core.node import NodeView

Signal = Literal["KILL", "TERM", "INT", "QUIT", "ABRT", "SEGV", "HUP", "USR1", "USR2"]
_FATAL = ("KILL", "TERM", "INT", "QUIT", "ABRT", "SEGV")


class ProcessKill(ProcessFault):
    """Every process that all the given selectors hold for is sent ``signal``, once.

    The duration is how long the run goes on watching afterwards.
    """

    kind = "process.kill"
    summary = "send a signal to processes"
    lease_holder = "nobody has to: it is over at once"
    example = "unit=nginx signal=KILL"
    risky = True
    needs: ClassVar[tuple[str, ...]] = ("kill",)

    signal: Signal = Field(default="KILL", description="the signal's name, without SIG")
    count: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=0, description="at most so many, the oldest first; 0 is all"
    )

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:  # noqa: ARG002
        chosen = self.chosen(node, self.count)
        victims = tuple((process.pid, process.started) for process in chosen)
        return (Kill(victims, f"SIG{self.signal}", self.signal in _FATAL),)
