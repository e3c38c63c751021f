"""A service whose disk is slow."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, Field, model_validator

from chaos_core.effects import Effect
from chaos_core.errors import InvalidInput
from chaos_core.faults._limits import UNLIMITED, LimitFault
from chaos_core.faults._timed import timed
from chaos_core.node import Asks, NodeView
from chaos_core.units import ByteSize

_LEAST = 4096  # a page a second


def _enough(value: ByteSize) -> ByteSize:
    if value < _LEAST:
        raise ValueError(f"must be at least {ByteSize(_LEAST)} a second")
    return value


def _absolute(value: str) -> str:
    if not value.startswith("/") or "\0" in value:
        raise ValueError(f"{value!r} is not an absolute path")
    return value


Rate = Annotated[ByteSize, AfterValidator(_enough)]


class IoThrottle(LimitFault):
    """The service reads or writes at most so much a second of the disk that holds a path
    (``io.max``). Reads that the page cache answers do not count; buffered writes are held
    back when they are written out."""

    kind = "io.throttle"
    summary = "cap how fast a service reads or writes a disk"
    example = "unit=nginx path=/var write=1MiB"
    needs: ClassVar[tuple[str, ...]] = ("systemd", "limit-io")
    file = "io.max"

    path: Annotated[str, Field(max_length=1024), AfterValidator(_absolute)] = Field(
        description="a directory or file on that disk; no symbolic link"
    )
    read: Rate | None = Field(default=None, description="bytes per second")
    write: Rate | None = Field(default=None, description="bytes per second")

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.read is None and self.write is None:
            raise ValueError("how fast? give read, write or both")
        return self

    def asks(self) -> Asks:
        return Asks(units=(self.unit,), limits=(self.file,), block_of=self.path)

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        text = self.group(node).files[self.file]
        if not node.block:
            raise InvalidInput(
                f"path: {self.path} is on no block device of {node.name}",
                where=self.kind,
                hint="it must be there, be no link, and be on a disk (not tmpfs, overlay or btrfs)",
            )
        lines = {words[0]: words[1:] for line in text.splitlines() if (words := line.split())}
        before = dict(word.split("=", 1) for word in lines.get(node.block, ()))
        wanted = {"rbps": self.read, "wbps": self.write}
        return timed(
            node,
            fault_id,
            *(
                self.tighter(node, before.get(name, UNLIMITED), rate, f"{node.block} {name}")
                for name, rate in wanted.items()
                if rate is not None
            ),
        )
