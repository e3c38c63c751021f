"""The rows of certificates and revocations; store.py says what goes into one transaction."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from chaos_controller.clock import rfc3339, utc
from chaos_controller.store import schema as s
from chaos_proto.identity import Identity
from chaos_proto.pki import Leaf

# What has been over for longer is of no use to anybody; the audit log keeps who got it.
KEEP: Final = dt.timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Revocation:
    """``subject`` is a serial number, or an identity: all that it had been issued ``at`` then."""

    subject: str
    at: dt.datetime
    actor: str
    reason: str


async def leaves(db: AsyncConnection, since: dt.datetime) -> list[Leaf]:
    """Those that expire after ``since``."""
    rows = await db.execute(
        s.certificates.select().where(s.certificates.c.expires > rfc3339(since))
    )
    return [
        Leaf(
            Identity.parse(row.identity),
            row.serial,
            dt.datetime.fromisoformat(row.issued),
            dt.datetime.fromisoformat(row.expires),
        )
        for row in rows
    ]


async def revocations(db: AsyncConnection) -> list[Revocation]:
    rows = await db.execute(s.revocations.select())
    return [
        Revocation(row.subject, dt.datetime.fromisoformat(row.at), row.actor, row.reason)
        for row in rows
    ]


async def add(db: AsyncConnection, leaf: Leaf) -> None:
    """Write a certificate down, unless it is there. Those of its holder long over go."""
    over = s.certificates.c.expires < rfc3339(utc() - KEEP)
    theirs = s.certificates.c.identity == str(leaf.identity)
    await db.execute(s.certificates.delete().where(over & theirs))
    known = sa.select(s.certificates.c.serial).where(s.certificates.c.serial == leaf.serial)
    if (await db.execute(known)).first() is None:
        await db.execute(
            s.certificates.insert().values(
                serial=leaf.serial,
                identity=str(leaf.identity),
                issued=rfc3339(leaf.issued),
                expires=rfc3339(leaf.expires),
            )
        )


async def revoke(db: AsyncConnection, revocation: Revocation, whose: Identity) -> None:
    """Write a revocation down, and take away the unused tokens made for ``whose`` or by them."""
    subject = revocation.subject
    await db.execute(s.revocations.delete().where(s.revocations.c.subject == subject))
    await db.execute(
        s.revocations.insert().values(
            subject=subject,
            at=rfc3339(revocation.at),
            actor=revocation.actor,
            reason=revocation.reason,
        )
    )
    theirs = (s.tokens.c.identity == str(whose)) | (s.tokens.c.actor == str(whose))
    await db.execute(s.tokens.delete().where((s.tokens.c.used == "") & theirs))
