"""A service that can start no process and no thread."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from chaos_core.effects import Effect
from chaos_core.faults._limits import LimitFault
from chaos_core.faults._timed import timed
from chaos_core.node import NodeView


class PidsExhaust(LimitFault):
    """``pids.max`` becomes what the service has at the start, so fork and clone fail (EAGAIN).

    What it has goes on. When one of its tasks ends, another may start.
    """

    kind = "pids.exhaust"
    summary = "let a service start no new process or thread"
    example = "unit=nginx margin=0"
    needs: ClassVar[tuple[str, ...]] = ("systemd", "limit-pids")
    file = "pids.max"
    beside = ("pids.current",)

    margin: Annotated[int, Field(ge=0, le=100_000)] = Field(
        default=0, description="so many more may start"
    )

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        files = self.group(node).files
        value = int(files["pids.current"]) + self.margin
        return timed(node, fault_id, self.tighter(node, files[self.file], value))
