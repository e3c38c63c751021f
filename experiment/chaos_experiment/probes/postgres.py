"""``postgres``: how far a replica is behind, or what a query gives."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import AfterValidator, Field, model_validator

from chaos_experiment.probes import Context, Name, Probe, Seen, Unit
from chaos_experiment.probes._numbers import number_or_text

_OPTIONS: Final = {"sslmode", "sslrootcert"}

# On a replica, how old what it replayed last is, unless it has all that it received; on a
# primary, how far the slowest that is attached is behind, which is NULL for one at rest.
_LAG: Final = """
SELECT CASE
  WHEN NOT pg_is_in_recovery() THEN
    (SELECT max(coalesce(extract(epoch FROM replay_lag), 0)) FROM pg_stat_replication)
  WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
  ELSE extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())
END"""


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("postgresql", "postgres") or not parts.hostname or "," in parts.netloc:
        raise ValueError(f"{url!r} is not like postgresql://user@host:5432/database")
    if parts.password is not None:
        raise ValueError(
            "a scenario holds no password: give the controller a secret, and its name in password"
        )
    unknown = {key for key, _ in parse_qsl(parts.query)} - _OPTIONS
    if unknown:
        known = ", ".join(sorted(_OPTIONS))
        raise ValueError(f"{', '.join(sorted(unknown))}: the URL takes only {known}")
    return url


class Postgres(Probe):
    """Sessions begin read-only and end at ``timeout`` on the server as well. Still, give it a
    user who may only read. An answer that is no number is its text, such as a checksum."""

    kind = "postgres"
    summary = "replication lag, or the figure that a query gives"
    example: ClassVar[Mapping[str, Any]] = {
        "url": "postgresql://watcher@db-2:5432/shop",
        "password": "shop-db",
    }

    url: Annotated[str, AfterValidator(_checked)] = Field(description="without a password")
    password: Name | None = Field(default=None, description="name of the controller's secret")
    what: Literal["lag", "query"] = Field(default="lag", description="what to tell")
    query: str = Field(
        default="", max_length=4096, description="that gives one row; its first column counts"
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.what == "query") != bool(self.query):
            raise ValueError("query: goes with what: query, and only with it")
        return self

    @property
    def unit(self) -> Unit:
        return "duration" if self.what == "lag" else ""

    def hosts(self) -> tuple[str, ...]:
        return (urlsplit(self.url).hostname or "",)

    async def check(self, context: Context) -> None:
        if self.password:
            context.secret(self.password)

    async def measure(self, context: Context) -> Seen:
        await asyncio.to_thread(importlib.import_module, "psycopg")
        import psycopg

        parts = urlsplit(self.url)
        options = dict(parse_qsl(parts.query))
        milliseconds = max(1, self.timeout // 1000)
        try:
            connection = await psycopg.AsyncConnection.connect(
                host=parts.hostname,
                port=parts.port or 5432,
                user=unquote(parts.username or "") or None,
                dbname=unquote(parts.path[1:]) or None,
                password=context.secret(self.password) if self.password else None,
                options=f"-c default_transaction_read_only=on -c statement_timeout={milliseconds}",
                autocommit=True,
                sslmode=options.get("sslmode", "prefer"),
                sslrootcert=options.get("sslrootcert"),
            )
            async with connection:
                cursor = await connection.execute((self.query or _LAG).encode())
                rows = await cursor.fetchmany(2) if cursor.description else []
        except psycopg.Error as error:
            return Seen(False, None, error.diag.message_primary or str(error))
        return self._read(rows)

    def _read(self, rows: list[tuple[Any, ...]]) -> Seen:
        if len(rows) != 1:
            return Seen(False, None, "no row" if not rows else "more than one row")
        value = rows[0][0] if rows[0] else None
        if value is None:
            nothing = "no replica is attached" if self.what == "lag" else "the query gave NULL"
            return Seen(False, None, nothing)
        if self.what == "lag":
            return Seen(True, float(value) * 1_000_000, f"{float(value):.3f} s behind")
        return number_or_text(str(int(value) if isinstance(value, bool) else value))
