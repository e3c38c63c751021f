"""The audit log: append-only, each entry's hash covers the one before.

Whoever changes or removes an entry must change every later one, which
``verify`` finds, given one hash kept elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from chaos_controller.clock import rfc3339
from chaos_controller.store.schema import audit

_COVERED = ("number", "time", "actor", "action", "request", "decision", "outcome", "previous")
FIRST = "0" * 64


def digest(entry: Mapping[str, Any]) -> str:
    """The hash of one entry over all of its other fields, ``previous`` among them."""
    covered = json.dumps([entry[name] for name in _COVERED], ensure_ascii=False)
    return hashlib.sha256(covered.encode()).hexdigest()


async def append(
    db: AsyncConnection, *, actor: str, action: str, request: str, decision: str, outcome: str = ""
) -> None:
    """Add an entry in the transaction of ``db``. ``request`` must hold no secret."""
    newest = sa.select(audit.c.number, audit.c.hash).order_by(audit.c.number.desc()).limit(1)
    last = (await db.execute(newest)).first()
    entry = {
        "number": last.number + 1 if last else 1,
        "time": rfc3339(),
        "actor": actor,
        "action": action,
        "request": request,
        "decision": decision,
        "outcome": outcome,
        "previous": last.hash if last else FIRST,
    }
    await db.execute(audit.insert().values(**entry, hash=digest(entry)))


def verify(entries: Sequence[Mapping[str, Any]]) -> int | None:
    """The number of the first entry that does not follow from the one before, or None."""
    previous = FIRST
    for place, entry in enumerate(entries, start=1):
        intact = entry["previous"] == previous and entry["hash"] == digest(entry)
        if not intact or entry["number"] != place:
            return int(entry["number"])
        previous = entry["hash"]
    return None
