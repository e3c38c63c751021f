"""Holder processes: started, renewed and found.

They are spawned from the thread that calls, which must be the keeper's main
thread: PR_SET_PDEATHSIG follows the spawning thread, not the process.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import stat
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from chaos_agent import holder
from chaos_agent.linux import processes
from chaos_agent.linux.boottime import now_us
from chaos_core.effects import is_ours
from chaos_core.errors import ChaosError

PROGRAM = str(Path(holder.__file__))
_KILL_WAIT_MS = 1_000


class Children:
    """The holders that this process has started, by name."""

    def __init__(self) -> None:
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(
        self,
        name: str,
        work: Sequence[str | int],
        expires_us: int,
        deadline_us: int,
        cgroups: Sequence[Path],
    ) -> None:
        """Start a holder, which joins the cgroups by itself before it does any work.

        (Were it put there by us, the cap would make the interpreter's start slow.)
        """
        alive = self.names()
        self._running = {name: child for name, child in self._running.items() if name in alive}
        arguments = [name, deadline_us, expires_us, os.getpid(), *cgroups, "--", *work]
        self._running[name] = subprocess.Popen(
            [sys.executable, "-I", "-S", PROGRAM, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
        )

    def names(self) -> list[str]:
        """The names of the living holders that this process has started."""
        return sorted(name for name in self._running if self.running(name) is not None)

    def running(self, name: str) -> int | None:
        """The pid of a holder of ours that is alive, else None."""
        child = self._running.get(name)
        return child.pid if child and child.poll() is None else None

    def renew(self, name: str, expires_us: int) -> bool:
        """Tell a holder its new expiry; False when it is no more. Never blocks for long:

        a holder that reads nothing (it is stopped, say) dies within a few lines.
        """
        child = self._running.get(name)
        if child is None or child.poll() is not None or child.stdin is None:
            return False
        try:
            os.write(child.stdin.fileno(), f"{expires_us}\n".encode())
        except OSError:
            return False
        return True

    def stop(self, name: str) -> None:
        """Kill a holder that we started; ``reap`` it later. Nothing if there is none."""
        child = self._running.get(name)
        if child is not None:
            child.kill()
            if child.stdin is not None:
                child.stdin.close()

    def reap(self, name: str) -> None:
        """See a stopped holder gone. Raises ChaosError when it has not ended a second later."""
        child = self._running.get(name)
        if child is None:
            return
        try:
            child.wait(_KILL_WAIT_MS / 1_000)
        except subprocess.TimeoutExpired:
            raise ChaosError(
                f"holder process {child.pid} does not die",
                hint="it hangs in the kernel (state D); a reboot ends it",
            ) from None

    def pids(self, name: str) -> list[int]:
        """The living holders of that name.

        /proc is searched only for a name that this process has not started.
        """
        if name not in self._running:
            return named(name)
        pid = self.running(name)
        return [] if pid is None else [pid]

    def close(self) -> None:
        for name in list(self._running):
            self.stop(name)
            self.reap(name)


def find() -> dict[int, str]:
    """Holders and workers on this host as pid → name, whoever started them.

    It looks at every process of the host: not for what a keeper does while a fault is in force.
    """
    return {pid: name for pid in processes.pids() if (name := holder_name(pid))}


def named(name: str) -> list[int]:
    """The pids of the holder or worker of that name."""
    return [pid for pid, found in find().items() if found == name]


def holder_name(pid: int) -> str | None:
    """The name of that holder or worker; empty for another process, None for one that ends

    or has ended. It is what such a process calls itself (``holder.take_name``), if it is root's and
    runs Python: others may call theirs as they like. Its command line would say more, but who
    reads one waits for the memory of that process, and may wait for ever.
    """
    place = Path(f"/proc/{pid}")
    try:
        name = processes.comm(pid)
        if not is_ours(name) or not processes.is_roots(pid):
            return "" if processes.started(pid) is not None else None
        program = (place / "exe").readlink().name
    except PermissionError:
        return ""  # ours may be read
    except OSError:
        return None
    return name if program.startswith("python") else ""


def kill(pid: int) -> None:
    """Kill a process just found, and see it gone; one that has ended meanwhile is fine.

    Raises ChaosError when it has not ended a second later.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        if not waiting.poll(_KILL_WAIT_MS):
            raise ChaosError(
                f"holder process {pid} does not die",
                hint="it hangs in the kernel (state D); a reboot ends it",
            )
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)


def anonymous(pid: int) -> int:
    """Bytes of anonymous memory of a process; 0 when it is gone."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Anonymous:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def nameless_bytes(pid: int) -> int:
    """Bytes on disk of the process's files that have no name; 0 when it is gone."""
    total = 0
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            found = entry.stat()
            if stat.S_ISREG(found.st_mode) and found.st_nlink == 0:
                total += found.st_blocks * 512
    return total


def touched_bytes(pid: int) -> int:
    """Bytes of pages that the kernel has given the process, ever; 0 when it is gone."""
    return processes.faults(pid) * mmap.PAGESIZE


def moved_bytes(pid: int) -> int:
    """Bytes that the process has had read from and written to devices; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError:
        return 0
    counts = dict(line.split(": ") for line in lines)
    return int(counts["read_bytes"]) + int(counts["write_bytes"])


def open_files(pid: int) -> int:
    """How many descriptors a process has open; 0 when it is gone."""
    directory = f"/proc/{pid}/fd"
    try:
        return os.stat(directory).st_size or len(os.listdir(directory))  # noqa: PTH116, PTH208
    except OSError:
        return 0


def age_us(pid: int) -> int:
    """How long ago the process started, give or take a tick of 10 ms; 0 when it is gone."""
    start = processes.started(pid)
    if start is None:
        return 0
    return now_us() - start * 1_000_000 // os.sysconf("SC_CLK_TCK")


def cpu_us(pid: int) -> int:
    """µs of CPU time that all threads of a process have had; 0 when it is gone."""
    return processes.ticks(pid) * 1_000_000 // os.sysconf("SC_CLK_TCK")


def threads(pid: int) -> int:
    """How many threads a process has; 0 when it is gone."""
    try:
        return len(list(Path(f"/proc/{pid}/task").iterdir()))
    except OSError:
        return 0


def stopped(pid: int) -> bool:
    """Whether somebody has stopped the process."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state in "Tt"
