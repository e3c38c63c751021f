"""What the kinds that speak HTTP share: addresses, trust, and JSON over it.

Proxies of the environment are not asked and redirects not followed: a probe talks to the host
that its URL names, which is the one that was checked, and to no other.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import ssl
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator

if TYPE_CHECKING:
    import httpx

MAX_BODY: Final = 4 * 1024 * 1024  # bytes that are read of an answer


def _checked(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{text!r} is not a URL: write it like http://shop:8080/health")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a scenario holds no password: take it out of the URL")
    if parts.port == 0:
        raise ValueError("there is no port 0")
    return text


Url = Annotated[str, AfterValidator(_checked)]


def host_of(url: str) -> str:
    return urlsplit(url).hostname or ""


@lru_cache(maxsize=32)
def trust(url: str, verify: bool, ca_file: Path | None) -> ssl.SSLContext:
    """Whom to trust at that URL. Reads the file the first time; raises OSError."""
    if urlsplit(url).scheme == "http":
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # never used
    if ca_file and not ca_file.is_file():
        raise FileNotFoundError(2, "no such file", str(ca_file))
    context = ssl.create_default_context(cafile=ca_file)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def read(response: httpx.Response) -> bytes:
    """The answer's body, to its end, so that the connection can be used again."""
    body = bytearray()
    async for part in response.aiter_bytes():
        body += part
        if len(body) > MAX_BODY:
            raise ValueError(f"an answer of more than {MAX_BODY} bytes")
    return bytes(body)


async def get(
    url: str, query: Mapping[str, str | list[str]], verify: bool, ca_file: Path | None
) -> tuple[int, bytes]:
    """GET on a connection of its own: the status and the body."""
    httpx = await asyncio.to_thread(importlib.import_module, "httpx")
    transport = httpx.AsyncHTTPTransport(verify=trust(url, verify, ca_file))
    async with transport:
        response = await transport.handle_async_request(httpx.Request("GET", url, params=query))
        try:
            return response.status_code, await read(response)
        finally:
            await response.aclose()


async def get_json(
    url: str, query: Mapping[str, str | list[str]], verify: bool, ca_file: Path | None
) -> tuple[int, Any]:
    """The same, with the body if that is JSON; else None."""
    status, body = await get(url, query, verify, ca_file)
    try:
        return status, json.loads(body)
    except (ValueError, RecursionError):
        return status, None
