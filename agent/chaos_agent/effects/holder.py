"""Holder: placeholder until the child program lands."""

from __future__ import annotations

from chaos_agent.linux.host import Host
from chaos_core.effects import Holder
from chaos_core.errors import Unsupported


class HolderOps:
    def apply(
        self, host: Host, effect: Holder, expires_at_us: int, deadline_us: int | None = None
    ) -> None:
        raise Unsupported("holders are not available yet")

    def verify(self, host: Host, effect: Holder) -> str | None:
        return "holders are not available yet"

    def renew(self, host: Host, effect: Holder, expires_at_us: int) -> None:
        raise Unsupported("holders are not available yet")

    def revert(self, host: Host, effect: Holder) -> None:
        return

    def absent(self, host: Host, effect: Holder) -> str | None:
        return None


OPS = HolderOps()
