"""What faults hit, from the wire to the store and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chaos_core.hits import Hits
from chaos_proto.v1 import chaos_pb2 as pb


def read(status: pb.FaultStatus | pb.RunEvent) -> Hits | None:
    """What is said of a fault, within bounds already (``intake``); None: not counted."""
    if not status.HasField("hits"):
        return None
    told = status.hits
    return Hits.model_validate(
        {
            "count": told.count,
            "unit": told.unit,
            "seen": told.seen if told.HasField("seen") else None,
            "asked": told.asked if told.HasField("asked") else None,
            "note": told.note,
        }
    )


def write(hits: Hits | None) -> str:
    """As the store keeps it: JSON, or nothing."""
    return hits.model_dump_json() if hits else ""


def event(row: Mapping[str, Any]) -> pb.RunEvent:
    """A line of a timeline, as the store keeps it, for the wire."""
    fields = {name: value for name, value in row.items() if name != "hits"}
    message = pb.RunEvent(**fields)
    if row["hits"]:
        hits = Hits.model_validate_json(row["hits"])
        message.hits.CopyFrom(pb.Hits(**hits.model_dump(exclude_none=True)))
    return message
