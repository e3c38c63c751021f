"""Reads and writes that a disk has to do beside its own."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from chaos_core.effects import LINK_PREFIX, Effect, Holder
from chaos_core.faults._disk import DiskFault
from chaos_core.faults._holders import SMALL_BYTES
from chaos_core.node import NodeView
from chaos_core.units import ByteSize

_MIB = 2**20
_LEAST, _MOST = ByteSize.parse("64KiB"), ByteSize.parse("1GiB")
_LARGEST_FILE = 64 * _MIB


class IoStress(DiskFault):
    """Bytes that pass the page cache by (O_DIRECT), on a file without a name.

    The file has what one second moves, 1 MiB to 64 MiB. It is written once, at the same
    rate, before any of it is read. Averaged over a second the rate is held to 1 % by a disk
    that can do it; one that gives less than half of it is too slow, and the fault is not
    in force.
    """

    kind = "io.stress"
    summary = "read and write on a disk, so many bytes a second"
    lease_holder = (
        "a SIGKILL timer of the holder's own, in the kernel; the file goes with the process"
    )
    example = "path=/srv/data rate=20MiB mode=write"
    risky = True
    needs: ClassVar[tuple[str, ...]] = ("cgroup-memory", "task-io")

    rate: ByteSize = Field(description="bytes a second in all, like 20MiB; 64KiB to 1GiB")
    mode: Literal["read", "write", "both"] = Field(
        default="both", description="read, write, or both in turn"
    )
    workers: Annotated[int, Field(ge=1, le=32)] = Field(
        default=1, description="how many at once, sharing the rate"
    )

    @field_validator("rate")
    @classmethod
    def _sensible(cls, rate: ByteSize) -> ByteSize:
        if not _LEAST <= rate <= _MOST:
            raise ValueError(f"must be {_LEAST} to {_MOST} a second")
        return rate

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        facts = self.target(node)
        size = max(min(self.rate // _MIB * _MIB, _LARGEST_FILE), self.workers * _MIB)
        self.check_room(facts, size)
        return (
            Holder(
                name=f"{LINK_PREFIX}{fault_id}",
                work="io",
                workers=self.workers,
                memory_max=SMALL_BYTES,
                directory=facts.real,
                device=facts.device,
                size=size,
                rate=int(self.rate),
                mode=self.mode,
            ),
        )
