"""Run: a command of the operator's, as a transient service; its undo is what stopping it runs.

So the undo is run once, whoever stops it: the keeper, its timer or ``recover``; and also
when the command failed, or was cut off. Only after a reboot, when there is no service to
stop any more, is it run by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chaos_agent.linux.boottime import boot_id
from chaos_agent.linux.host import Host
from chaos_core.effects import Run
from chaos_core.errors import Residue

if TYPE_CHECKING:  # an undo loads no more than it needs
    from chaos_agent.effects.counters import Counters
    from chaos_core.hits import Hits


class RunOps:
    def apply(
        self,
        host: Host,
        effect: Run,
        expires_at_us: int,  # noqa: ARG002 - its UndoTimer's
        deadline_us: int | None = None,  # noqa: ARG002
    ) -> None:
        if not host.systemd.job(effect.name).there:
            host.systemd.run(
                effect.name, effect.argv, effect.undo, user=effect.user, timeout_us=effect.timeout
            )

    def verify(self, host: Host, effect: Run) -> str | None:
        found = host.systemd.job(effect.name)
        if found.active == "active":
            return None
        return f"hook {effect.hook} is {found.active or 'gone'}{_why(found.result)}"

    def renew(self, host: Host, effect: Run, expires_at_us: int) -> None:
        """Nothing to do: the UndoTimer before it, if there is one, is renewed."""

    def revert(self, host: Host, effect: Run) -> None:
        if effect.undo and effect.boot != boot_id() and not host.systemd.job(effect.name).there:
            host.systemd.run(
                effect.name, effect.undo, (), user=effect.user, timeout_us=effect.timeout
            )
            result = host.systemd.settled(effect.name).result
            host.systemd.end(effect.name)
            if result != "success":
                raise Residue(f"hook {effect.hook}: its undo failed after the reboot ({result})")
        host.systemd.end(effect.name)

    def absent(self, host: Host, effect: Run) -> str | None:
        found = host.systemd.job(effect.name)
        if not found.there:
            return None
        if found.undo_failed:
            return (
                f"hook {effect.hook}: its undo failed: set it right by hand, then `systemctl"
                f" reset-failed {effect.name}`"
            )
        return f"hook {effect.hook} is {found.active}"

    def count(self, host: Host, effect: Run, counters: Counters) -> Hits:  # noqa: ARG002
        from chaos_core.hits import Hits

        return Hits(count=1, unit="hook runs")


def _why(result: str) -> str:
    return "" if result in ("", "success") else f" ({result})"


OPS = RunOps()
