"""PostgreSQL as a target: what is locked, and by what rules.

No fault here reads or changes a row. All that is taken are locks, each in a transaction
that is rolled back, and no statement of ours waits for one longer than told: who waits
for a strong lock makes everybody behind it wait.
"""

from __future__ import annotations

import re
from abc import ABC
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from chaos_core.effects import Effect
from chaos_core.envelope import Draw
from chaos_core.faults import Fault
from chaos_core.faults._listed import ListedName, work
from chaos_core.node import Asks, NodeView

_TABLE = re.compile(r"([A-Za-z_][\w$]{0,62}\.)?[A-Za-z_][\w$]{0,62}", re.ASCII)
_SYSTEM = ("pg_", "information_schema.")


def _table(value: str) -> str:
    if not _TABLE.fullmatch(value):
        raise ValueError(f"{value!r} is not a table's name, like orders or sales.orders")
    if value.lower().startswith(_SYSTEM):
        raise ValueError(f"{value!r} is PostgreSQL's own")
    return value


Table = Annotated[str, AfterValidator(_table)]
"""A table's name, with its schema if that is not on the search path."""

OptionalTable = Annotated[str, AfterValidator(lambda value: value and _table(value))]
"""The same where none may be given, which is empty."""


class PostgresFault(Fault, ABC):
    """A fault of one database of the node's list, as a worker's sessions bring it about.

    The sessions are called ``chaos-<fault id>``. PostgreSQL itself ends what they hold:
    at once when the worker is gone, and seconds after it was last heard of.
    """

    lease_holder = "a SIGKILL timer of the worker's, in the kernel; then the server's timeouts"
    risky = True
    needs: ClassVar[tuple[str, ...]] = ("worker", "postgres")

    database: ListedName = Field(description="its name in the node's agent.toml")

    def draw(self) -> Draw:
        return Draw("destructive")

    def asks(self) -> Asks:
        return Asks(service=f"postgres.{self.database}")

    def worker(self, node: NodeView, fault_id: str, **arguments: object) -> tuple[Effect, ...]:
        """The effect, with what the worker is told beside the database."""
        service = self.asks().service
        return (work(node, fault_id, self.kind, service, "postgres", **arguments),)
