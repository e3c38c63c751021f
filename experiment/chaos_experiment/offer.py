"""What a node lets probes do from it, and the most that anybody may ask of one. Pure.

A scenario's ``from: web`` makes machines talk to hosts of the scenario's choice, so the node
decides: root lists in its agent.toml what its probes may touch, and the ceilings below hold
whatever is listed, as those of ``envelope.py`` do for faults. The controller looks here too,
before anything is hurt, and decides nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from chaos_core.errors import InvalidInput
from chaos_core.units import SECOND
from chaos_experiment.probes import Place, Probe

MAX_WATCHED: Final = 16  # probes that look from one node at once
MAX_LOOKS_PER_S: Final = 200  # of all of them together
MAX_WAITING: Final = 200  # looks of one that wait for answers
# Looks a second of one probe. A program and a walk through all processes cost more than a packet.
_MAX_RATE: Final = {"http": 100.0, "command": 1.0, "process": 1.0}
_MAX_RATE_OF_OTHERS: Final = 10.0
_MAX_PROGRAMS: Final = 10  # of one probe, that run at once
_READING: Final = ("GET", "HEAD", "OPTIONS")
_METADATA: Final = ipaddress.ip_network("fd00:ec2::/32")


@dataclass(frozen=True, slots=True)
class Offer:
    """What one node allows. ``hosts`` are names, addresses and CIDRs."""

    kinds: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def check(self, probe: Probe) -> None:
        """Raise InvalidInput, whose ``where`` names the field, for what may not look from there."""
        check_moderate(probe)
        for host in probe.hosts():
            if not self._lets_talk_to(host):
                field = next((name for name, _ in _given(probe, "url", "address", "server")), "")
                raise _refused(field, f"{host} is not in hosts", self.hosts)
        for name, text in _given(probe, "command"):
            if text not in self.commands:
                raise _refused(name, f"{text} is not in commands", self.commands)
        for name, text in _given(probe, "path", "ca_file"):
            if probe.place is Place.EITHER and text not in self.files:
                raise _refused(name, f"{text} is not in files", self.files)
        if probe.kind not in self.kinds:
            raise _refused("", f"no probe of kind {probe.kind}", self.kinds)

    def _lets_talk_to(self, host: str) -> bool:
        """A name must be listed as such: what it is an address of, others may say."""
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return host.lower() in self.hosts
        if host in self.hosts:
            return True
        # Where clouds tell a machine its credentials: only if listed by itself.
        if address.is_link_local or address in _METADATA:
            return False
        networks = (_network(text) for text in self.hosts)
        return any(address in network for network in networks if network)


def check_moderate(probe: Probe) -> None:
    """Raise InvalidInput for what may look from no node, whatever it allows."""
    if probe.place is Place.CONTROLLER:
        raise InvalidInput(f"{probe.kind} probes look from the controller", where="from")
    rate = looks_per_s(probe)
    most = _MAX_RATE.get(probe.kind, _MAX_RATE_OF_OTHERS)
    field = "rate" if probe.kind == "http" else "interval"
    if rate > most:
        what = f"{rate:g} looks a second from a node, retries included, are more than {most:g}"
        raise InvalidInput(what, where="retries" if probe.retries else field)
    waiting = _MAX_PROGRAMS if probe.kind == "command" else MAX_WAITING
    if rate * probe.timeout / SECOND > waiting:
        what = f"{rate:g} looks a second that wait {probe.timeout} each are more than {waiting}"
        raise InvalidInput(f"{what}, from a node", where="timeout")
    method = getattr(probe, "method", "GET")
    if method not in _READING:
        raise InvalidInput(f"from a node it only reads: {', '.join(_READING)}", where="method")
    for name in ("body", "body_matches"):  # an expression can backtrack for years
        if getattr(probe, name, ""):
            raise InvalidInput(f"{name} is for loads from the controller", where=name)


def looks_per_s(probe: Probe) -> float:
    """At the most: when each try fails."""
    return SECOND / probe.due(1) * (1 + probe.retries)


def _refused(field: str, why: str, allowed: Iterable[str]) -> InvalidInput:
    known = ", ".join(allowed) or "none"
    what = f"the node's agent.toml does not allow it: {why}"
    return InvalidInput(what, where=field, hint=f"[probes] there allows: {known}")


def _given(probe: Probe, *fields: str) -> Iterator[tuple[str, str]]:
    for name in fields:
        value = getattr(probe, name, None)
        if value is not None:
            yield name, str(value)


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None
