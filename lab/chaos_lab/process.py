"""Processes on the host: run one and report clearly, or end one that we started.

Must never signal a process that this lab did not start: a process is known by
its pid *and* its start time, so a recycled pid is left alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos_core.errors import LabError, MissingPrerequisite


def run(argv: Sequence[str], *, stdin: str | None = None, cwd: Path | None = None) -> str:
    """Run a host command to its end and return its stdout.

    Raises MissingPrerequisite when the program is not installed and LabError,
    with the last lines it printed, when it fails.
    """
    try:
        done = subprocess.run(
            list(argv), input=stdin or "", capture_output=True, text=True, cwd=cwd, check=False
        )
    except FileNotFoundError as absent:
        raise MissingPrerequisite(
            f"`{argv[0]}` is not installed", hint="run tools/bootstrap.sh"
        ) from absent
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-8:]
        raise LabError(f"`{' '.join(argv)}` ended with {done.returncode}", hint="\n    ".join(said))
    return done.stdout


@dataclass(frozen=True)
class Process:
    """A process of ours that leads its own group, identified beyond doubt."""

    pid: int
    started: int
    """Start time in clock ticks after the machine's boot (field 22 of /proc/PID/stat)."""

    @classmethod
    def of(cls, pid: int) -> Process:
        """The identity of a process just started; LabError if it is already gone."""
        fields = _stat(pid)
        if fields is None:
            raise LabError(f"process {pid} ended as soon as it was started")
        return cls(pid, int(fields[19]))

    @property
    def alive(self) -> bool:
        """Whether that very process still runs; a zombie does not."""
        fields = _stat(self.pid)
        return fields is not None and int(fields[19]) == self.started and fields[0] != "Z"

    def kill_group(self, *, timeout: float = 10.0) -> None:
        """SIGKILL the process with its whole group and wait until it is gone.

        Does nothing when it has ended. ``timeout`` in seconds; LabError after it.
        """
        leads = self.alive and os.getpgid(self.pid) == self.pid
        if leads:
            os.killpg(self.pid, signal.SIGKILL)
        deadline = time.monotonic() + timeout
        while self.alive or (leads and _has_members(self.pid)):
            if time.monotonic() > deadline:
                raise LabError(f"process {self.pid} does not end after SIGKILL")
            time.sleep(0.01)
        self.reap()

    def reap(self) -> None:
        """Collect the exit status if the process is our own child."""
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the state on (field 3), or None if there is no such pid."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def _has_members(group: int) -> bool:
    """Whether a process of that group still runs; a zombie does not."""
    found = (_stat(int(path.name)) for path in Path("/proc").glob("[0-9]*"))
    return any(fields[0] != "Z" and int(fields[2]) == group for fields in found if fields)


def host_boot_id() -> str:
    """The host's boot id: pids and namespaces recorded under another one are gone."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
