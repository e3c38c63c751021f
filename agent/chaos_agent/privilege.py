"""Who may put faults on this node or take them off: root, and one keeper at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chaos_agent.ownfiles import make_directory, open_own
from chaos_core.errors import MissingPrerequisite, Refused

LOCK = "keeper.lock"


@contextmanager
def sole_keeper(runtime: Path) -> Iterator[None]:
    """Hold the lock that makes this the only process that applies faults here.

    Raises Refused when another has it. The kernel frees it when we die.
    """
    make_directory(runtime, 0o755)
    try:
        fd = open_own(runtime / LOCK, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise Refused(
            f"the lock cannot be opened: {error.strerror}", where=str(runtime / LOCK)
        ) from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(
                "another keeper is running on this node",
                where=str(runtime / LOCK),
                hint="use chaosctl, or `systemctl stop chaos-agent` first",
            ) from None
        yield
    finally:
        os.close(fd)


def need_root() -> None:
    """Raise MissingPrerequisite unless we are root."""
    if os.geteuid() != 0:
        raise MissingPrerequisite("this needs root", hint="run it as root, or use --dry-run")
