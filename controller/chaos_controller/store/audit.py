"""The audit log in the store: append-only, chained as chaos_core.audit says."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from chaos_controller.clock import rfc3339
from chaos_controller.store.schema import audit
from chaos_core.audit import FIRST, digest


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
