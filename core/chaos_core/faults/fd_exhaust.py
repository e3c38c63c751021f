"""Open files until hardly any are left for the rest of the system."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from chaos_core.effects import LINK_PREFIX, Effect, Holder
from chaos_core.envelope import Draw
from chaos_core.errors import Refused
from chaos_core.faults import Fault
from chaos_core.faults._holders import LEASE_HOLDER, SMALL_BYTES
from chaos_core.node import NodeView
from chaos_core.units import ByteSize

_EACH = 512  # bytes: a struct file of 256, and its places in two tables while they grow
_LEAST_RESERVE = 1024


class FdExhaust(Fault):
    """``count`` open files in one process, of the ``fs.file-max`` that the whole system has.

    Always left are 5 % of that and at least 1,024: the agent, too, must be able to open
    files. Where the limit is as good as none, as systemd sets it, only memory is taken.
    """

    kind = "fd.exhaust"
    summary = "take open files from the whole system"
    lease_holder = LEASE_HOLDER
    example = "count=100000"
    risky = True
    needs: ClassVar[tuple[str, ...]] = ("cgroup-memory",)

    count: Annotated[int, Field(ge=1, le=2**20)] = Field(description="how many files")

    def draw(self) -> Draw:
        return Draw("destructive", memory_size=ByteSize(self.count * _EACH))

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        limits = node.files
        reserve = max(limits.most // 20, _LEAST_RESERVE)
        left = max(0, limits.most - limits.taken - reserve)
        own = limits.ours - 64  # the holder's interpreter has some
        if self.count > min(left, own):
            raise Refused(
                f"count: at most {min(left, own)} files can be opened on {node.name} now",
                where=self.kind,
                hint=f"fs.file-max is {limits.most}, of which {reserve} are left free; a process"
                f" of the agent's may open {limits.ours} (LimitNOFILE=)",
            )
        return (
            Holder(
                name=f"{LINK_PREFIX}{fault_id}",
                work="files",
                memory_max=SMALL_BYTES + self.count * _EACH,
                count=self.count,
                reserve=reserve,
            ),
        )
