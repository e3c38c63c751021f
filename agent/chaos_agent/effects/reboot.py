"""Reboot: systemd shuts the machine down, which is all that this boot sees of it.

What must never happen is a second one. So it is asked for in one place, by ``apply``, in the
boot that the effect names; ``revert``, which is all that ``recover`` does with a journal, does
nothing.
"""

from __future__ import annotations

from chaos_agent.effects._at_once import AtOnce
from chaos_agent.linux.boottime import boot_id
from chaos_agent.linux.host import Host
from chaos_core.effects import Reboot
from chaos_core.errors import Refused


class RebootOps(AtOnce):
    def apply(
        self,
        host: Host,
        effect: Reboot,
        expires_at_us: int,  # noqa: ARG002
        deadline_us: int | None = None,  # noqa: ARG002
    ) -> None:
        if effect.boot != boot_id():
            raise Refused(f"this reboot was asked for in boot {effect.boot}, which is over")
        host.systemd.reboot()

    def verify(self, host: Host, effect: Reboot) -> str | None:
        if effect.boot != boot_id():
            return "the machine has been rebooted"
        return None if host.systemd.going_down() else "systemd is not shutting down"


OPS = RebootOps()
