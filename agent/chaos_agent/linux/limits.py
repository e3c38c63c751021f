"""Limits of the cgroups (v2) of the user's services: read, and written file by file.

They are written past systemd, which keeps what it wrote last: nothing of ours is left
anywhere when the old value is back, and systemd puts its own value in the place of ours
when somebody reloads it or sets a property. (``SetUnitProperties`` would leave drop-ins
in ``/run/systemd/system.control``, where the user's own may be.)
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from chaos_agent.linux import directories, waiting
from chaos_agent.linux.boottime import now_us
from chaos_core.effects import CgroupLimit
from chaos_core.errors import ChaosError, Unsupported
from chaos_core.node import CgroupFacts

ROOT = Path("/sys/fs/cgroup")
_BLOCK = Path("/sys/dev/block")
_PATIENCE_S = 0.5
_UNLIMITED = "max"
_PR_SET_PDEATHSIG = 1


def facts(group: str, files: Sequence[str]) -> CgroupFacts | None:
    """What a service's cgroup says in these files; None when there is no such group."""
    place = ROOT / group.lstrip("/")
    try:
        inode = place.stat().st_ino
    except OSError:
        return None
    found = {}
    for name in files:
        with suppress(OSError):
            found[name] = (place / name).read_text().strip()
    return CgroupFacts(group, inode, found) if group.strip("/") else None


def read(limit: CgroupLimit) -> str | None:
    """What the limit is now; None when its very group is no more."""
    place = ROOT / limit.group.lstrip("/")
    try:
        if place.stat().st_ino != limit.inode:
            return None
        text = (place / limit.file).read_text().strip()
    except FileNotFoundError:
        return None
    except OSError as error:  # the group went away while it was read
        if place.exists():
            raise Unsupported(f"{place / limit.file} cannot be read: {error.strerror}") from None
        return None
    return _of_key(text, limit.key) if limit.key else text


def event(limit: CgroupLimit, file: str, key: str) -> int | None:
    """A counter of the limit's group; None where there is none, or when the group is no more."""
    place = ROOT / limit.group.lstrip("/")
    try:
        if place.stat().st_ino != limit.inode:
            return None
        lines = (place / file).read_text().splitlines()
    except OSError:
        return None
    counts = dict(line.split(maxsplit=1) for line in lines if " " in line)
    return int(counts[key]) if key in counts else None


def _of_key(text: str, key: str) -> str:
    """One value of ``io.max``, whose lines are like ``8:0 rbps=max wbps=1048576 …``."""
    device, name = key.split()
    for line in text.splitlines():
        words = line.split()
        if words[0] == device:
            return dict(word.split("=", 1) for word in words[1:])[name]
    return _UNLIMITED


class Writers:
    """Sets limits, each in a process of its own, since the kernel may take its time.

    Who lowers ``memory.high`` has to reclaim what is above it; the first limit on a disk waits for
    what is in flight. Such a process goes on after ``write`` has returned, and ends with ``stop``
    or with ours: a limit that came into force after it was taken back would stay for ever.
    """

    def __init__(self) -> None:
        self._running: dict[tuple[str, str, str], int] = {}

    def write(self, limit: CgroupLimit, value: str) -> None:
        """Set the limit. Raises Unsupported when the kernel does not take it.

        Whether it takes it later, ``look`` says.
        """
        self.stop(limit)
        place, text = _place(limit), f"{limit.key}={value}" if limit.key else value
        parent, prctl = os.getpid(), ctypes.CDLL(None).prctl
        pid = os.fork()
        if pid == 0:  # nothing but system calls from here on
            try:
                prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                if os.getppid() == parent:
                    put(str(place), text.encode())
                os._exit(0)
            except OSError as error:
                os._exit(error.errno or errno.EIO)
            finally:
                os._exit(errno.EIO)
        self._running[_key(limit)] = pid
        self.look(limit, _PATIENCE_S)

    def look(self, limit: CgroupLimit, patience_s: float = 0) -> None:
        """Raise Unsupported if the process that writes the limit has failed."""
        problem = self._ended(limit, patience_s) if _key(limit) in self._running else None
        if problem:
            raise Unsupported(f"{_place(limit)} does not take the limit: {os.strerror(problem)}")

    def stop(self, limit: CgroupLimit) -> None:
        """End the process that writes the limit, if one does. Raises ChaosError when it lives on.

        Then the kernel has not done yet what it was asked for, and nobody can say what comes of it.
        """
        pid = self._running.get(_key(limit))
        if pid is None:
            return
        os.kill(pid, signal.SIGKILL)
        if self._ended(limit, _PATIENCE_S) is None:
            raise ChaosError(
                f"process {pid}, which sets {limit.file} of {limit.unit}, does not die",
                hint="the kernel holds it: see /proc/PID/stack",
            )

    def close(self) -> None:
        """End all of them."""
        for pid in self._running.values():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self._running.clear()

    def _ended(self, limit: CgroupLimit, patience_s: float) -> int | None:
        """What its process has ended with, 0 or an errno; None when it still runs after that."""
        deadline = now_us() + int(patience_s * 1_000_000)
        pid = self._running[_key(limit)]
        while True:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                del self._running[_key(limit)]
                return max(0, os.waitstatus_to_exitcode(status))
            if now_us() > deadline:
                return None
            waiting.pause(0.0005)


def put(path: str, data: bytes) -> None:
    """Write to a file of the kernel's in one go."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def _place(limit: CgroupLimit) -> Path:
    return ROOT / limit.group.lstrip("/") / limit.file


def _key(limit: CgroupLimit) -> tuple[str, str, str]:
    return limit.group, limit.file, limit.key


def block_of(path: str) -> str:
    """The whole disk that holds a path, as ``major:minor``; empty when none does.

    A path that is not there or leads through a link is held by none: who names it must
    mean it. Nor is one on a file system that could keep who looks waiting.
    """
    device = directories.device_of(path)
    if device is None:
        return ""
    try:
        found = (_BLOCK / f"{os.major(device)}:{os.minor(device)}").resolve(strict=True)
        disk = found.parent if (found / "partition").exists() else found
        return (disk / "dev").read_text().strip()
    except OSError:
        return ""
