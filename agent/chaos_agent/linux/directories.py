"""Directories of this host, and the file systems that they are on, as this process sees them.

Neither a symbolic link nor the mount of a network file system is ever followed: one that
hangs would hang the keeper.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from chaos_agent.linux.mounts import Mount, read
from chaos_core.node import DISKS, DirectoryFacts

# What can be looked at without waiting for anybody.
_LOCAL = (*DISKS, *("tmpfs", "ramfs", "devtmpfs", "overlay", "squashfs", "hostfs", "rootfs"))


def find(path: str, state: Path) -> DirectoryFacts | None:
    """What is behind that path; None when nothing is. ``state`` is where our own state is.

    Of a link, and of what cannot be looked at, only that is told.
    """
    mounts = read()
    met = _walk(mounts, path)
    if not isinstance(met, tuple):
        return met
    mount, found = met
    room = os.statvfs(path)
    own = (("the root", Path("/")), ("the agent's own state", state))
    return DirectoryFacts(
        real=path,
        directory=stat.S_ISDIR(found.st_mode),
        writable=os.access(path, os.W_OK | os.X_OK),
        type=mount.kind,
        mount=mount.point,
        device=found.st_dev,
        total=room.f_blocks * room.f_frsize,
        free=room.f_bfree * room.f_frsize,
        system=tuple(what for what, place in own if _holds(mounts, place, found.st_dev, mount)),
    )


def device_of(path: str) -> int | None:
    """The device that a path is on; None when it is not there, a link, or not to be looked at."""
    met = _walk(read(), path)
    return met[1].st_dev if isinstance(met, tuple) else None


def _walk(mounts: list[Mount], path: str) -> tuple[Mount, os.stat_result] | DirectoryFacts | None:
    """What is behind a path, looked at from the root on; or why that is not looked at."""
    for place in [*reversed(Path(path).parents), Path(path)]:
        mount = _of(mounts, str(place))
        if mount.kind not in _LOCAL:
            return DirectoryFacts(path, type=mount.kind, mount=mount.point)
        try:
            found = place.lstat()
        except (OSError, ValueError):
            return None
        if stat.S_ISLNK(found.st_mode):
            return DirectoryFacts(str(place.parent / os.readlink(place)), type=mount.kind)  # noqa: PTH115
    return mount, found


def _holds(mounts: list[Mount], place: Path, device: int, mount: Mount) -> bool:
    """Whether a place is on that file system, or would be if it were there."""
    place = place.resolve()
    while not place.exists():
        place = place.parent
    # By its source as well: btrfs shows a device for each of its subvolumes.
    return place.stat().st_dev == device or _of(mounts, str(place)).source == mount.source


def _of(mounts: list[Mount], path: str) -> Mount:
    """The mount that a path is on: the deepest, and of those the last."""
    inside = [
        mount
        for mount in mounts
        if path == mount.point or path.startswith(mount.point.rstrip("/") + "/")
    ]
    return max(reversed(inside), key=lambda mount: len(mount.point), default=Mount("/", "", "", ""))
