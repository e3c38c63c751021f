"""Addresses as scenarios write them, and connections to them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def split(address: str) -> tuple[str, int]:
    """Host and port of ``shop:80`` or ``[fd00::1]:80``. Raises ValueError."""
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or parts.path or parts.username is not None:
        raise ValueError(f"{address!r} is not host and port: write it like shop:80 or [fd00::1]:80")
    return host, port


def _checked(address: str) -> str:
    split(address)
    return address


Address = Annotated[str, AfterValidator(_checked)]


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Streams]:
    """To the first of the name's addresses that takes it, closed at the end. Raises OSError."""
    host, port = split(address)
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for number, (*_, target) in enumerate(found, 1):
        try:
            reader, writer = await asyncio.open_connection(str(target[0]), port)
            break
        except OSError:
            if number == len(found):
                raise
    try:
        yield reader, writer
    finally:
        writer.transport.abort()  # at once: a peer that is cut off would never let it close
        with suppress(OSError):
            await writer.wait_closed()
