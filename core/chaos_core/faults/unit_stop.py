"""A service that is down."""

from __future__ import annotations

from typing import ClassVar

from chaos_core.effects import Effect, Unit
from chaos_core.faults._timed import LEASE_HOLDER, timed
from chaos_core.faults._units import UnitFault
from chaos_core.node import NodeView


class UnitStop(UnitFault):
    """The service is stopped in good order, and started again at the end.

    ``Restart=`` does not bring it back before; a socket or a dependency may, which
    ends the fault as disturbed. One that takes long to stop takes long to come back:
    an abort that finds it on its way down quarantines the node, and the timer goes on
    trying to start it.
    """

    kind = "unit.stop"
    summary = "stop a service, and start it again at the end"
    lease_holder = LEASE_HOLDER
    example = "unit=nginx"
    risky = True
    needs: ClassVar[tuple[str, ...]] = ("systemd",)

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        return timed(node, fault_id, Unit(self.alone(node).id, "stopped"))
