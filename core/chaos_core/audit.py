"""The audit log's chain: each entry's hash covers all of its fields and the hash before.

Whoever edits, removes or reorders an entry must change every later one, which
``verify`` finds; whoever cuts off the end needs only one number and hash kept
elsewhere to be found out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

_COVERED = ("number", "time", "actor", "action", "request", "decision", "outcome", "previous")
FIRST = "0" * 64


def digest(entry: Mapping[str, Any]) -> str:
    """The SHA-256 of one entry over all of its other fields, ``previous`` among them."""
    covered = json.dumps([entry[name] for name in _COVERED], ensure_ascii=False)
    return hashlib.sha256(covered.encode()).hexdigest()


def verify(entries: Iterable[Mapping[str, Any]]) -> int | None:
    """The place, from 1, of the first entry that does not follow from the one before, or None."""
    previous = FIRST
    for place, entry in enumerate(entries, start=1):
        intact = entry["previous"] == previous and entry["hash"] == digest(entry)
        if not intact or entry["number"] != place:
            return place
        previous = entry["hash"]
    return None
