"""The store's methods: each is one transaction."""

from __future__ import annotations

import asyncio
import datetime as dt
import hmac
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Self

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from chaos_controller.clock import rfc3339
from chaos_controller.store import audit as chain
from chaos_controller.store import certificates as ledger
from chaos_controller.store import epochs
from chaos_controller.store import schema as s
from chaos_controller.store.certificates import Revocation
from chaos_controller.store.engine import durable, failing_clearly, first_line, migrate
from chaos_core.errors import InvalidInput, NotPermitted
from chaos_core.run import Verdict
from chaos_proto.identity import Identity
from chaos_proto.pki import Leaf

# A certificate: its facts, and itself in PEM.
Issued = tuple[Leaf, bytes]


@dataclass(frozen=True, slots=True)
class LatchRow:
    """An abort in force: by whom, why, since when (RFC 3339)."""

    actor: str
    reason: str
    since: str


@dataclass(frozen=True, slots=True)
class Occupied:
    """A node that may carry ``fault`` of ``run``."""

    run: str
    node: str
    fault: str


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run as it is first written down. ``faults`` maps nodes to fault ids.

    An experiment is one with ``kind`` EXPERIMENT: it has no faults of its own, its steps have.
    """

    id: str
    epoch: int
    kind: str
    params: str
    duration_us: int
    actor: str
    faults: Mapping[str, str]
    nodes: Sequence[str] = ()  # of an experiment


EXPERIMENT: Final = "experiment"


class Store:
    """One database. Made by ``open``, which migrates it; ``close`` when done."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._writing = asyncio.Lock()

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect and migrate. Raises InvalidInput when the database cannot be used."""
        try:
            engine = create_async_engine(url)
        except (SQLAlchemyError, ImportError) as error:
            raise InvalidInput(f"{first_line(error)}", where="database") from None
        if engine.dialect.name == "sqlite":
            sa.event.listen(engine.sync_engine, "connect", durable)
        store = cls(engine)
        try:
            async with engine.begin() as db:
                await db.run_sync(migrate)
        except (SQLAlchemyError, OSError) as error:
            await engine.dispose()
            raise InvalidInput(
                f"cannot use it: {first_line(error)}",
                where=f"database {engine.url.render_as_string()}",
                hint="does its directory exist, and may this user write there?",
            ) from None
        return store

    async def close(self) -> None:
        """Close when the last write is over, also one whose caller has gone away."""
        async with self._writing:
            await self._engine.dispose()

    # ── epoch and nodes ───────────────────────────────────────────────────────────────────

    async def next_epoch(self, at_least: int = 0) -> int:
        """Count this start: more than ever before, and not below ``at_least``."""
        async with self._write() as db:
            last = await _epoch(db)
            epoch = epochs.following(last, at_least)
            if not last:
                await db.execute(s.meta.insert().values(id=1, epoch=epoch))
            else:
                await db.execute(s.meta.update().values(epoch=epoch))
            return epoch

    async def epoch(self) -> int:
        """That of the last start, 0 before the first."""
        async with self._read() as db:
            return await _epoch(db)

    async def keep_node(self, name: str, **columns: str) -> None:
        """Remember a node as it introduced itself."""
        columns["seen"] = rfc3339()
        async with self._write() as db:
            changed = await db.execute(
                s.nodes.update().where(s.nodes.c.name == name).values(**columns)
            )
            if not changed.rowcount:
                await db.execute(s.nodes.insert().values(name=name, **columns))

    async def nodes(self) -> dict[str, Mapping[str, Any]]:
        """Every node that has ever introduced itself, by name."""
        return {row["name"]: row for row in await self._rows(s.nodes.select())}

    # ── runs ──────────────────────────────────────────────────────────────────────────────

    async def begin_run(
        self,
        run: NewRun,
        request: str,
        check: Callable[[LatchRow | None, Sequence[Occupied]], None],
    ) -> None:
        """Write a run and the nodes that it occupies, if ``check`` does not raise.

        ``check`` sees the latch and all occupied nodes in the same transaction. Raises
        Fenced when a later controller has this store: what is occupied is its to say.
        """
        async with self._write() as db:
            epochs.check_newest(run.epoch, await _epoch(db))
            check(await _latch(db), await _occupied(db))
            await db.execute(
                s.runs.insert().values(
                    id=run.id,
                    epoch=run.epoch,
                    kind=run.kind,
                    params=run.params,
                    nodes=",".join(run.nodes or run.faults),
                    duration_us=run.duration_us,
                    phase="preflight",
                    actor=run.actor,
                    started=rfc3339(),
                )
            )
            for node, fault in run.faults.items():
                await db.execute(s.occupancy.insert().values(run=run.id, node=node, fault=fault))
            await chain.append(
                db, actor=run.actor,
                action=EXPERIMENT if run.kind == EXPERIMENT else "inject",
                request=request, decision="accepted", outcome=run.id,
            )  # fmt: skip

    async def add_event(self, event: Mapping[str, Any]) -> None:
        """Write one line of a run's timeline, and with it the run's phase and verdict."""
        async with self._write() as db:
            await db.execute(s.run_events.insert().values(**event))
            now: dict[str, Any] = {"phase": event["phase"]}
            if event["verdict"]:
                now |= {"verdict": event["verdict"], "reason": event["text"], "finished": rfc3339()}
                await chain.append(
                    db, actor="controller", action="verdict", request=event["run"],
                    decision=event["verdict"], outcome=event["text"],
                )  # fmt: skip
            await db.execute(s.runs.update().where(s.runs.c.id == event["run"]).values(**now))

    async def release(self, run: str, node: str) -> None:
        """This node carries nothing of this run any more."""
        row = (s.occupancy.c.run == run) & (s.occupancy.c.node == node)
        async with self._write() as db:
            await db.execute(s.occupancy.delete().where(row))

    async def occupied(self) -> list[Occupied]:
        async with self._read() as db:
            return await _occupied(db)

    async def interrupt_runs(self) -> list[str]:
        """Close every run that a former controller left open; their nodes stay occupied."""
        reason = "its controller died; the leases ended it"
        async with self._write() as db:
            found = await db.execute(sa.select(s.runs.c.id).where(s.runs.c.verdict == ""))
            open_runs = [row.id for row in found]
            for run in open_runs:
                await _close_interrupted(db, run, reason)
            return open_runs

    async def runs(self, limit: int) -> list[Mapping[str, Any]]:
        """The newest runs first, without the steps of experiments."""
        of_steps = s.runs.c.id.like("r-%-%")
        newest = s.runs.select().where(~of_steps).order_by(s.runs.c.started.desc())
        return await self._rows(newest.limit(limit))

    async def run(self, run: str) -> Mapping[str, Any] | None:
        rows = await self._rows(s.runs.select().where(s.runs.c.id == run))
        return rows[0] if rows else None

    async def events(self, run: str) -> list[Mapping[str, Any]]:
        of_run = s.run_events.select().where(s.run_events.c.run == run)
        return await self._rows(of_run.order_by(s.run_events.c.number))

    async def keep_record(self, run: str, record: str) -> None:
        """Write what is known of an experiment, in place of what was known before."""
        of_run = s.records.c.run == run
        async with self._write() as db:
            changed = await db.execute(s.records.update().where(of_run).values(record=record))
            if not changed.rowcount:
                await db.execute(s.records.insert().values(run=run, record=record))

    async def record(self, run: str) -> str | None:
        rows = await self._rows(s.records.select().where(s.records.c.run == run))
        return rows[0]["record"] if rows else None

    # ── the latch ─────────────────────────────────────────────────────────────────────────

    async def latch(self) -> LatchRow | None:
        async with self._read() as db:
            return await _latch(db)

    async def set_latch(self, latch: LatchRow) -> None:
        """Write an abort down; a later one takes the place of the one before."""
        async with self._write() as db:
            await db.execute(s.latch.delete())
            await db.execute(
                s.latch.insert().values(
                    id=1, actor=latch.actor, reason=latch.reason, since=latch.since
                )
            )
            await chain.append(
                db, actor=latch.actor, action="abort", request=latch.reason, decision="accepted"
            )

    async def clear_latch(self, actor: str, reason: str) -> LatchRow | None:
        """Lift the latch; returns what it was, None when there was none."""
        async with self._write() as db:
            was = await _latch(db)
            await db.execute(s.latch.delete())
            await chain.append(
                db, actor=actor, action="resume", request=reason, decision="accepted"
            )
            return was

    # ── tokens ──────────────────────────────────────────────────────────────────

    async def add_token(self, actor: str, digest: str, identity: str, expires: str) -> None:
        async with self._write() as db:
            await db.execute(
                s.tokens.insert().values(
                    hash=digest, identity=identity, expires=expires, actor=actor
                )
            )
            await chain.append(
                db, actor=actor, action="token", request=identity, decision="accepted"
            )

    async def spend_token(
        self, digest: str, issue: Callable[[Identity], Issued], peer: str
    ) -> Issued:
        """Use a token up and return what ``issue(identity)`` made of it, or neither.

        Raises NotPermitted for a token that is unknown, used or expired.
        """
        async with self._write() as db:
            row = (await db.execute(s.tokens.select().where(s.tokens.c.hash == digest))).first()
            if row is None or not hmac.compare_digest(row.hash, digest):
                raise _no_token("is not known")
            now = rfc3339()
            if row.expires <= now:
                raise _no_token(f"expired at {row.expires}")
            unused = (s.tokens.c.hash == digest) & (s.tokens.c.used == "")
            spent = await db.execute(s.tokens.update().where(unused).values(used=now))
            if spent.rowcount != 1:
                raise _no_token("has been used already")
            issued = issue(Identity.parse(row.identity))
            await ledger.add(db, issued[0])
            await chain.append(
                db, actor=row.identity, action="enrol", request=peer, decision="accepted",
                outcome=issued[0].serial,
            )  # fmt: skip
            return issued

    # ── certificates ──────────────────────────────────────────────────────────────────────

    async def certificates(self, since: dt.datetime) -> list[Leaf]:
        """Those that expire after ``since``."""
        async with self._read() as db:
            return await ledger.leaves(db, since)

    async def revocations(self) -> list[Revocation]:
        async with self._read() as db:
            return await ledger.revocations(db)

    async def add_certificate(self, leaf: Leaf) -> None:
        """Write down a certificate that was made elsewhere."""
        async with self._write() as db:
            await ledger.add(db, leaf)

    async def renew_certificate(self, holder: Leaf, issue: Callable[[], Issued]) -> Issued:
        """Write down what ``issue`` makes; neither when it raises."""
        async with self._write() as db:
            issued = issue()
            await ledger.add(db, issued[0])
            await chain.append(
                db, actor=str(holder.identity), action="renew", request=holder.serial,
                decision="accepted", outcome=issued[0].serial,
            )  # fmt: skip
            return issued

    async def revoke(
        self, revocation: Revocation, whose: Identity, *, forget: bool = False
    ) -> None:
        """Write a revocation down; with ``forget`` its node is no longer known either."""
        async with self._write() as db:
            await ledger.revoke(db, revocation, whose)
            if forget:
                await db.execute(s.nodes.delete().where(s.nodes.c.name == whose.name))
            await chain.append(
                db, actor=revocation.actor, action="forgetnode" if forget else "revoke",
                request=f"{revocation.subject}: {revocation.reason}", decision="accepted",
            )  # fmt: skip

    # ── audit ─────────────────────────────────────────────────────────────────────────────

    async def audit(
        self, *, actor: str, action: str, request: str, decision: str, outcome: str = ""
    ) -> None:
        async with self._write() as db:
            await chain.append(
                db,
                actor=actor,
                action=action,
                request=request,
                decision=decision,
                outcome=outcome,
            )

    async def audit_entries(
        self, *, after: int = 0, limit: int | None = None
    ) -> list[Mapping[str, Any]]:
        """The log from the entry after number ``after`` on, oldest first."""
        later = s.audit.select().where(s.audit.c.number > after)
        return await self._rows(later.order_by(s.audit.c.number).limit(limit))

    # ── plumbing ──────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def _write(self) -> AsyncIterator[AsyncConnection]:
        """One write transaction at a time; rolled back when the block raises."""
        async with self._writing:
            with failing_clearly():
                async with self._engine.begin() as db:
                    yield db

    @asynccontextmanager
    async def _read(self) -> AsyncIterator[AsyncConnection]:
        with failing_clearly():
            async with self._engine.connect() as db:
                yield db

    async def _rows(self, query: sa.Select[Any]) -> list[Mapping[str, Any]]:
        async with self._read() as db:
            return list((await db.execute(query)).mappings())


async def _epoch(db: AsyncConnection) -> int:
    return (await db.execute(sa.select(s.meta.c.epoch))).scalar() or 0


async def _latch(db: AsyncConnection) -> LatchRow | None:
    row = (await db.execute(s.latch.select())).first()
    return LatchRow(row.actor, row.reason, row.since) if row else None


async def _occupied(db: AsyncConnection) -> list[Occupied]:
    rows = await db.execute(s.occupancy.select())
    return [Occupied(row.run, row.node, row.fault) for row in rows]


async def _close_interrupted(db: AsyncConnection, run: str, reason: str) -> None:
    of_run = s.run_events.c.run == run
    newest = sa.select(sa.func.max(s.run_events.c.number), sa.func.max(s.run_events.c.at_us))
    number, at_us = (await db.execute(newest.where(of_run))).one()
    now, verdict = rfc3339(), Verdict.INTERRUPTED.value
    await db.execute(
        s.run_events.insert().values(
            run=run, number=(number or 0) + 1, at_us=at_us or 0, time=now, event="verdict",
            phase="verdict", node="", text=reason, verdict=verdict,
        )
    )  # fmt: skip
    await db.execute(
        s.runs.update()
        .where(s.runs.c.id == run)
        .values(phase="verdict", verdict=verdict, reason=reason, finished=now)
    )
    await chain.append(
        db, actor="controller", action="verdict", request=run, decision=verdict, outcome=reason
    )


def _no_token(why: str) -> NotPermitted:
    return NotPermitted(f"this token {why}", hint="ask for a new one: chaosctl pki token")
