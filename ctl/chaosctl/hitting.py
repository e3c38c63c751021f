"""What faults have hit, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chaos_proto.v1.chaos_pb2 import FaultStatus


def said(fault: FaultStatus) -> str:
    """Like ``hit 412 of 9000 packets``."""
    from chaos_proto.hits import from_wire

    hits = from_wire(fault)
    return f"hit {hits}" if hits else "(hits are not counted for it)"
