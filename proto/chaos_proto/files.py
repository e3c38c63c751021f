"""Files that must appear whole or not at all, and keys that only their owner may read."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from chaos_core.errors import InvalidInput

PRIVATE = 0o600
PUBLIC = 0o644


def write(path: Path, data: bytes, mode: int = PUBLIC, gid: int = -1) -> None:
    """Write ``path`` atomically with ``mode``, flushed to disk; ``gid`` changes its group.

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
            if gid >= 0:
                os.fchown(file.fileno(), -1, gid)
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
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


def unwritable(path: Path, error: OSError) -> InvalidInput:
    """The error for a path that cannot be written."""
    return InvalidInput(f"cannot write it: {error.strerror}", where=str(path))
