"""A service that is started anew."""

from __future__ import annotations

from typing import ClassVar

from chaos_core.effects import Effect, Restart
from chaos_core.faults._units import UnitFault
from chaos_core.node import NodeView


class UnitRestart(UnitFault):
    """The service is stopped in good order and started again, once.

    It counts as applied when systemd reports a new invocation that is active. The
    duration is how long the run goes on watching afterwards.
    """

    kind = "unit.restart"
    summary = "restart a service"
    lease_holder = "nobody has to: it is over at once"
    example = "unit=nginx"
    risky = True
    needs: ClassVar[tuple[str, ...]] = ("systemd",)

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:  # noqa: ARG002
        target = self.alone(node)
        return (Restart(target.id, target.invocation),)
