"""Files that must appear whole or not at all, and keys that only their owner may read."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from chaos_core.errors import InvalidInput

PRIVATE = 0o600
PUBLIC = 0o644


def write(path: Path, data: bytes, mode: int = PUBLIC, *, uid: int = -1, gid: int = -1) -> None:
    """Write ``path`` atomically with ``mode``, flushed to disk; ``uid``, ``gid`` change its owner.

    The mode is right from the first byte on: a key is never readable by others,
    not even for a moment. Raises InvalidInput when it cannot be written.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise unwritable(path, error) from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            if (uid, gid) != (-1, -1):
                os.fchown(file.fileno(), uid, gid)
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
        _flush(path.parent)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise unwritable(path, error) from None


def read(path: Path, hint: str = "") -> bytes:
    """Read a whole file. Raises InvalidInput naming it and the reason."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(
            f"cannot read it: {error.strerror}", where=str(path), hint=hint
        ) from None


def read_key(path: Path, hint: str = "") -> bytes:
    """Read a file with a private key. Raises InvalidInput also when everybody may read it."""
    data = read(path, hint)
    if path.stat().st_mode & 0o007:
        raise InvalidInput(
            "everybody on this machine can read this private key",
            where=str(path),
            hint=f"chmod o= {path}; if others use this machine, revoke it: chaosctl pki revoke",
        )
    return data


def _flush(directory: Path) -> None:
    """Make a rename in ``directory`` survive a power cut."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def unwritable(path: Path, error: OSError) -> InvalidInput:
    """The error for a path that cannot be written."""
    return InvalidInput(f"cannot write it: {error.strerror}", where=str(path))
