"""Epochs: numbers that only grow, and that no two controllers share.

A store that was restored from a backup, or copied to a standby, counts again what
the other one has counted already: a counter alone would give two controllers the same
epoch, and neither could ever be fenced. Hence the lower digits are random. A node
obeys the higher of two, whichever that is, and never again the other.
"""

from __future__ import annotations

import secrets
from typing import Final

from chaos_core.errors import Fenced

_STARTS: Final = 1_000_000  # what one start is worth; below it is chance


def following(last: int, at_least: int = 0, *, chance: int | None = None) -> int:
    """The epoch of the start after ``last``, and not below ``at_least``."""
    digits = secrets.randbelow(_STARTS) if chance is None else chance % _STARTS
    return (max(last, at_least - 1) // _STARTS + 1) * _STARTS + digits


def check_newest(ours: int, newest: int) -> None:
    """Raise Fenced if another controller has been started on this store since."""
    if newest > ours:
        raise Fenced(
            f"another controller has been started on this store, with epoch {newest}; ours is"
            f" {ours}",
            hint="stop this one; nodes and runs are that one's now",
        )
