"""Queries that take longer than they did."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from chaos_core.effects import Effect
from chaos_core.faults._fields import Share
from chaos_core.faults._postgres import PostgresFault, Table
from chaos_core.node import NodeView
from chaos_core.units import Duration, Percent

_SHORTEST, _LONGEST = Duration.parse("10ms"), Duration.parse("5s")
_MOST = Percent.parse("90%")


class PostgresSlow(PostgresFault):
    """The table is locked (``access exclusive``) for ``delay``, ``share`` of the time.

    Who comes in such a span waits for its end: so that share of the queries on the table
    is delayed, evenly by up to ``delay``, and no query by more. A span begins when the
    lock is asked for, since others wait from then on; when it is not had within the
    span, the next one tries again.
    """

    kind = "postgres.slow"
    summary = "delay queries on a table"
    example = "database=shop table=orders delay=500ms share=50%"

    table: Table = Field(description="the table, like sales.orders")
    delay: Duration = Field(
        default=Duration.parse("500ms"),
        description=f"how long a query waits at most, {_SHORTEST} to {_LONGEST}",
    )
    share: Share = Field(default=Percent.parse("50%"), description=f"of the time, at most {_MOST}")

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if not _SHORTEST <= self.delay <= _LONGEST:
            raise ValueError(f"delay: {_SHORTEST} to {_LONGEST}")
        if self.share > _MOST:
            raise ValueError(f"share: at most {_MOST}, so that the others get on")
        return self

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        return self.worker(
            node,
            fault_id,
            work="slow",
            table=self.table,
            delay=self.delay.seconds,
            share=self.share.fraction,
        )
