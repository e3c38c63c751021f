"""What faults have hit, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chaosctl import output

if TYPE_CHECKING:
    from chaos_proto.v1.chaos_pb2 import FaultStatus


def said(fault: FaultStatus) -> str:
    """Like ``hit 412 of 9000 packets``."""
    if not fault.HasField("hits"):
        return "(hits are not counted for it)"
    from pydantic import ValidationError

    from chaos_core.hits import Hits

    told = fault.hits
    try:
        hits = Hits.model_validate(
            {
                "count": told.count,
                "unit": told.unit,
                "seen": told.seen if told.HasField("seen") else None,
                "asked": told.asked if told.HasField("asked") else None,
                "note": told.note,
            }
        )
    except ValidationError:  # of a newer controller
        return f"hit {told.count} {output.clean(told.unit)}"
    return f"hit {hits}"
