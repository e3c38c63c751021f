"""Processes of this host, by what they are; an identity is a pid and its start time.

Their names and command lines are whatever their users like, not even text.
"""

from __future__ import annotations

import os
import re
import resource
import signal
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache, partial
from pathlib import Path

from chaos_agent.linux.aside import Aside, Late
from chaos_agent.linux.cgroupfs import unified_id
from chaos_agent.linux.sockets import listeners
from chaos_core.errors import Refused
from chaos_core.node import FileLimits, ProcessFacts, ProcessQuery

Identities = Iterable[tuple[int, ...]]
_PROC = Path("/proc")
_LONGEST = 4_096  # bytes of a command line that are looked at
_SESSION = re.compile(r"/(session-[^/\n]+\.scope)(?:/|$)", re.MULTILINE)
_SERVICE = re.compile(r"/([^/\n]+\.service)(?:/|$)", re.MULTILINE)


def pids() -> list[int]:
    """Every process of this host."""
    with os.scandir(_PROC) as entries:
        return [int(entry.name) for entry in entries if entry.name.isdigit()]


def comm(pid: int) -> str:
    """What a process calls itself, or is called: at most 15 bytes. Raises OSError if it is gone.

    Of all that is known of a process, the cheapest, and nothing that its memory must give.
    """
    descriptor = os.open(f"/proc/{pid}/comm", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 64).decode(errors="replace").rstrip("\n")
    finally:
        os.close(descriptor)


def is_roots(pid: int) -> bool:
    """Whether a process is root's in every respect. Raises OSError if it is gone.

    The owner of /proc/PID does not say so: that is root as well for what cannot be dumped.
    """
    status = (_PROC / str(pid) / "status").read_text(errors="replace")
    (uids,) = (line.split()[1:] for line in status.splitlines() if line.startswith("Uid:"))
    return set(uids) == {"0"}


def find(query: ProcessQuery) -> Iterator[ProcessFacts]:
    """Every process that all of the query holds for, but this one.

    Raises Unsupported when the query has a port and this kernel does not tell who listens,
    Refused when the command line of a process cannot be read: who locks its memory locks that.
    """
    reader = Aside("the kernel")
    try:
        groups = listeners(query.port) - {unified_id("/")} if query.port else None
        known = cache(unified_id)  # by path, for one look
        for pid in [query.pid] if query.pid else pids():
            if pid == os.getpid():
                continue
            with suppress(OSError):  # it ended meanwhile
                found = _facts(pid)
                directory = _PROC / str(pid)
                if groups is not None and known(_group(directory)) not in groups:
                    continue
                if query.unit and found.unit != query.unit:
                    continue
                # Not a regular expression: one that backtracks without end would stop the keeper.
                if query.cmdline:
                    try:
                        line = reader.do(partial(_cmdline, directory))
                    except Late as error:
                        raise Refused(
                            f"the command line of process {pid} cannot be read: {error.strerror}",
                            hint="choose processes by unit, port, name or pid",
                        ) from None
                    if not fnmatchcase(line, f"*{query.cmdline}*"):
                        continue
                yield replace(found, caught=caught(found.pid))
    finally:
        reader.close()


def started(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when it is gone or a zombie."""
    try:
        state, *fields = _stat(pid)
    except OSError:
        return None
    return None if state in "ZX" else int(fields[18])


def is_stopped(pid: int, start: int) -> bool:
    """Whether that very process is stopped by a signal, and not just to be traced."""
    with suppress(OSError):
        fields = _stat(pid)
        return fields[0] == "T" and int(fields[19]) == start
    return False


def faults(pid: int) -> int:
    """How many pages the kernel has given a process without reading them; 0 when it is gone."""
    with suppress(OSError):
        return int(_stat(pid)[7])
    return 0


def ticks(pid: int) -> int:
    """How many ticks of CPU time all its threads have had; 0 when it is gone."""
    with suppress(OSError):
        stat = _stat(pid)
        return int(stat[11]) + int(stat[12])
    return 0


def caught(pid: int) -> int:
    """The signals that a process handles, as a mask; 0 when it is gone."""
    with suppress(OSError):
        for line in (_PROC / str(pid) / "status").read_text(errors="replace").splitlines():
            if line.startswith("SigCgt:"):
                return int(line.split()[1], 16)
    return 0


def stopped(identities: Identities) -> list[tuple[int, ...]]:
    """Those of the processes, as (pid, start), that are."""
    return [(pid, start) for pid, start in identities if is_stopped(pid, start)]


def send(pid: int, start: int, name: str) -> bool:
    """Signal that very process; False when it is gone. A recycled pid is never touched.

    Raises PermissionError where we may not.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if started(pid) != start:  # after opening: what is signalled is what was looked at
            return False
        signal.pidfd_send_signal(descriptor, getattr(signal, name))
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def file_limits() -> FileLimits:
    """How many files may be open on this host, are, and may be in a process of ours."""
    taken, _, most = (_PROC / "sys/fs/file-nr").read_text().split()
    ours = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return FileLimits(int(most), int(taken), ours)


def _facts(pid: int) -> ProcessFacts:
    text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    fields = _stat(pid)
    groups = (_PROC / str(pid) / "cgroup").read_text(errors="replace")
    unit, session = _SERVICE.search(groups), _SESSION.search(groups)
    return ProcessFacts(
        pid=pid,
        started=int(fields[19]),
        name=text[text.index("(") + 1 : text.rindex(")")],
        unit=unit[1] if unit else "",
        session=session[1] if session else "",
        kernel=pid == 2 or fields[1] == "2",
        stopped=fields[0] in "Tt",
    )


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on, proc(5)."""
    return (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()


def _group(directory: Path) -> str:
    """The path of the cgroup of v2 that a process is in; the root's when it is in none."""
    lines = (directory / "cgroup").read_text(errors="replace").splitlines()
    return next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")


def _cmdline(directory: Path) -> str:
    return (
        (directory / "cmdline")
        .read_bytes()[:_LONGEST]
        .replace(b"\0", b" ")
        .decode(errors="replace")
        .strip()
    )
