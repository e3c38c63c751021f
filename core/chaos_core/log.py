"""Structured logs: one line an event, ``key=value``, nothing secret in them.

::

    info  in force  node=n1 run=r-2k7qd fault=0a1b2c3d

No time stamp: the journal, or whatever collects standard error, has a better one.
A value is one line, whatever is in it, and is cut where it gets too long to read.
Who logs never waits for who reads: lines that find no room are counted, and the count is logged.
"""

from __future__ import annotations

import json
import logging
import select
import sys
from typing import Self, TextIO

from chaos_core.text import printable

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/,%+@")
_LONGEST = 2_000  # bytes of one value
_AT_ONCE = 4_000  # PIPE_BUF (pipe(7)) with some room for the count of lost lines


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
            handler = _Unhurried(sys.stderr)
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


class _Unhurried(logging.StreamHandler[TextIO]):
    """Leaves lines out, and counts them, while the stream would make their writer wait."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        if not self._has_room():
            self._lost += 1
            return
        if self._lost:
            self.stream.write(f"warning lines lost  count={self._lost}\n")
            self._lost = 0
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        """One line, no longer than what a pipe or socket that has room takes at once."""
        data = super().format(record).encode()
        return data[:_AT_ONCE].decode(errors="ignore")

    def _has_room(self) -> bool:
        try:
            asked = select.poll()
            asked.register(self.stream.fileno(), select.POLLOUT)
            return bool(asked.poll(0))
        except (OSError, ValueError):  # not a file at all
            return True


def _text(value: object) -> str:
    text = printable(value, _LONGEST)
    return text if text and _PLAIN.issuperset(text) else json.dumps(text, ensure_ascii=False)
