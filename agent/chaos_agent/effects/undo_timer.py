"""UndoTimer: systemd reverts what the kernel cannot time out, unless the lease is renewed.

A timer cannot be moved, so each renewal arms the next one, ``chs-<id>-<n>``, before
it takes the last one away. What the timer runs is ``chaos-agent undo`` with the effects
themselves as its arguments: it needs no journal and waits for no lock.
"""

from __future__ import annotations

import sys

from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.host import Host
from chaos_core.effects import UNDO, Effect, UndoTimer, from_text
from chaos_core.errors import NotInForce


class UndoTimerOps:
    def apply(
        self, host: Host, effect: UndoTimer, expires_at_us: int, deadline_us: int | None = None
    ) -> None:
        end = expires_at_us if deadline_us is None else min(expires_at_us, deadline_us)
        _arm(host, effect, end)

    def verify(self, host: Host, effect: UndoTimer) -> str | None:
        if any(host.systemd.is_waiting(name) for name in _armed(host, effect)):
            return None
        return f"timer {effect.name} is not armed"

    def renew(self, host: Host, effect: UndoTimer, expires_at_us: int) -> None:
        problem = self.verify(host, effect)
        if problem:
            raise NotInForce(
                f"not renewed: {problem}",
                where=effect.name,
                hint="a lapsed lease takes a new apply",
            )
        _arm(host, effect, expires_at_us)

    def revert(self, host: Host, effect: UndoTimer) -> None:
        for name in _armed(host, effect):
            host.systemd.disarm(name)

    def absent(self, host: Host, effect: UndoTimer) -> str | None:
        left = _armed(host, effect)
        return f"timer {', '.join(left)} is still armed" if left else None


def _arm(host: Host, effect: UndoTimer, expires_at_us: int) -> None:
    left = expires_at_us - now_us()
    if left <= 0:
        raise NotInForce(
            "the lease is over", where=effect.name, hint="apply again under a new lease"
        )
    old = _armed(host, effect)
    number = max((int(name.rpartition("-")[2]) for name in old), default=0) + 1
    argv = (sys.executable, "-m", "chaos_agent.main", UNDO, *effect.undo)
    host.systemd.arm(f"{effect.name}-{number}", left, argv)
    for name in old:
        host.systemd.disarm(name)


def _armed(host: Host, effect: UndoTimer) -> list[str]:
    return [name for name in host.systemd.armed() if name.rpartition("-")[0] == effect.name]


def undone_by(host: Host, name: str) -> tuple[Effect, ...]:
    """What a timer of ours would revert. Raises InvalidInput when it is none of ours."""
    argv = host.systemd.command(name)
    words = argv[argv.index(UNDO) + 1 :] if UNDO in argv else argv
    return tuple(from_text(word) for word in words)


OPS = UndoTimerOps()
