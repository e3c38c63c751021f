"""What is checked of probes before any of them looks: whom they ask, and what for.

A scenario makes this machine, which holds every lease, talk to hosts of the scenario's
choice. So it says here where it does not: to addresses that controller.toml protects, to a
cloud's metadata, and with a load to the controller itself.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import stat
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chaos_controller.config import Probes
from chaos_controller.fleet import Fleet
from chaos_core.errors import InvalidInput
from chaos_experiment import site
from chaos_experiment.load import Loaded, combined
from chaos_experiment.offer import MAX_LOOKS_PER_S, MAX_WATCHED, Offer, looks_per_s
from chaos_experiment.probes import Context, Probe
from chaos_experiment.site import Site
from chaos_experiment.source import MAX_BYTES

# Where clouds tell a machine its credentials (AWS, GCP, Azure; also over IPv6).
METADATA: Final = Probes.parse_networks(["169.254.169.254", "fd00:ec2::254", "fd20:ce::254"])
_LOOKUP_S: Final = 3.0

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Probing:
    """What probes may do here. ``ports`` tells the controller's own, once it listens."""

    probes: Probes
    ports: Callable[[], Collection[int]]
    site: Path | None = None

    def joined(self, loaded: Loaded) -> Loaded:
        """The scenario with what this site asks of every experiment.

        The file is read each time, so that a change counts from the next experiment on. Raises
        InvalidInput: while it cannot be read nothing begins.
        """
        return loaded if self.site is None else read_site(self.site).joined(loaded)

    @property
    def context(self) -> Context:
        return self.probes.context

    async def check(self, loaded: Loaded) -> None:
        """Raise InvalidInput, naming probe and place, for what waiting will not mend."""
        found = await asyncio.gather(
            *(self._problem(loaded, name, probe) for name, probe in loaded.all_probes.items())
        )
        problems = [each for each in found if each is not None]
        if problems:
            raise combined(problems, loaded.name)

    def check_nodes(
        self, loaded: Loaded, chosen: Mapping[str, Sequence[str]], fleet: Fleet
    ) -> None:
        """Raise InvalidInput, naming probe, field and node, for what a node that is to look does
        not allow; only its link decides."""
        problems: list[InvalidInput] = []
        asked: dict[str, list[Probe]] = {}
        for name, probe in loaded.probes.items():
            for node in chosen[probe.look_from] if probe.look_from else ():
                asked.setdefault(node, []).append(probe)
                try:
                    _allowed_on(node, fleet, asked[node])
                except InvalidInput as error:
                    place = loaded.place(name, probe.kind, *filter(None, [error.where]))
                    problems.append(
                        InvalidInput(f"{node}: {error.what}", where=place, hint=error.hint)
                    )
        if problems:
            raise combined(problems, loaded.name)

    async def check_one(self, loaded: Loaded, name: str, probe: Probe) -> None:
        """The same of one probe."""
        problem = await self._problem(loaded, name, probe)
        if problem is not None:
            raise problem

    async def _problem(self, loaded: Loaded, name: str, probe: Probe) -> InvalidInput | None:
        if probe.look_from:  # what a node may do is not ours to say
            return None
        try:
            await self._allowed(probe)
            await probe.check(self.context)
        except InvalidInput as error:
            place = loaded.place(name, probe.kind, *filter(None, [error.where]))
            return InvalidInput(error.what, where=place, hint=error.hint)
        return None

    async def _allowed(self, probe: Probe) -> None:
        for host in probe.hosts():
            for address in await _addresses(host):
                self._open(host, address)
        load = probe.load()
        if load is None or load[1] not in self.ports():
            return
        if any(_is_here(address) for address in await _addresses(load[0])):
            raise InvalidInput(
                f"port {load[1]} there is the controller itself, whose grants hold every lease",
                hint="send no load to it",
            )

    def _open(self, host: str, address: _Address) -> None:
        for network in (*METADATA, *self.probes.protected):
            if address in network:
                shown = str(address) if host == str(address) else f"{host} ({address})"
                whose = "a cloud's metadata" if network in METADATA else "[probes] protected"
                raise InvalidInput(f"{shown} is protected: no probe talks to {network} ({whose})")


def read_site(path: Path) -> Site:
    """Raises InvalidInput for a file that is not there, makes no sense, or is not root's."""
    try:
        with path.open("rb") as opened:
            info = os.fstat(opened.fileno())
            text = opened.read(MAX_BYTES + 1).decode()
    except OSError as error:
        what = f"cannot read the site's file: {error.strerror}"
        raise InvalidInput(what, where=str(path), hint="site = … in controller.toml") from None
    except UnicodeDecodeError as error:
        raise InvalidInput(f"not UTF-8: {error.reason}", where=str(path)) from None
    if info.st_uid != 0 or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise InvalidInput(
            "writable by others than root, who could switch the site's conditions off",
            where=str(path),
            hint=f"chown root {path}; chmod go-w {path}",
        )
    return site.load(text, str(path))


def _allowed_on(node: str, fleet: Fleet, asked: Sequence[Probe]) -> None:
    """Whether the node lets the last of these look beside the others. Raises InvalidInput."""
    session = fleet.sessions.get(node)
    if session is None:
        raise InvalidInput("it is not connected", hint="chaosctl nodes")
    said = session.hello.probes
    offer = Offer(tuple(said.kinds), tuple(said.hosts), tuple(said.commands), tuple(said.files))
    offer.check(asked[-1])
    if len(asked) > MAX_WATCHED:
        raise InvalidInput(f"more than {MAX_WATCHED} probes look from one node")
    if sum(map(looks_per_s, asked)) > MAX_LOOKS_PER_S:
        raise InvalidInput(f"more than {MAX_LOOKS_PER_S} looks a second from one node")


async def _addresses(host: str) -> list[_Address]:
    """Those that a host has now; none for one that cannot be looked up, which preflight says."""
    loop = asyncio.get_running_loop()
    with suppress(OSError, UnicodeError, TimeoutError, ValueError):
        async with asyncio.timeout(_LOOKUP_S):
            found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return [_plain(str(entry[4][0])) for entry in found]
    return []


def _plain(text: str) -> _Address:
    """Without a zone; an IPv4 address in IPv6's clothes is itself."""
    address = ipaddress.ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def _is_here(address: _Address) -> bool:
    """Whether it is one of this machine's own: only those can be bound to."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as own:
        try:
            own.bind((str(address), 0))
        except OSError:
            return False
    return True
