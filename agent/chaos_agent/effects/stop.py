"""Stop: processes are stopped by SIGSTOP and go on by SIGCONT, by identity."""

from __future__ import annotations

from chaos_agent.linux import processes
from chaos_agent.linux.host import Host
from chaos_core.effects import Stop
from chaos_core.errors import Unsupported


class StopOps:
    def apply(
        self,
        host: Host,  # noqa: ARG002
        effect: Stop,
        expires_at_us: int,  # noqa: ARG002 - its UndoTimer's
        deadline_us: int | None = None,  # noqa: ARG002
    ) -> None:
        _send(effect.victims, "SIGSTOP")

    def verify(self, host: Host, effect: Stop) -> str | None:  # noqa: ARG002
        wrong = [pid for pid, start in effect.victims if not processes.is_stopped(pid, start)]
        return f"ended, or not stopped: {', '.join(map(str, wrong))}" if wrong else None

    def renew(self, host: Host, effect: Stop, expires_at_us: int) -> None:
        """Nothing to do: the UndoTimer before it is renewed."""

    def revert(self, host: Host, effect: Stop) -> None:  # noqa: ARG002
        _send(effect.victims, "SIGCONT")  # to all: a stop may still be on its way to one

    def absent(self, host: Host, effect: Stop) -> str | None:  # noqa: ARG002
        left = processes.stopped(effect.victims)
        return f"still stopped: {', '.join(str(pid) for pid, _ in left)}" if left else None


def _send(victims: processes.Identities, name: str) -> None:
    for pid, start in victims:
        try:
            processes.send(pid, start, name)
        except PermissionError as error:
            raise Unsupported(
                f"not allowed to send {name} to {pid}: {error.strerror}",
                hint="the keeper needs CAP_KILL",
            ) from None


OPS = StopOps()
