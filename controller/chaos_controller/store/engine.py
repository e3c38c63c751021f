"""The database itself: its settings, its migrations, and its failures in words."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from chaos_controller.store import schema as s
from chaos_core.errors import ChaosError, InvalidInput

_BUSY_S: Final = 5


@contextmanager
def failing_clearly() -> Iterator[None]:
    """Turn what the database raises into an error of ours."""
    try:
        yield
    except SQLAlchemyError as error:
        raise ChaosError(
            f"the store failed: {first_line(error)}", hint="is the controller's disk full?"
        ) from error


def first_line(error: BaseException) -> str:
    origin = getattr(error, "orig", None) or error
    return str(origin).splitlines()[0] if str(origin) else type(error).__name__


def durable(connection: Any, _record: object) -> None:
    """SQLite: survive a power cut, wait for a reader rather than fail."""
    cursor: sqlite3.Cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_S * 1000}")
    cursor.close()


def migrate(connection: sa.Connection) -> None:
    """Bring the tables to HEAD. Alembic is imported only when there is something to do."""
    if sa.inspect(connection).has_table("alembic_version"):
        version = sa.text("SELECT version_num FROM alembic_version")
        if connection.execute(version).scalar() == s.HEAD:
            return
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise InvalidInput(
            f"its tables are of another version: {error}",
            where="database",
            hint="is this chaos-controller older than the one that wrote it?",
        ) from None
