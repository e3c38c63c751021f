"""A node's units as root on the node would treat them: looked after, left alone, restarted."""

from __future__ import annotations

from chaos_lab import provision
from chaos_lab.fleet import Fleet

UNITS = (provision.KEEPER_UNIT, provision.LINK_UNIT)
_DROP_INS = {unit: f"/etc/systemd/system/{unit}.d" for unit in UNITS}
_ALONE = "[Service]\nRestart=no\nExecStopPost=\nWatchdogSec=0\n"


def look_away(fleet: Fleet, node: str) -> None:
    """No restart, no watchdog, no ``recover``: what ends a fault from now on is the kernel."""
    for unit in UNITS:
        drop_in(fleet, node, unit, "alone", _ALONE)
    reload(fleet, node)


def look_back(fleet: Fleet, node: str) -> None:
    """Undo ``look_away``; what ended meanwhile stays ended."""
    for unit in UNITS:
        drop_in(fleet, node, unit, "alone", "")
    reload(fleet, node)


def drop_in(fleet: Fleet, node: str, unit: str, name: str, text: str) -> None:
    """Write a drop-in for a unit, or remove it when there is no text; ``reload`` tells systemd."""
    place = _DROP_INS[unit]
    if text:
        fleet.exec(node, ["mkdir", "-p", place])
        fleet.put(node, f"{place}/{name}.conf", text)
    else:
        fleet.exec(node, ["rm", "-f", f"{place}/{name}.conf"])
        fleet.exec(node, ["rmdir", place], check=False)  # unless there are others


def reload(fleet: Fleet, node: str) -> None:
    """Let systemd read its units afresh. Processes are left as they are."""
    fleet.exec(node, ["systemctl", "daemon-reload"], timeout=60)


def restart(fleet: Fleet, node: str) -> None:
    """Start the agent anew, or at all."""
    fleet.exec(node, ["systemctl", "restart", *UNITS], timeout=180)
