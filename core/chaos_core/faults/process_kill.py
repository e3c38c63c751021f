"""Processes that are sent a signal."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from chaos_core.effects import Effect, Kill
from chaos_core.faults._processes import ProcessFault
from chaos_core.node import NodeView
from chaos_core.units import SECOND, Duration

Signal = Literal["KILL", "TERM", "INT", "QUIT", "ABRT", "SEGV", "HUP", "USR1", "USR2"]
_FATAL = ("KILL", "TERM", "INT", "QUIT", "ABRT", "SEGV")


def _slowly(value: Duration | None) -> Duration | None:
    if value is not None and value < SECOND:
        raise ValueError("must be at least 1s")
    return value


class ProcessKill(ProcessFault):
    """Every process that all the given selectors hold for is sent ``signal``: once, or with
    ``repeat`` again and again, whoever they are by then.

    A round that finds nobody (a service on its way back, say) is none; one that finds a
    process that may not be touched ends the fault, and so does one before whose turn the
    last round's processes have not ended. Rounds are made by the keeper under its lease.
    The duration is how long the run goes on, or goes on watching.
    """

    kind = "process.kill"
    summary = "send a signal to processes"
    lease_holder = "nobody has to: it is over at once, and the dead make no more rounds"
    example = "unit=nginx signal=KILL"
    risky = True
    needs: ClassVar[tuple[str, ...]] = ("kill",)

    signal: Signal = Field(default="KILL", description="the signal's name, without SIG")
    count: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=0, description="at most so many, the oldest first; 0 is all"
    )

    repeat: Annotated[Duration | None, AfterValidator(_slowly)] = Field(
        default=None, description="again every so often, at least 1s"
    )

    def again(self) -> Duration | None:
        return self.repeat

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:  # noqa: ARG002
        chosen = self.chosen(node, self.count)
        victims = tuple((process.pid, process.started) for process in chosen)
        return (Kill(victims, f"SIG{self.signal}", self.signal in _FATAL),)
