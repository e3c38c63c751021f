"""Limits of the cgroups (v2) of the user's services: read, and written file by file.

They are written past systemd, which keeps what it wrote last: nothing of ours is left
anywhere when the old value is back, and systemd puts its own value in the place of ours
when somebody reloads it or sets a property. (``SetUnitProperties`` would leave drop-ins
in ``/run/systemd/system.control``, where the user's own may be.)
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from chaos_core.effects import CgroupLimit
from chaos_core.errors import Unsupported
from chaos_core.node import CgroupFacts

ROOT = Path("/sys/fs/cgroup")
_BLOCK = Path("/sys/dev/block")
_PATIENCE_S = 0.5
_UNLIMITED = "max"


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


def write(limit: CgroupLimit, value: str) -> None:
    """Set the limit. Raises Unsupported when the kernel does not take it.

    Who lowers ``memory.high`` has to reclaim what is above it, which may take long; so a
    thread does, and goes on with it after this returns.
    """
    place = ROOT / limit.group.lstrip("/") / limit.file
    text = f"{limit.key}={value}" if limit.key else value
    problems: list[OSError] = []

    def put() -> None:
        try:
            place.write_text(text)
        except OSError as error:
            problems.append(error)

    writer = threading.Thread(target=put, daemon=True)
    writer.start()
    writer.join(_PATIENCE_S)
    if problems:
        raise Unsupported(f"{place} does not take {text!r}: {problems[0].strerror}")


def block_of(path: str) -> str:
    """The whole disk that holds a path, as ``major:minor``; empty when none does.

    A path that is not there or leads through a link is held by none: who names it must
    mean it.
    """
    try:
        if os.path.realpath(path, strict=True) != path:
            return ""
        device = Path(path).stat().st_dev
        found = (_BLOCK / f"{os.major(device)}:{os.minor(device)}").resolve(strict=True)
        disk = found.parent if (found / "partition").exists() else found
        return (disk / "dev").read_text().strip()
    except OSError:
        return ""
