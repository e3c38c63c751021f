"""Worker: a process of ours with a network, held by its own SIGKILL timer."""

from __future__ import annotations

from chaos_agent.effects.holder import deadline
from chaos_agent.linux import children
from chaos_agent.linux.host import Host
from chaos_core.effects import Worker
from chaos_core.errors import NotInForce, Unsupported


class WorkerOps:
    def apply(
        self, host: Host, effect: Worker, expires_at_us: int, deadline_us: int | None = None
    ) -> None:
        self.revert(host, effect)
        deadline_us = deadline(effect.name, expires_at_us, deadline_us)
        host.workers.start(
            *(effect.name, effect.program, effect.arguments),
            *(expires_at_us, deadline_us, effect.service),
        )

    def verify(self, host: Host, effect: Worker) -> str | None:
        try:
            pid, missing = host.workers.look(effect.name)
        except Unsupported as error:
            raise NotInForce(error.what) from None
        if not pid and any(map(children.stopped, host.workers.pids(effect.name))):
            raise NotInForce(f"worker {effect.name} was stopped while it started")
        if pid and children.stopped(pid):
            missing = "it is stopped"
        return f"worker {effect.name}: {missing}" if missing else None

    def renew(self, host: Host, effect: Worker, expires_at_us: int) -> None:
        if not host.workers.renew(effect.name, expires_at_us):
            self.verify(host, effect)  # tells what it has said, if it has ended
            raise NotInForce(f"worker {effect.name} reads nothing")

    def revert(self, host: Host, effect: Worker) -> None:
        host.workers.stop(effect.name)

    def absent(self, host: Host, effect: Worker) -> str | None:
        return host.workers.left(effect.name)


OPS = WorkerOps()
