"""The kernel's own caches: dropped, and counted by the kernel each time that it has done so."""

from __future__ import annotations

import threading
from pathlib import Path

from chaos_core.errors import Unsupported

DROP = Path("/proc/sys/vm/drop_caches")
_COUNTS = Path("/proc/vmstat")
_PATIENCE_S = 0.5


def flushes() -> tuple[int, int]:
    """How often the page cache, and dentries and inodes, have been dropped since boot."""
    lines = dict(line.split() for line in _COUNTS.read_text().splitlines())
    return int(lines["drop_pagecache"]), int(lines["drop_slab"])


def drop(what: int) -> None:
    """Drop the page cache (1), dentries and inodes (2), or both (3), proc_sys_vm(5).

    On a large node that takes seconds, so a thread does it, and goes on after this returns.
    Raises Unsupported where it may not.
    """
    problems: list[OSError] = []

    def put() -> None:
        try:
            DROP.write_text(str(what))
        except OSError as error:
            problems.append(error)

    writer = threading.Thread(target=put, daemon=True)
    writer.start()
    writer.join(_PATIENCE_S)
    if problems:
        raise Unsupported(f"{DROP} cannot be written: {problems[0].strerror}")
