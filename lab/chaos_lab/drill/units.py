"""A node's units as root on the node would treat them: looked after, left alone, restarted."""

from __future__ import annotations

from chaos_lab import provision
from chaos_lab.fleet import Fleet

UNITS = (provision.KEEPER_UNIT, provision.LINK_UNIT)
_PLACES = tuple(f"/run/systemd/system/{unit}.d" for unit in UNITS)
_ALONE = "[Service]\nRestart=no\nExecStopPost=\nWatchdogSec=0\n"


def look_away(fleet: Fleet, node: str) -> None:
    """No restart, no watchdog, no ``recover``: what ends a fault from now on is the kernel."""
    fleet.exec(node, ["mkdir", "-p", *_PLACES])
    for place in _PLACES:
        fleet.put(node, f"{place}/alone.conf", _ALONE)
    reload(fleet, node)


def look_back(fleet: Fleet, node: str) -> None:
    """Undo ``look_away``; what ended meanwhile stays ended."""
    fleet.exec(node, ["rm", "-r", *_PLACES])
    reload(fleet, node)


def reload(fleet: Fleet, node: str) -> None:
    """Let systemd read its units afresh. Processes are left as they are."""
    fleet.exec(node, ["systemctl", "daemon-reload"], timeout=60)


def restart(fleet: Fleet, node: str) -> None:
    """Start the agent anew, or at all."""
    fleet.exec(node, ["systemctl", "restart", *UNITS], timeout=60)
