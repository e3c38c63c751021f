"""A page cache that is cold."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from chaos_core.effects import Effect, Flush
from chaos_core.envelope import Draw
from chaos_core.faults import Fault
from chaos_core.node import Asks, NodeView


class CacheFlush(Fault):
    """The kernel drops what it can read again (``/proc/sys/vm/drop_caches``), once.

    Nothing is lost: pages that are not written yet stay. Reads go to the disks for a while,
    of every service on the node. It counts as applied when the kernel has counted it.
    The duration is how long the run goes on watching afterwards.
    """

    kind = "cache.flush"
    summary = "drop the node's page cache"
    lease_holder = "nobody has to: it is over at once"
    example = "what=pagecache"
    needs: ClassVar[tuple[str, ...]] = ("drop-caches",)

    what: Literal["pagecache", "slab", "both"] = Field(
        default="pagecache", description="slab: dentries and inodes"
    )

    def draw(self) -> Draw:
        return Draw("hook")

    def asks(self) -> Asks:
        return Asks(flushes=True)

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:  # noqa: ARG002
        return (Flush(self.what, *node.flushes),)
