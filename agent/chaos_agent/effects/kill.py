"""Kill: processes are signalled by identity, and seen to be gone if the signal is fatal."""

from __future__ import annotations

import signal

from chaos_agent.effects._at_once import AtOnce
from chaos_agent.effects.counters import Counters
from chaos_agent.linux import processes
from chaos_agent.linux.host import Host
from chaos_core.effects import Kill
from chaos_core.errors import NotInForce, Unsupported
from chaos_core.hits import Hits


class KillOps(AtOnce):
    def apply(
        self,
        host: Host,  # noqa: ARG002
        effect: Kill,
        expires_at_us: int,  # noqa: ARG002
        deadline_us: int | None = None,  # noqa: ARG002
    ) -> None:
        sent = 0
        number = getattr(signal, effect.signal)
        for pid, start in effect.victims:
            if effect.handled and not processes.caught(pid) >> (number - 1) & 1:
                raise Unsupported(f"process {pid} does not handle {effect.signal} any more")
            try:
                sent += processes.send(pid, start, effect.signal)
            except PermissionError as error:
                what = f"not allowed to send {effect.signal} to {pid}: {error}"
                if sent:
                    raise NotInForce(f"{what}; {sent} had got it before") from None
                raise Unsupported(what, hint="the keeper needs CAP_KILL") from None
        if not sent:
            raise Unsupported("all of these processes had ended before")

    def verify(self, host: Host, effect: Kill) -> str | None:  # noqa: ARG002
        left = [pid for pid, start in effect.victims if processes.started(pid) == start]
        return f"still there: {left}" if left and effect.fatal else None

    def count(self, host: Host, effect: Kill, counters: Counters) -> Hits:  # noqa: ARG002
        return Hits(count=len(effect.victims), unit="processes")


OPS = KillOps()
