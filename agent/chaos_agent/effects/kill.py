"""Kill: processes are signalled by identity, and seen to be gone if the signal is fatal."""

from __future__ import annotations

from chaos_agent.effects._at_once import AtOnce
from chaos_agent.linux import processes
from chaos_agent.linux.host import Host
from chaos_core.effects import Kill
from chaos_core.errors import Unsupported


class KillOps(AtOnce):
    def apply(
        self,
        host: Host,  # noqa: ARG002
        effect: Kill,
        expires_at_us: int,  # noqa: ARG002
        deadline_us: int | None = None,  # noqa: ARG002
    ) -> None:
        try:
            sent = [processes.send(pid, start, effect.signal) for pid, start in effect.victims]
        except PermissionError as error:
            raise Unsupported(
                f"not allowed to send {effect.signal}: {error}", hint="the keeper needs CAP_KILL"
            ) from None
        if not any(sent):
            raise Unsupported("all of these processes had ended before")

    def verify(self, host: Host, effect: Kill) -> str | None:  # noqa: ARG002
        left = [pid for pid, start in effect.victims if processes.started(pid) == start]
        return f"still there: {left}" if left and effect.fatal else None


OPS = KillOps()
