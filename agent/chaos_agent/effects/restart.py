"""Restart: a service is started anew, which shows in its invocation."""

from __future__ import annotations

from chaos_agent.effects._at_once import AtOnce
from chaos_agent.effects.counters import Counters
from chaos_agent.linux.host import Host
from chaos_core.effects import Restart
from chaos_core.hits import Hits


class RestartOps(AtOnce):
    def apply(
        self,
        host: Host,
        effect: Restart,
        expires_at_us: int,  # noqa: ARG002
        deadline_us: int | None = None,  # noqa: ARG002
    ) -> None:
        host.systemd.restart(effect.unit)

    def verify(self, host: Host, effect: Restart) -> str | None:
        found = host.systemd.state(effect.unit)
        if found is None:
            return f"there is no {effect.unit} any more"
        if found.invocation == effect.invocation:
            return f"{effect.unit} has not been restarted"
        return None if found.active == "active" else f"{effect.unit} is {found.active}"

    def count(self, host: Host, effect: Restart, counters: Counters) -> Hits:  # noqa: ARG002
        return Hits(count=1, unit="restarts")


OPS = RestartOps()
