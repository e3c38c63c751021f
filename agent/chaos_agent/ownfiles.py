"""Files of our own in directories of our own: never somebody else's, never through a link.

A journal that others could write would let them name what root takes off; a lock or a
socket in a directory of theirs would be theirs to swap. So both are looked at after they
were opened, not before, and what is not ours is refused with nothing changed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from pathlib import Path

from chaos_core.errors import Refused

_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE, linux/falloc.h; fallocate(2)


def make_directory(path: Path, mode: int) -> None:
    """Make ``path`` if it is not there. Raises Refused unless only we can write to it."""
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
        info = path.stat()
    except OSError as error:
        raise Refused(f"not a directory that can be used: {error.strerror}", where=str(path)) from (
            None
        )
    if info.st_uid != os.geteuid() or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Refused(
            "others than this process's user can write there",
            where=str(path),
            hint=f"look at what is in it, then: chown root {path} && chmod go-w {path}",
        )


def open_own(path: Path, flags: int) -> int:
    """Open a regular file of ours, made with mode 0600 if ``flags`` say so.

    Raises Refused for anything else in its place (a link, a pipe, a file of another
    user), OSError for what the kernel refuses.
    """
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    info = os.fstat(fd)
    problem = ""
    if not stat.S_ISREG(info.st_mode):
        problem = "not a regular file"
    elif info.st_uid != os.geteuid():
        problem = f"belongs to user {info.st_uid}"
    elif info.st_nlink != 1:
        problem = "has a second name somewhere"
    if problem:
        os.close(fd)
        raise Refused(problem, where=str(path), hint="move it away")
    return fd


def reserve(fd: int, offset: int, length: int) -> None:
    """Set blocks aside for what will be written there; the file does not become longer.

    Raises OSError, with nothing changed, when the disk has none. A file system that cannot set
    any aside (EOPNOTSUPP) promises nothing.
    """
    disk = os.fstatvfs(fd)
    if disk.f_blocks and disk.f_bavail * disk.f_frsize < length:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # ext4 looks for seconds
    libc = ctypes.CDLL(None, use_errno=True)
    given = ctypes.c_int(fd), _KEEP_SIZE, ctypes.c_int64(offset), ctypes.c_int64(length)
    while libc.fallocate64(*given):
        number = ctypes.get_errno()
        if number == errno.EOPNOTSUPP:
            return
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
