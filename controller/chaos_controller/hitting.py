"""What faults hit, in the store and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chaos_core.hits import Hits
from chaos_proto.hits import to_wire
from chaos_proto.v1 import chaos_pb2 as pb


def write(hits: Hits | None) -> str:
    """As the store keeps it: JSON, or nothing."""
    return hits.model_dump_json() if hits else ""


def event(row: Mapping[str, Any]) -> pb.RunEvent:
    """A line of a timeline, as the store keeps it, for the wire."""
    fields = {name: value for name, value in row.items() if name != "hits"}
    hits = Hits.model_validate_json(row["hits"]) if row["hits"] else None
    return pb.RunEvent(**fields, hits=to_wire(hits))
