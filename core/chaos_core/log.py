"""Structured logs: one line an event, ``key=value``, nothing secret in them.

::

    info  in force  node=n1 run=r-2k7qd fault=0a1b2c3d

No time stamp: the journal, or whatever collects standard error, has a better one.
A value is one line, whatever is in it, and is cut where it gets too long to read.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Self

from chaos_core.text import printable

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/,%+@")
_LONGEST = 2_000  # bytes of one value


class Log:
    """A logger with fields bound to it, which stand on each of its lines."""

    def __init__(self, logger: logging.Logger, **bound: object) -> None:
        self._logger = logger
        self._bound = bound

    @classmethod
    def to_stderr(cls, component: str, *, debug: bool = False, **bound: object) -> Self:
        """A log of its own for ``component`` on standard error."""
        logger = logging.getLogger(component)
        logger.propagate = False
        logger.setLevel(logging.DEBUG if debug else logging.INFO)
        if not logger.handlers:
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(logging.Formatter("%(message)s"))
            logger.addHandler(handler)
        return cls(logger, **bound)

    def bind(self, **fields: object) -> Log:
        """The same log with more fields on each line."""
        return Log(self._logger, **{**self._bound, **fields})

    def debug(self, event: str, **fields: object) -> None:
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._write(logging.ERROR, event, fields)

    def _write(self, level: int, event: str, fields: dict[str, object]) -> None:
        if self._logger.isEnabledFor(level):
            words = [f"{key}={_text(value)}" for key, value in {**self._bound, **fields}.items()]
            name = logging.getLevelName(level).lower()
            self._logger.log(level, "%s", " ".join([f"{name:7}", event, "", *words]).rstrip())


def _text(value: object) -> str:
    text = printable(value, _LONGEST)
    return text if text and _PLAIN.issuperset(text) else json.dumps(text, ensure_ascii=False)
