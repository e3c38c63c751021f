"""A service whose processes stand still."""

from __future__ import annotations

from typing import ClassVar

from chaos_core.effects import Effect, Unit
from chaos_core.faults._timed import LEASE_HOLDER, timed
from chaos_core.faults._units import UnitFault
from chaos_core.node import NodeView


class ProcessPause(UnitFault):
    """All processes of a service are frozen by its cgroup, and go on where they were.

    Its sockets stay open: peers can connect, and hear nothing. A service with
    ``WatchdogSec`` is killed by systemd if it stands still for longer.
    """

    kind = "process.pause"
    summary = "freeze all processes of a service"
    lease_holder = LEASE_HOLDER
    example = "unit=nginx"
    risky = True
    needs: ClassVar[tuple[str, ...]] = ("systemd", "freezer")

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        return timed(node, fault_id, Unit(self.target(node).id, "frozen"))
