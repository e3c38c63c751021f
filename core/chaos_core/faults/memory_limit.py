"""A service that may use less memory than it has."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from chaos_core.effects import Effect
from chaos_core.faults._fields import Share
from chaos_core.faults._limits import LimitFault
from chaos_core.faults._timed import timed
from chaos_core.node import NodeView
from chaos_core.units import ByteSize

_PAGE = 4096  # the kernel keeps whole pages
_LEAST = 2**20


class MemoryLimit(LimitFault):
    """The service is throttled while it uses more (``memory.high``), and never OOM-killed by it.

    The kernel takes its page cache first, then swaps; where there is no swap, a service of
    anonymous memory above the limit is slowed almost to a halt at each allocation.
    """

    kind = "memory.limit"
    summary = "make a service reclaim memory above a limit"
    example = "unit=nginx percent=50%"
    needs: ClassVar[tuple[str, ...]] = ("systemd", "limit-memory")
    file = "memory.high"
    beside = ("memory.current",)

    size: ByteSize | None = Field(default=None, description="the limit")
    percent: Share | None = Field(default=None, description="or: of what it uses at the start")

    @model_validator(mode="after")
    def _either(self) -> Self:
        if (self.size is None) == (self.percent is None):
            raise ValueError("how much? give size or percent, and not both")
        if self.size is not None and self.size < _LEAST:
            raise ValueError(f"size must be at least {ByteSize(_LEAST)}")
        return self

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        files = self.group(node).files
        wanted = self.size
        if wanted is None:
            assert self.percent is not None
            wanted = ByteSize(int(self.percent) * int(files["memory.current"]) // 1_000_000)
        value = max(wanted, _LEAST) // _PAGE * _PAGE
        return timed(node, fault_id, self.tighter(node, files[self.file], value))
