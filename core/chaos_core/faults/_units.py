"""Services as targets: which a fault may stop or pause, and which it may never."""

from __future__ import annotations

import re
from abc import ABC
from typing import Annotated

from pydantic import AfterValidator, Field

from chaos_core.envelope import Draw
from chaos_core.errors import InvalidInput, Refused
from chaos_core.essential import protection
from chaos_core.faults import Fault
from chaos_core.node import Asks, NodeView, UnitFacts

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9:_.\\@-]{1,200}")


def _service(value: str) -> str:
    name = value if "." in value else f"{value}.service"
    if not _NAME.fullmatch(name) or not name.endswith(".service") or name.endswith("@.service"):
        raise ValueError(f"{value!r} is not a service's name, like nginx or app@1.service")
    return name


Service = Annotated[str, AfterValidator(_service)]
"""A service's name; ``.service`` may be left out."""


def protected(node: NodeView, unit: str) -> str:
    """Why a unit is protected on this node, with the pattern; empty when it is not."""
    return protection(unit, node.protected.units)


def target(node: NodeView, unit: str, kind: str) -> UnitFacts:
    """A service on ``node``, for a fault of that kind.

    Raises InvalidInput or Refused when it may not be touched.
    """
    facts = node.units.get(unit)
    if facts is None:
        raise InvalidInput(
            f"unit: there is no {unit} on {node.name}",
            where=kind,
            hint="`systemctl list-units --type=service` on the node lists them",
        )
    why = protected(node, facts.id) or protected(node, unit)
    if why:
        raise Refused(
            f"unit: {facts.id} is protected (as {why})",
            where=kind,
            hint="a host needs it to be reached, so no fault may touch it",
        )
    if not facts.active or facts.frozen:
        state = "frozen already" if facts.frozen else "not running"
        raise Refused(
            f"unit: {facts.id} is {state} on {node.name}", where=kind, hint="start it first"
        )
    return facts


class UnitFault(Fault, ABC):
    """A fault of one service. It must run, be nobody's that matters to us, and not be frozen."""

    unit: Service = Field(description="the service, like nginx or app@1.service")

    def draw(self) -> Draw:
        return Draw("destructive")

    def asks(self) -> Asks:
        return Asks(units=(self.unit,))

    def target(self, node: NodeView) -> UnitFacts:
        """The service on ``node``. Raises InvalidInput or Refused when it may not be touched."""
        return target(node, self.unit, self.kind)

    def alone(self, node: NodeView) -> UnitFacts:
        """The same for a fault that ends its processes. Raises Refused if others go with it.

        A unit that requires, is bound to or is part of the service is stopped with it,
        and would stay so.
        """
        facts = self.target(node)
        if facts.dependents:
            raise Refused(
                f"unit: with {facts.id}, systemd stops {', '.join(facts.dependents)}",
                where=self.kind,
                hint="name what nothing depends on, or process.pause it",
            )
        return facts
