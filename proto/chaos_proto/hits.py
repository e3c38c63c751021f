"""What a fault has hit, to the wire and back."""

from __future__ import annotations

from pydantic import ValidationError

from chaos_core.hits import Hits
from chaos_proto.v1 import chaos_pb2 as pb


def to_wire(hits: Hits | None) -> pb.Hits | None:
    """For the field ``hits`` of a message; None: not counted."""
    return pb.Hits(**hits.model_dump(exclude_none=True)) if hits else None


def from_wire(message: pb.FaultStatus | pb.RunEvent) -> Hits | None:
    """What a message says of a fault; None: not counted, or not to be understood here."""
    if not message.HasField("hits"):
        return None
    told = message.hits
    fields = {"count": told.count, "unit": told.unit, "note": told.note}
    if told.HasField("seen"):
        fields["seen"] = told.seen
    if told.HasField("asked"):
        fields["asked"] = told.asked
    try:
        return Hits.model_validate(fields)
    except ValidationError:
        return None
