"""What is done in an instant and over."""

from __future__ import annotations

from typing import Any

from chaos_agent.linux.host import Host


class AtOnce:
    """Renewal and end of such an effect: there is nothing to do."""

    def renew(self, host: Host, effect: Any, expires_at_us: int) -> None:
        """Nobody holds a lease on what is over."""

    def revert(self, host: Host, effect: Any) -> None:
        """What has been killed stays so; who starts it again is what the run watches."""

    def absent(self, host: Host, effect: Any) -> str | None:  # noqa: ARG002
        return None
