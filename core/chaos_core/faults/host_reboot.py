"""The whole machine, started anew."""

from __future__ import annotations

from typing import ClassVar

from chaos_core.effects import Effect, Reboot
from chaos_core.envelope import Draw
from chaos_core.errors import Refused
from chaos_core.faults import Fault
from chaos_core.node import Asks, NodeView
from chaos_core.units import Duration

# A node that goes down as soon as it is up could be repaired by nobody.
_BETWEEN_BOOTS = Duration.parse("60s")


class HostReboot(Fault):
    """The node is shut down in good order, by systemd, and starts again: once.

    It is in force when systemd is shutting down, or when the node has gone away; it has held
    when the node is back in another boot and its journal names this fault as the one that it
    survived. The duration is how long the run waits for that. A request is obeyed once, ever,
    and in the boot in which it was made; nothing that is found in a journal starts a reboot.
    Refused when another fault is on the node, within a minute of its last boot, and when the
    agent would not come back.
    """

    kind = "host.reboot"
    summary = "reboot the node, and see it come back"
    lease_holder = "nobody has to: it is over at once, and the next boot says so"
    example = ""
    risky = True
    takes_down = True
    needs: ClassVar[tuple[str, ...]] = ("systemd", "reboot")

    def draw(self) -> Draw:
        return Draw("destructive")

    def asks(self) -> Asks:
        return Asks(abilities=("reboot",))

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:  # noqa: ARG002
        if why := node.unable.get("reboot"):
            raise Refused(why, where=self.kind, hint="systemctl enable chaos-agent chaos-link")
        if node.now < _BETWEEN_BOOTS:
            raise Refused(
                f"{node.name} has been up for {node.now // 1_000_000} s only",
                where=self.kind,
                hint=f"{_BETWEEN_BOOTS} after a boot, at the earliest, comes the next",
            )
        return (Reboot(node.boot),)
