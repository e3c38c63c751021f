"""Locks in a PostgreSQL database, held or fought over; no row is read or changed.

The server ends by itself what a session holds: at once when the connection ends, which it
does with this process; and where it hears nothing of it any more (a process that is stopped, a
network that is cut), by the session's own timeouts, which are set before anything is locked.
No lock is waited for longer than told here, since all others would wait behind us.

What is told goes over the wire: nothing of where the database is, or of who we are there.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.errors import DeadlockDetected, LockNotAvailable

Tell = Callable[[str], object]
Session = AsyncConnection[tuple[Any, ...]]

_SILENCE_S = 3.0  # after which the server ends a transaction of ours of which it hears nothing
_PING_S = 0.5  # between two signs of life, each of which is a look at what is held
_WAIT_S = 0.1  # for a lock that others hold; then they get on, and we try again
_CONNECT_S = 5
_WINDOW_S = 0.5  # to get a table that others write, and then for a victim to come
_LOOK_S = 0.05
_OURS = 0x63687321  # "chs!": the first half of our own advisory keys, and the next number
_SYSTEM = ("pg_catalog", "information_schema", "pg_toast")

# Locks that this session holds, as the server tells it, and only under its own name.
_HELD = """
    SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE pid = pg_backend_pid() AND granted AND application_name = %s AND """
_HELD_TABLE = _HELD + "locktype = 'relation' AND relation = %s AND mode = %s"
_HELD_KEY = _HELD + "locktype = 'advisory' AND (classid::bigint << 32) | objid::bigint = %s"
_HELD_KEY += " AND objsubid = 1"
# Transactions that wait for us to write a table, and hold a lock on another, or on the same.
_VICTIMS = """
    SELECT count(*) FROM pg_locks waits JOIN pg_locks holds USING (pid)
    WHERE NOT waits.granted AND waits.relation = %s AND waits.mode = 'RowExclusiveLock'
    AND pg_backend_pid() = ANY (pg_blocking_pids(pid)) AND holds.granted AND holds.relation = %s
    """
_KEY = "SELECT pg_advisory_xact_lock(%s::int, %s::int)"
_DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"


class _Impossible(Exception):
    """What was asked for cannot be, and will not be a second later."""


async def serve(arguments: dict[str, Any], tell: Tell) -> None:
    """Do the ``work`` until killed. When it cannot be done, tell why, and end."""
    server = _Server(arguments.pop("service"), f"chaos-{arguments.pop('fault')}")
    work = _WORKS[arguments.pop("work")]
    try:
        await work(server, tell, **arguments)
    except _Impossible as error:
        tell(str(error))
    except psycopg.Error as error:
        tell(error.diag.message_primary or "the connection is lost")


class _Server:
    """A database, and our name there."""

    def __init__(self, service: dict[str, str], name: str) -> None:
        self._service, self.name = service, name

    async def connect(self, *, wait: float = _WAIT_S, silence: float = _SILENCE_S) -> Session:
        """A session in autocommit. It waits for no lock longer than ``wait``; the server ends its

        transaction after ``silence``. Both in seconds.
        """
        password = self._service["password"]
        given: dict[str, Any] = {"password": password} if password else {}
        try:
            session = await AsyncConnection.connect(
                self._service["address"],
                autocommit=True,
                prepare_threshold=None,
                application_name=self.name,
                connect_timeout=_CONNECT_S,
                tcp_user_timeout=int(_SILENCE_S * 1000),
                **given,
            )
        except psycopg.ProgrammingError:  # repeats what it cannot read
            raise _Impossible("the dsn in agent.toml is none that libpq can read") from None
        except psycopg.OperationalError as error:
            raise _Impossible(f"cannot connect: {_unnamed(str(error))}") from None
        for setting, seconds in (
            ("lock_timeout", wait),
            ("statement_timeout", wait + silence),
            ("idle_in_transaction_session_timeout", silence),
            ("tcp_user_timeout", _SILENCE_S),
        ):
            await session.execute(
                "SELECT set_config(%s, %s, false)", (setting, f"{seconds * 1000:.0f}ms")
            )
        return session


def _unnamed(text: str) -> str:
    """Why there is no connection, without host, user and database."""
    reason = text.strip().splitlines()[0].rpartition("failed: ")[2]
    return re.sub(r'"[^"]*"', '"…"', reason)


async def _one(session: Session, query: Any, *arguments: object) -> Any:
    """The one value that a query gives."""
    row = await (await session.execute(query, arguments)).fetchone()
    assert row is not None
    return row[0]


async def _table(session: Session, name: str) -> tuple[int, sql.Identifier]:
    """A table's oid and its full name."""
    found = await session.execute(
        "SELECT c.oid, relkind, nspname, relname FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = relnamespace WHERE c.oid = to_regclass(%s)",
        (name,),
    )
    row = await found.fetchone()
    if row is None:
        raise _Impossible(f"there is no table {name}")
    oid, relkind, schema, table = row
    if relkind not in ("r", "p") or schema in _SYSTEM:
        raise _Impossible(f"{name} is not a table of the application's")
    return oid, sql.Identifier(schema, table)


def _lock_table(table: sql.Identifier, mode: str) -> sql.Composed:
    return sql.SQL("LOCK TABLE {} IN {} MODE").format(table, sql.SQL(mode.upper()))


def _lock_name(mode: str) -> str:
    """As pg_locks has it: AccessExclusiveLock."""
    return f"{mode.title().replace(' ', '')}Lock"


# ── a lock that is held ───────────────────────────────────────────────────────────────────


async def _lock(server: _Server, tell: Tell, table: str, mode: str) -> None:
    session = await server.connect()
    oid, name = await _table(session, table)

    async def take() -> bool:
        await session.execute(_lock_table(name, mode))
        return True

    await _keep(session, tell, take, _HELD_TABLE, server.name, oid, _lock_name(mode))


async def _advisory(server: _Server, tell: Tell, key: int) -> None:
    session = await server.connect()

    async def take() -> bool:
        return bool(await _one(session, "SELECT pg_try_advisory_xact_lock(%s::bigint)", key))

    await _keep(session, tell, take, _HELD_KEY, server.name, key)


async def _keep(
    session: Session,
    tell: Tell,
    take: Callable[[], Awaitable[bool]],
    held: str,
    *arguments: object,
) -> None:
    """Take a lock and hold it, and see with each sign of life that it is held."""
    while True:
        await session.execute("BEGIN")
        try:
            if await take():
                break
        except LockNotAvailable:
            pass
        await session.execute("ROLLBACK")
        tell("others hold locks that forbid it")
        await asyncio.sleep(_WAIT_S)
    while await _one(session, held, *arguments):
        tell("")
        await asyncio.sleep(_PING_S)
    raise _Impossible("the server does not know of the lock")


# ── a table that is locked now and then ───────────────────────────────────────────────────


async def _slow(server: _Server, tell: Tell, table: str, delay: float, share: float) -> None:
    session = await server.connect(wait=delay, silence=delay + 1)
    oid, name = await _table(session, table)
    lock = _lock_table(name, "access exclusive")
    last = 0.0  # when the table was locked
    while True:
        begin = time.monotonic()
        await session.execute("BEGIN")
        try:
            await session.execute(lock)
            wanted = (server.name, oid, "AccessExclusiveLock")
            if await _one(session, _HELD_TABLE, *wanted):
                last = time.monotonic()
        except LockNotAvailable:
            pass
        await asyncio.sleep(begin + delay - time.monotonic())
        await session.execute("ROLLBACK")
        now = time.monotonic()
        tell("" if last and now < last + delay / share + _SILENCE_S else "others hold the table")
        await asyncio.sleep(begin + delay / share - now)


# ── deadlocks ─────────────────────────────────────────────────────────────────────────────


async def _patience(server: _Server) -> float:
    """Seconds after which the server looks for a deadlock, and half a second for doing so."""
    async with await server.connect() as session:
        text = "SELECT setting FROM pg_settings WHERE name = 'deadlock_timeout'"
        return int(await _one(session, text)) / 1000 + 0.5


async def _deadlock(server: _Server, tell: Tell, rate: int) -> None:
    """Two sessions of ours; the server tells one of them that it is the victim."""
    wait = await _patience(server)
    both = [await server.connect(wait=wait) for _ in range(2)]
    number = int(server.name.rpartition("-")[2], 16) - 2**31
    keys = [(_OURS, number), (_OURS + 1, number)]

    async def take(session: Session, key: tuple[int, int]) -> None:
        await session.execute(_KEY, key)

    while True:
        begin = time.monotonic()
        for session, key in zip(both, keys, strict=True):
            await session.execute("BEGIN")
            await take(session, key)
        other = [take(session, key) for session, key in zip(both, reversed(keys), strict=True)]
        ends = await asyncio.gather(*other, return_exceptions=True)
        for session in both:
            await session.execute("ROLLBACK")
        errors = [end for end in ends if end is not None]
        if not all(isinstance(error, DeadlockDetected) for error in errors):
            raise errors[0]
        tell("" if errors else "the server has seen no deadlock")
        await asyncio.sleep(begin + 60 / rate - time.monotonic())


async def _victims(server: _Server, tell: Tell, rate: int, table: str, held: str) -> None:
    """Users' transactions; the server counts them."""
    wait = await _patience(server)
    first, second = await server.connect(wait=wait), await server.connect(wait=wait)
    oid, name = await _table(first, table)
    held_oid, held_name = await _table(first, held)
    before = await _one(first, _DEADLOCKS)
    ours = 0  # deadlocks that hit us, which the server counts as well
    key = (_OURS, int(server.name.rpartition("-")[2], 16) - 2**31)

    async def victim() -> bool:
        """Let one come into the circle, if there is one."""
        nonlocal ours
        await first.execute("BEGIN")
        await first.execute(f"SET LOCAL lock_timeout = '{_WINDOW_S}s'")
        await first.execute(_lock_table(name, "share"))
        await first.execute(f"SET LOCAL lock_timeout = '{wait}s'")
        until = time.monotonic() + _WINDOW_S
        while not await _one(first, _VICTIMS, oid, held_oid):
            if time.monotonic() > until:
                return False
            await asyncio.sleep(_LOOK_S)
        await second.execute("BEGIN")
        await second.execute(_KEY, key)
        ends = await asyncio.gather(close(), first.execute(_KEY, key), return_exceptions=True)
        # Where both tables are the same, our two are a circle by themselves, which outlasts the
        # users': one of them is hit in the end, and by then they have been.
        hit = sum(isinstance(end, DeadlockDetected) for end in ends)
        ours += hit
        return bool(hit) or not isinstance(ends[0], BaseException)

    async def close() -> None:
        """Close the circle. The lock is had when the victims have let go of theirs."""
        try:
            await second.execute(_lock_table(held_name, "access exclusive"))
        finally:
            await second.execute("ROLLBACK")

    async def counted(until: float) -> None:
        """Let the time pass, and see what the server has counted: it does so with delay."""
        while (left := until - time.monotonic()) > 0:
            seen = await _one(first, _DEADLOCKS) - ours > before
            tell("" if seen else "no transaction that does so has come by yet")
            await asyncio.sleep(min(left, _WINDOW_S))

    while True:
        begin, done = time.monotonic(), False
        while not done and time.monotonic() < begin + 60 / rate:
            try:
                done = await victim()
            except DeadlockDetected:  # a circle of the users' own, and we were the victim
                ours += 1
            except LockNotAvailable:
                pass
            await first.execute("ROLLBACK")
            await counted(begin + 60 / rate if done else time.monotonic() + _WINDOW_S)


_WORKS: dict[str, Callable[..., Awaitable[None]]] = {
    "lock": _lock,
    "advisory": _advisory,
    "slow": _slow,
    "deadlock": _deadlock,
    "victims": _victims,
}
