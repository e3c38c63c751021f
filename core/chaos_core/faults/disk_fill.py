"""A disk that is full, or nearly."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from chaos_core.effects import LINK_PREFIX, Effect, Holder
from chaos_core.errors import InvalidInput
from chaos_core.faults._disk import DiskFault, reserve
from chaos_core.faults._fields import OptionalShare
from chaos_core.faults._holders import SMALL_BYTES
from chaos_core.node import NodeView
from chaos_core.units import ByteSize, Percent

_BLOCK = 4096  # bytes; no file system here gives less


class DiskFill(DiskFault):
    """A file without a name takes ``size`` bytes, or as much as makes the disk ``percent`` full.

    Its blocks are given back with the process that holds it. Always left free are 5 % of
    the file system and at least 256 MiB, counted with what only root can use.
    """

    kind = "disk.fill"
    summary = "fill a file system"
    lease_holder = (
        "a SIGKILL timer of the holder's own, in the kernel; the file goes with the process"
    )
    example = "path=/srv/data percent=90%"
    risky = True
    needs: ClassVar[tuple[str, ...]] = ("cgroup-memory",)

    percent: OptionalShare = Field(
        default=Percent(0), description="how full it is then, of its whole size"
    )
    size: ByteSize = Field(default=ByteSize(0), description="or how much is taken, like 10GiB")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if bool(self.percent) == bool(self.size):
            raise ValueError("percent: must be above 0%, or give size instead")
        return self

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        facts = self.target(node)
        used = facts.total - facts.free
        wanted = int(self.size) or int(self.percent.fraction * facts.total) - used
        size = wanted // _BLOCK * _BLOCK
        if size <= 0:
            raise InvalidInput(
                f"percent: {self.path} is {100 * used // max(1, facts.total)} % full already"
                if self.percent
                else f"size: less than a block of {_BLOCK} bytes",
                where=self.kind,
            )
        self.check_room(facts, size)
        return (
            Holder(
                name=f"{LINK_PREFIX}{fault_id}",
                work="fill",
                memory_max=SMALL_BYTES,
                directory=facts.real,
                device=facts.device,
                size=size,
                reserve=reserve(facts.total),
            ),
        )
