"""A table, or a key of the application's, that somebody has locked and does not let go."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from chaos_core.effects import Effect
from chaos_core.faults._postgres import OptionalTable, PostgresFault
from chaos_core.node import NodeView

_LONG = 2**63


class PostgresLock(PostgresFault):
    """One session holds the lock for as long as the fault lasts, and does nothing else.

    ``access exclusive`` lets nobody read or write the table, ``exclusive`` lets them
    read, and so does ``share``, which also lets them take row locks. The lock is asked for
    again and again, waiting 100 ms each time, until it is had; until then the fault is not
    in force. On hot standbys ``access exclusive`` holds as well, since PostgreSQL
    replays it there.
    """

    kind = "postgres.lock"
    summary = "hold a lock on a table or an advisory key"
    example = "database=shop table=orders"

    table: OptionalTable = Field(default="", description="the table, like sales.orders")
    advisory: Annotated[int, Field(ge=-_LONG, lt=_LONG)] | None = Field(
        default=None, description="or this key, as pg_advisory_lock(key) takes it"
    )
    mode: Literal["access exclusive", "exclusive", "share"] = Field(
        default="access exclusive", description="how a table is locked"
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if bool(self.table) == (self.advisory is not None):
            raise ValueError("what shall be locked? give table or advisory, one of them")
        return self

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        if self.advisory is not None:
            return self.worker(node, fault_id, work="advisory", key=self.advisory)
        return self.worker(node, fault_id, work="lock", table=self.table, mode=self.mode)
