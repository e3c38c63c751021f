"""Capped cgroups of our own, ``chs-<id>``, on cgroup v1 and v2 behind one interface.

Where they go:

- v2, started by systemd with ``Delegate=yes``: below the unit's own cgroup. A
  cgroup with processes in it cannot hand out controllers, so the keeper first
  moves itself into a leaf called ``keeper``, which goes before its holders.
- v2 otherwise: below the root.
- v1: below the mount points of the cpu and the memory hierarchy.

Only groups whose name starts with ``chs-`` are ever written to or removed.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chaos_agent.linux import children, waiting
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.cgroupfs import lines, mounts
from chaos_core.effects import LINK_PREFIX, is_ours
from chaos_core.errors import ChaosError, Unsupported

KEEPER_LEAF = "keeper"
_MOST_CPU = "10000"  # the largest weight that a cgroup can have: who ends faults goes first
_KILL_WAIT_S = 1.0


@dataclass(frozen=True, slots=True)
class Caps:
    """What a group may use: µs of CPU in each period of µs, and bytes. 0 is no cap."""

    cpu_quota: int = 0
    cpu_period: int = 100_000
    memory_max: int = 0


class Cgroups:
    """``cpu`` and ``memory`` are the directories below which our groups are made.

    They are one and the same on v2, where ``root`` is the top of the tree: groups
    made by a keeper in another place are found, and ended, all the same.
    """

    def __init__(self, version: int, cpu: Path, memory: Path, root: Path | None = None) -> None:
        self.version = version
        self.cpu = cpu
        self.memory = memory
        self._root = root

    def create(self, name: str, caps: Caps) -> list[Path]:
        """Make the group, or bring its caps up to date; the directories to join.

        Raises Unsupported when a cap cannot be set.
        """
        if self.version == 2:
            _delegate(self.cpu)
        for path in self._paths(name):
            path.mkdir(exist_ok=True)
        try:
            for path, text in self._wanted(name, caps):
                path.write_text(text)
        except OSError as error:
            self.destroy(name)
            raise Unsupported(
                f"the caps cannot be set: {error}",
                where=name,
                hint="the cpu and memory controllers are needed; see `chaos-agent doctor`",
            ) from None
        self._limit_swap(name)
        return self._paths(name)

    def difference(self, name: str, caps: Caps) -> str | None:
        """One line that says how the group's caps differ; None when they do not."""
        for path, text in self._wanted(name, caps):
            try:
                found = path.read_text().strip()
            except FileNotFoundError:
                return f"cgroup {path.parent} is missing"
            if found != text:
                return f"{path} is {found}, not {text}"
        return None

    def quota(self, name: str) -> int:
        """The group's CPU quota in µs a period; 0 when it has none, or is missing."""
        file = "cpu.max" if self.version == 2 else "cpu.cfs_quota_us"
        try:
            found = (self.cpu / name / file).read_text().split()[0]
        except FileNotFoundError:
            return 0
        return 0 if found in ("max", "-1") else int(found)

    def cpu_us(self, name: str) -> int | None:
        """µs of CPU time that the group has had; None where the kernel does not count it here."""
        try:
            for line in (self.cpu / name / "cpu.stat").read_text().splitlines():
                key, _, value = line.partition(" ")
                if key == "usage_usec":
                    return int(value)
        except OSError:
            pass
        return None

    def pids(self, name: str) -> list[int]:
        """Processes in the group, in either hierarchy."""
        return sorted({pid for path in self._existing(name) for pid in _pids(path)})

    def missing(self, name: str, pid: int) -> list[Path]:
        """The directories of the group in which a process is not, though it should."""
        return [path for path in self._paths(name) if pid not in _pids(path)]

    def names(self) -> list[str]:
        """Our groups, by their tag, wherever they are. Those of systemd's units are not ours.

        (An undo timer's service has our tag and a group; it must not be killed at work.)
        """
        found = {path.name for path in self._existing(f"{LINK_PREFIX}*")}
        return sorted(filter(is_ours, found))

    def destroy(self, name: str) -> None:
        """Kill our own in the group and remove it. Idempotent; raises if a process resists.

        A process of somebody else's is moved out, to the nearest group above that takes it.
        """
        if not is_ours(name):
            raise ChaosError(f"{name} is not a cgroup of ours")
        deadline = waiting.in_seconds(_KILL_WAIT_S)
        while paths := self._existing(name):
            self._kill(name, paths)
            for path in paths:
                with contextlib.suppress(OSError):  # busy until the last process is gone
                    path.rmdir()
            if now_us() > deadline:
                raise ChaosError(
                    f"cgroup {name} cannot be removed: processes {self.pids(name)} stay in it",
                    hint="they hang in the kernel (state D), or somebody made groups below it",
                )
            waiting.pause(0.002)

    def _kill(self, name: str, paths: list[Path]) -> None:
        for path in paths:
            for pid in _pids(path):
                holder = children.holder_name(pid)
                if holder:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                elif holder is not None:
                    _move_out(pid, path)
        # Dying takes CPU time, of which a throttled group may have none left for a while.
        quota, unlimited = ("cpu.max", "max") if self.version == 2 else ("cpu.cfs_quota_us", "-1")
        with contextlib.suppress(OSError):
            (self.cpu / name / quota).write_text(unlimited)

    def _paths(self, name: str) -> list[Path]:
        return sorted({self.cpu / name, self.memory / name})

    def _existing(self, pattern: str) -> list[Path]:
        """Groups of that name. The whole v2 tree is searched only if it is not where we put it."""
        found = {path for base in {self.cpu, self.memory} for path in base.glob(pattern)}
        if self._root is not None and (not found or "*" in pattern):
            # Not rglob: groups of others come and go while we look.
            found |= {
                Path(place, name)
                for place, names, _ in os.walk(self._root)
                for name in fnmatch.filter(names, pattern)
            }
        return sorted(path for path in found if path.is_dir())

    def _wanted(self, name: str, caps: Caps) -> Iterator[tuple[Path, str]]:
        cpu, memory = self.cpu / name, self.memory / name
        if caps.cpu_quota and self.version == 2:
            yield cpu / "cpu.max", f"{caps.cpu_quota} {caps.cpu_period}"
        elif caps.cpu_quota:
            yield cpu / "cpu.cfs_period_us", str(caps.cpu_period)
            yield cpu / "cpu.cfs_quota_us", str(caps.cpu_quota)
        if caps.memory_max:
            page = os.sysconf("SC_PAGE_SIZE")
            limit = caps.memory_max // page * page  # the kernel keeps whole pages
            name = "memory.max" if self.version == 2 else "memory.limit_in_bytes"
            yield memory / name, str(limit)

    def _limit_swap(self, name: str) -> None:
        """Held memory must stay memory. Where the kernel accounts no swap there is no file."""
        memory = self.memory / name
        zero = "memory.swap.max" if self.version == 2 else "memory.swappiness"
        with contextlib.suppress(OSError):
            (memory / zero).write_text("0")


def _pids(path: Path) -> set[int]:
    try:
        return set(map(int, (path / "cgroup.procs").read_text().split()))
    except OSError:
        return set()  # the group is gone


def _move_out(pid: int, group: Path) -> None:
    """On v2 a group that hands out controllers takes no processes; the root always does."""
    for parent in group.parents:
        try:
            (parent / "cgroup.procs").write_text(str(pid))
            return
        except FileNotFoundError:
            return  # above the root
        except OSError as error:
            if error.errno != errno.EBUSY:
                return  # it has ended


def find() -> Cgroups:
    """The hierarchies of this host. Raises Unsupported when there is no usable one."""
    mounted = mounts()
    root = mounted.get("unified")
    if root is not None:
        controllers = (root / "cgroup.controllers").read_text().split()
        if {"cpu", "memory"} <= set(controllers):
            base = _delegated(root)
            return Cgroups(2, base, base, root)
    if "cpu" in mounted and "memory" in mounted:
        return Cgroups(1, mounted["cpu"], mounted["memory"])
    raise Unsupported(
        "no cgroup hierarchy with the cpu and the memory controller is mounted",
        hint="mount cgroup2 on /sys/fs/cgroup, as systemd does",
    )


def _delegated(root: Path) -> Path:
    """The nearest cgroup above this process that systemd has delegated to us, else the root."""
    own = next(
        (line[3:] for line in lines(Path("/proc/self/cgroup")) if line.startswith("0::")), "/"
    )
    path = root / own.strip("/")
    while path != root:
        for attribute in ("user.delegate", "trusted.delegate"):
            with contextlib.suppress(OSError):
                if os.getxattr(path, attribute) == b"1":
                    return path
        path = path.parent
    return root


def _delegate(base: Path) -> None:
    """Let the groups below ``base`` have cpu and memory, once nothing stands in the way."""
    control = base / "cgroup.subtree_control"
    if {"cpu", "memory"} <= set(control.read_text().split()):
        return
    if (base / "cgroup.type").exists():  # every group but the root has this file
        leaf = base / KEEPER_LEAF
        leaf.mkdir(exist_ok=True)
        for pid in (base / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                (leaf / "cgroup.procs").write_text(pid)
    try:
        control.write_text("+cpu +memory")
        if (base / KEEPER_LEAF).exists():
            (base / KEEPER_LEAF / "cpu.weight").write_text(_MOST_CPU)
    except OSError as error:
        raise Unsupported(
            f"{control} does not take the cpu and memory controllers: {error}",
            hint="run the keeper as its systemd unit, which has Delegate=yes",
        ) from None
