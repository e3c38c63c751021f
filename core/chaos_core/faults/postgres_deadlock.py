"""Deadlocks, as they come and go under load."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from chaos_core.effects import Effect
from chaos_core.faults._postgres import OptionalTable, PostgresFault
from chaos_core.node import NodeView


class PostgresDeadlock(PostgresFault):
    """So many times a minute, transactions wait for each other in a circle.

    Without ``table``, two sessions of ours meet on advisory keys of ours: the server
    detects, logs and counts a deadlock, and no user has it. With ``table``, the victims are
    the users' transactions that write it after they have used ``held`` (the same table, by
    default), as in SELECT and then UPDATE. One session takes ``share`` on ``table``; when
    such a transaction waits for that, another one waits for ``access exclusive`` on
    ``held``, and the first for the second. The user's waits longest, so its
    ``deadlock_timeout`` strikes first and it is the one that gets error 40P01. Meanwhile all
    others that use the tables wait too: about half a second, and ``deadlock_timeout``
    and half a second more once a victim was found.

    It counts as in force when the server has counted the first one.
    """

    kind = "postgres.deadlock"
    summary = "deadlocks, of our own or the users'"
    example = "database=shop table=orders rate=6"

    table: OptionalTable = Field(
        default="", description="the victims are transactions that write this table"
    )
    held: OptionalTable = Field(
        default="", description="after they have used this one; default: the same"
    )
    rate: Annotated[int, Field(ge=1, le=20)] = Field(
        default=6, description="how many times a minute"
    )

    @model_validator(mode="after")
    def _of_whom(self) -> Self:
        if self.held and not self.table:
            raise ValueError("held: says more about table, which is not given")
        return self

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        if not self.table:
            return self.worker(node, fault_id, work="deadlock", rate=self.rate)
        held = self.held or self.table
        return self.worker(
            node, fault_id, work="victims", rate=self.rate, table=self.table, held=held
        )
