"""What runs: the lab's state file and its lock.

The file is written as soon as a process has been started or ended, so a later
command finds what an earlier one left, whatever became of that command.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from chaos_core.errors import LabError
from chaos_lab.layout import LabDir
from chaos_lab.process import Process, host_boot_id


@dataclass
class State:
    """A fleet as last recorded; ``image`` is a directory, ``processes`` go by VM name."""

    image: Path
    nodes: int
    processes: dict[str, Process] = field(default_factory=dict)

    def save(self, lab: LabDir) -> None:
        """Replace the state file in one atomic step."""
        body = {
            "boot_id": host_boot_id(),
            "image": str(self.image),
            "nodes": self.nodes,
            "processes": {n: [p.pid, p.started] for n, p in sorted(self.processes.items())},
        }
        new = lab.state.with_suffix(".new")
        new.write_text(json.dumps(body, indent=2) + "\n")
        new.replace(lab.state)

    @classmethod
    def load(cls, lab: LabDir) -> State | None:
        """The recorded fleet, or None if there is none on this boot of the host."""
        try:
            body = json.loads(lab.state.read_text())
            if body["boot_id"] != host_boot_id():
                return None
            processes = {name: Process(*ids) for name, ids in body["processes"].items()}
            return cls(Path(body["image"]), int(body["nodes"]), processes)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError) as broken:
            raise LabError(
                f"the lab's state file cannot be read: {broken!r}",
                where=str(lab.state),
                hint="if no linux.uml of this lab runs, delete the file",
            ) from broken


@contextmanager
def exclusive(lab: LabDir, *, timeout: float = 60.0) -> Iterator[None]:
    """Keep other commands from changing the fleet meanwhile; see ``locked``."""
    with locked(lab.lock, timeout=timeout):
        yield


@contextmanager
def locked(path: Path, *, timeout: float) -> Iterator[None]:
    """Hold a file's lock, which ends with this process at the latest.

    Waits up to ``timeout`` seconds for another command to finish; LabError after that.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LabError(
                        "another lab command is at work", where=str(path.parent), hint="try again"
                    ) from None
                time.sleep(0.2)
        yield
