"""What faults that are a child process have in common: see ``effects.Holder``."""

from __future__ import annotations

from typing import Literal

from chaos_core.effects import LINK_PREFIX, Holder
from chaos_core.errors import InvalidInput
from chaos_core.node import NodeView

LEASE_HOLDER = "a SIGKILL timer of the holder's own, in the kernel; and its parent's death"

# Enough for a holder that takes something else than memory: interpreter, buffers, dirty pages.
SMALL_BYTES = 64 * 2**20

# What the kernel charges to the cgroup beside the pages asked for: page tables, stacks, slab.
_SLACK_BYTES = 4 * 2**20
_SLACK_SHARE = 100  # one hundredth


def memory_holder(
    node: NodeView,
    fault_id: str,
    memory: int,
    ramp: int,
    *,
    kind: str,
    where: str,
    work: Literal["hold", "cache"] = "hold",
) -> Holder:
    """The child that holds so many bytes. Raises InvalidInput when the node has less."""
    if memory > node.memory_total:
        raise InvalidInput(
            f"{where}: {node.name} has {node.memory_total} bytes of memory", where=kind
        )
    return Holder(
        name=f"{LINK_PREFIX}{fault_id}",
        work=work,
        memory=memory,
        memory_max=memory + memory // _SLACK_SHARE + _SLACK_BYTES,
        ramp=ramp,
    )
