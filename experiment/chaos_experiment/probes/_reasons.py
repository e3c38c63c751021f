"""Why a look failed, in the words of an operator."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Iterator
from typing import Final

from chaos_core.errors import ChaosError
from chaos_core.units import Duration

_WORDS: Final = {
    errno.ECONNREFUSED: "connection refused",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "network unreachable",
    errno.ETIMEDOUT: "connection timed out",
    errno.EMFILE: "this machine has no file descriptor left",
}


def timed_out(after: Duration) -> str:
    return f"timed out after {after}"


def reason(error: BaseException) -> str:
    """The innermost cause that says something; else the error's own words."""
    for cause in _causes(error):
        match cause:
            case ChaosError():
                return cause.what
            case socket.gaierror():
                return f"name not resolved: {cause.strerror}"
            case ssl.SSLCertVerificationError():
                return f"certificate not trusted: {cause.verify_message}"
            case ssl.SSLError():
                return f"TLS: {cause.reason or cause}"
            case asyncio.IncompleteReadError():
                return "connection closed before an answer"
            case ConnectionResetError() | BrokenPipeError():
                return "connection reset"
            case OSError(errno=int(number)) if number in _WORDS:
                return _WORDS[number]
            case OSError(errno=int(number), filename=None):
                return os.strerror(number) if number > 0 else str(cause)
            case OSError(filename=name) if name:
                return f"{name}: {cause.strerror}"
    return str(error) or type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all that it came of, innermost first; our own errors say it all.

    A suppressed context counts: httpcore raises «from None» what says least.
    """
    if not isinstance(error, ChaosError):
        within = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
        before = error.__cause__ or error.__context__
        for inner in (*within, *([before] if before else [])):
            yield from _causes(inner)
    yield error
