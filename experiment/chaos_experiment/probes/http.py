"""``http``: an open-loop load, and what each request of it met."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from chaos_core.units import SECOND
from chaos_experiment.probes import Context, Look, Place, Probe, Seen, Unit
from chaos_experiment.probes._web import Url, host_of, read, trust

if TYPE_CHECKING:
    import httpx

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
MAX_CONNECTIONS: Final = 500  # more requests than that wait for one of them, and count so
_MAX_WAITING: Final = 10_000  # requests, as ``_watch`` bounds them


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return text


def _header(text: str) -> str:
    if not text.isprintable() or not text.isascii():
        raise ValueError("a header is printable ASCII")
    return text


Header = Annotated[str, Field(max_length=4096), AfterValidator(_header)]
Status = Annotated[int, Field(ge=100, le=599)]


class Http(Probe):
    """``rate`` requests a second, sent when they are due, whatever became of those before.

    A latency counts from then until the last byte of the answer. ``text`` is the status, or
    why there is none. Redirects are answers, and not followed.
    """

    kind = "http"
    summary = "requests a second, sent open-loop: latency, errors, body"
    example: ClassVar[Mapping[str, Any]] = {"url": "http://shop:8080/health", "rate": 20}
    place = Place.EITHER

    url: Url = Field(description="what to ask for")
    rate: float = Field(default=10, ge=0.1, le=1000, description="requests a second")
    method: Method = Field(default="GET", description="of the requests")
    headers: dict[Header, Header] = Field(default={}, description="of the requests")
    body: str = Field(default="", max_length=65536, description="of the requests")
    expect_status: tuple[Status, ...] = Field(
        default=(), max_length=20, description="good answers; those below 400 unless said"
    )
    body_contains: str = Field(default="", max_length=1024, description="what a good answer has")
    body_matches: Annotated[str, AfterValidator(_pattern)] = Field(
        default="", max_length=256, description="a good answer has a match of this expression"
    )
    verify: bool = Field(default=True, description="whether the certificate must be trusted")
    ca_file: Path | None = Field(
        default=None, description="whom to trust, if not the system's list"
    )

    @model_validator(mode="before")
    @classmethod
    def _one_status(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("expect_status"), int | str):
            return {**data, "expect_status": (data["expect_status"],)}
        return data

    @model_validator(mode="after")
    def _can_be_sent(self) -> Self:
        if "interval" in self.model_fields_set:
            raise ValueError("interval: requests are sent at a rate; write rate")
        if self.retries:
            raise ValueError("retries: a load that hides its failures measures nothing")
        if self.rate * self.timeout / SECOND > _MAX_WAITING:
            raise ValueError(
                f"timeout: {self.rate:g} requests a second that wait {self.timeout} each are "
                f"more than {_MAX_WAITING}"
            )
        return self

    @property
    def unit(self) -> Unit:
        return "duration"

    @property
    def latency(self) -> bool:
        return True

    def due(self, number: int) -> int:
        return round(number * SECOND / self.rate)

    def hosts(self) -> tuple[str, ...]:
        return (host_of(self.url),)

    def load(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)

    async def measure(self, context: Context) -> Seen:
        async with self.session(context) as look:
            return await look()

    @asynccontextmanager
    async def session(self, context: Context) -> AsyncIterator[Look]:
        del context
        load = _Load(self)
        with suppress(OSError):  # the first look will say so
            await asyncio.to_thread(load.open)
        try:
            yield load.send
        finally:
            await load.close()

    def judge(self, status: int, body: bytes) -> Seen:
        """Whether that is a good answer."""
        text = f"status {status}"
        if status not in self.expect_status if self.expect_status else status >= 400:
            return Seen(False, None, text)
        if self.body_contains or self.body_matches:
            shown = body.decode(errors="replace")
            if self.body_contains not in shown:
                return Seen(False, None, f"{text}, without {self.body_contains!r} in the body")
            if not re.search(self.body_matches, shown):
                return Seen(False, None, f"{text}, no match of {self.body_matches!r} in the body")
        return Seen(True, None, text)


class _Load:
    """The connections of one load, kept open between requests.

    The transport without httpx's client around it: no redirects, cookies or proxies, and
    half of the processor's time.
    """

    def __init__(self, probe: Http) -> None:
        self._probe = probe
        self._free = asyncio.Semaphore(MAX_CONNECTIONS)
        self._transport: httpx.AsyncHTTPTransport | None = None

    def open(self) -> None:
        """Blocks, as loading a library and a list of authorities does. Raises OSError."""
        import anyio.lowlevel
        import httpx

        # Here, since it loads more when it is first used, which would delay the first look.
        asyncio.run(anyio.lowlevel.checkpoint())
        probe = self._probe
        self._request = partial(
            httpx.Request,
            probe.method,
            httpx.URL(probe.url),
            headers=probe.headers,
            content=probe.body.encode(),
        )
        self._transport = httpx.AsyncHTTPTransport(
            verify=trust(probe.url, probe.verify, probe.ca_file),
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS),
        )

    async def send(self) -> Seen:
        begun = time.monotonic_ns()
        if self._transport is None:  # what was in the way may have gone since
            await asyncio.to_thread(self.open)
        assert self._transport is not None
        async with self._free:
            response = await self._transport.handle_async_request(self._request())
            try:
                body = await read(response)
            finally:
                await response.aclose()
        seen = self._probe.judge(response.status_code, body)
        return Seen(seen.ok, (time.monotonic_ns() - begun) / 1000, seen.text)

    async def close(self) -> None:
        if self._transport is not None:
            await self._transport.aclose()
