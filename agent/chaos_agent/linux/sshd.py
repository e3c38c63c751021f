"""Where people log in: the TCP ports at which SSH servers of this host listen, or are spoken to.

Who owns a socket is found in the cheapest way that this process may use. With the right to
trace other processes (a keeper started by hand) that is the list of a server's descriptors.
The sealed keeper has no such right: it takes the cgroup of v2 in which the socket was made,
which is the server's own. For what systemd listens to in the place of a server (ssh.socket),
systemd is asked: such a socket is made in the cgroup of its unit or in systemd's own, and both
are no service's. Only processes that are called like an SSH server, and are root's, count.

Open sessions count too: the server may have been moved to another port since. Whom systemd's
logind has logged in by SSH, it says by address. Ports of outgoing connections are left out.

Nothing here reads a command line, which takes the lock of that process's memory.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from chaos_agent.linux import processes, sockets
from chaos_agent.linux.cgroupfs import services, unified_id
from chaos_agent.linux.sockets import Tcp, address
from chaos_agent.linux.systemd import RUNNING, Systemd
from chaos_core.errors import Busy, Unsupported
from chaos_core.essential import SSH_SERVERS, SSH_SOCKETS

_PROC = Path("/proc")
_TABLES = ("/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6")
_LOGINS = Path("/run/systemd/sessions")
_ESTABLISHED = 1  # tcp_states.h
_SOCKET = re.compile(r"socket:\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class SshPort:
    """A local TCP port, and whose it is: ``sshd, process 812``."""

    port: int
    who: str


@dataclass(frozen=True, slots=True)
class _Server:
    """A process of an SSH server. ``inodes`` are its sockets, None where that cannot be seen."""

    name: str
    pid: int
    parent: int
    inodes: frozenset[int] | None
    group: str

    def __str__(self) -> str:
        return f"{self.name}, process {self.pid}"


def find(systemd: Systemd) -> tuple[SshPort, ...]:
    """Every such port of this network namespace once, by number.

    Raises Unsupported when this kernel does not list sockets.
    """
    try:
        listening = sockets.listening()
    except Unsupported as error:
        raise Unsupported(
            f"nobody knows where SSH listens: {error.what}", hint=error.hint
        ) from None
    servers = {one.pid: one for one in _servers()}
    found = [
        *_by_descriptors(servers, listening),
        *_by_groups(servers, listening),
        *_by_units(systemd, listening),
        *_sessions(servers, {one.port for one in listening}),
    ]
    first = {one.port: one for one in reversed(found)}
    return tuple(first[port] for port in sorted(first))


def _servers() -> Iterator[_Server]:
    """The processes of root's that are called like an SSH server."""
    for pid in processes.pids():
        with suppress(OSError):  # it ended meanwhile
            name = processes.comm(pid)
            if name not in SSH_SERVERS:
                continue
            directory = _PROC / str(pid)
            status = (directory / "status").read_text(errors="replace")
            said = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            if said["Uid"].split()[1] != "0":
                continue
            lines = (directory / "cgroup").read_text(errors="replace").splitlines()
            groups = [line.removeprefix("0::") for line in lines if line.startswith("0::")]
            parent = int(said["PPid"])
            yield _Server(name, pid, parent, _sockets(directory), groups[0] if groups else "/")


def _sockets(directory: Path) -> frozenset[int] | None:
    """The inodes of a process's sockets; None when we may not see its descriptors."""
    found = set()
    try:
        for entry in os.scandir(directory / "fd"):
            with suppress(FileNotFoundError):
                if match := _SOCKET.fullmatch(str(Path(entry.path).readlink())):
                    found.add(int(match[1]))
    except PermissionError:
        return None
    return frozenset(found)


def _by_descriptors(servers: dict[int, _Server], listening: list[Tcp]) -> Iterator[SshPort]:
    """Listeners that a server holds; not those that a session of its forwards (``ssh -R``)."""
    for server in servers.values():
        if server.parent not in servers:
            held = server.inodes or ()
            yield from (SshPort(one.port, str(server)) for one in listening if one.inode in held)


def _by_groups(servers: dict[int, _Server], listening: list[Tcp]) -> Iterator[SshPort]:
    """Listeners of root's that were made in the cgroup of a server whose descriptors are hidden.

    One in the root group could be anybody's.
    """
    for server in servers.values():
        if server.inodes is None and server.parent not in servers and server.group != "/":
            group = unified_id(server.group)
            for one in listening:
                if group and one.group == group and one.uid == 0:
                    yield SshPort(one.port, str(server))


def _by_units(systemd: Systemd, listening: list[Tcp]) -> Iterator[SshPort]:
    """What systemd listens to for a server.

    When it does not answer, that may be each listener of root's that no service has made.
    """
    known = services()
    strange = [one for one in listening if one.uid == 0 and one.group not in known]
    if not RUNNING.is_dir() or not strange:  # asking it takes as long as all the rest
        return
    try:
        for unit in systemd.at_work(SSH_SOCKETS):
            yield from (SshPort(port, unit) for port in systemd.listens(unit))
    except (Unsupported, Busy):
        nobodys = {0, unified_id("/")}
        for one in strange:
            if one.group not in nobodys:
                yield SshPort(one.port, "systemd, which does not say for whom it listens")


def _sessions(servers: dict[int, _Server], taken: Collection[int]) -> Iterator[SshPort]:
    """Ports of open sessions where nobody listens any more."""
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    held = frozenset().union(*(server.inodes or () for server in servers.values()))
    open_ones = [*(_held_by(held) if held else ()), *_from(_logged_in())]
    for port, other in open_ones:
        if port not in taken and not low <= port <= high:
            yield SshPort(port, f"an open session from {other}")


def _held_by(inodes: Collection[int]) -> Iterator[tuple[int, str]]:
    """Open connections by their sockets, as (own port, other address)."""
    for table in map(Path, _TABLES):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            _, near, far, state, *rest = line.split()
            if int(state, 16) == _ESTABLISHED and int(rest[5]) in inodes:
                yield int(near.partition(":")[2], 16), address(far)


def _logged_in() -> set[str]:
    """The addresses from which somebody has logged in by SSH, as logind has them."""
    found = set()
    for path in _LOGINS.glob("*") if _LOGINS.is_dir() else ():
        with suppress(OSError, ValueError):
            said = dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)
            if said.get("SERVICE") in SSH_SERVERS:
                found.add(str(ipaddress.ip_address(said.get("REMOTE_HOST", "").partition("%")[0])))
    return found


def _from(hosts: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Open connections of root's from these hosts, as (own port, other address)."""
    for host in hosts:
        for one in sockets.connected(host):
            if one.uid == 0:
                yield one.port, host
