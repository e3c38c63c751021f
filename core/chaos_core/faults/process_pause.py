"""A service, or processes, that stand still."""

from __future__ import annotations

from typing import ClassVar

from chaos_core.effects import Effect, Stop, Unit
from chaos_core.errors import Refused
from chaos_core.faults._processes import ProcessFault
from chaos_core.faults._timed import LEASE_HOLDER, timed
from chaos_core.faults._units import target
from chaos_core.node import Asks, NodeView


class ProcessPause(ProcessFault):
    """Processes go on where they were afterwards. Their sockets stay open: peers can connect,
    and hear nothing.

    With ``unit`` alone, all of a service is frozen by its cgroup; a service with
    ``WatchdogSec`` is killed by systemd if it stands still for longer. With ``cmdline``,
    ``port`` or ``pid``, those that there are at the start get SIGSTOP and in the end SIGCONT,
    but for those that somebody had stopped before. Their parents can see it: a shell takes it
    for job control. When one of them ends or goes on meanwhile, the fault is over as disturbed.
    """

    kind = "process.pause"
    summary = "freeze a service, or stop processes"
    lease_holder = LEASE_HOLDER
    example = "unit=nginx"
    risky = True
    needs: ClassVar[tuple[str, ...]] = ("systemd", "freezer", "kill")

    def asks(self) -> Asks:
        if self._frozen():
            return Asks(units=(self._frozen(),))
        return super().asks()

    def _frozen(self) -> str:
        """The service to freeze as a whole; empty when processes are to be stopped."""
        return "" if self.cmdline or self.port or self.pid else self.unit or ""

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        if self._frozen():
            unit = target(node, self._frozen(), self.kind)
            return timed(node, fault_id, Unit(unit.id, "frozen"))
        victims = tuple(
            (process.pid, process.started) for process in self.chosen(node) if not process.stopped
        )
        if not victims:
            raise Refused("all of these processes are stopped already", where=self.kind)
        return timed(node, fault_id, Stop(victims))
