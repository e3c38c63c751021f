"""Unit: a service of the user's that is frozen or stopped, and put back as it was."""

from __future__ import annotations

from chaos_agent.linux import waiting
from chaos_agent.linux.host import Host
from chaos_agent.linux.systemd import UnitState
from chaos_core.effects import Unit
from chaos_core.errors import Unsupported

_FREEZING = ("frozen", "freezing")
_DOWN = ("inactive", "failed", "deactivating")
_RETURN_S = 0.5  # most services are up again by then; others are seen to be starting


class UnitOps:
    def apply(
        self,
        host: Host,
        effect: Unit,
        expires_at_us: int,  # noqa: ARG002 - its UndoTimer's
        deadline_us: int | None = None,  # noqa: ARG002
    ) -> None:
        if effect.state == "frozen":
            host.systemd.freeze(effect.unit)
        else:
            host.systemd.stop(effect.unit)

    def verify(self, host: Host, effect: Unit) -> str | None:
        found = _state(host, effect)
        if effect.state == "frozen":
            return None if found.freezer == "frozen" else f"{effect.unit} is {found.freezer}"
        return (
            None if found.active in ("inactive", "failed") else f"{effect.unit} is {found.active}"
        )

    def renew(self, host: Host, effect: Unit, expires_at_us: int) -> None:
        """Nothing to do: the UndoTimer before it is renewed."""

    def revert(self, host: Host, effect: Unit) -> None:
        found = _state(host, effect)
        if effect.state == "frozen":
            if found.freezer in _FREEZING:
                host.systemd.thaw(effect.unit)
        elif found.active in _DOWN:
            host.systemd.start(effect.unit)
            waiting.until(lambda: _state(host, effect).active == "active", _RETURN_S, every_s=0.01)

    def absent(self, host: Host, effect: Unit) -> str | None:
        found = _state(host, effect)
        if effect.state == "frozen":
            return f"{effect.unit} is {found.freezer}" if found.freezer in _FREEZING else None
        return f"{effect.unit} is {found.active}" if found.active in _DOWN else None


def _state(host: Host, effect: Unit) -> UnitState:
    found = host.systemd.state(effect.unit)
    if found is None:
        raise Unsupported(f"there is no {effect.unit} any more")
    return found


OPS = UnitOps()
