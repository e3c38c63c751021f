"""Where the cgroup hierarchies are mounted, and which group of v2 is at a path."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from chaos_agent.linux.mounts import read


def unified_id(path: str) -> int:
    """Which cgroup v2 is at that path below the root: its inode. 0 when there is none."""
    root = mounts().get("unified")
    if root is None:
        return 0
    try:
        return (root / path.lstrip("/")).stat().st_ino
    except OSError:
        return 0


def services() -> set[int]:
    """The cgroups v2 of systemd's services, by their inodes. Empty without v2."""
    root = mounts().get("unified")
    found = set()
    for place in (root / "system.slice").glob("*.service") if root else ():
        with suppress(OSError):  # it ended meanwhile
            found.add(place.stat().st_ino)
    return found


def members(path: str) -> list[int]:
    """The processes in the group at that path, as systemd keeps its groups. None without it."""
    mounted = mounts()
    found: list[int] = []
    for hierarchy in ("unified", "name=systemd"):
        if root := mounted.get(hierarchy):
            with suppress(OSError):  # no such group, or not any more
                found += map(int, (root / path / "cgroup.procs").read_text().split())
    return sorted(set(found))


def mounts() -> dict[str, Path]:
    """Where the v1 hierarchies are, by controller, and v2 as ``unified``."""
    found: dict[str, Path] = {}
    for mount in read():
        if mount.kind in ("cgroup", "cgroup2"):
            names = ["unified"] if mount.kind == "cgroup2" else mount.options.split(",")
            for name in names:
                found.setdefault(name, Path(mount.point))
    return found


def lines(path: Path) -> list[str]:
    """Those of one of the kernel's small files."""
    return path.read_text().splitlines()
