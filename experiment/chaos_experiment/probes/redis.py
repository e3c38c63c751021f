"""``redis``: how long a PING takes, or a figure of INFO."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from chaos_experiment.probes import Context, Name, Probe, Seen, Unit
from chaos_experiment.probes._net import Address, connected, split
from chaos_experiment.probes._numbers import number_or_text


class Redis(Probe):
    """The time to connect and be answered a PING, or what INFO says of ``field``."""

    kind = "redis"
    summary = "PING latency, or a figure of INFO"
    example: ClassVar[Mapping[str, Any]] = {"address": "cache:6379"}

    address: Address = Field(description="host and port")
    field: str = Field(
        default="", pattern=r"^[a-z0-9_]{0,64}$", description="of INFO, like connected_slaves"
    )
    password: Name | None = Field(default=None, description="name of the controller's secret")

    @property
    def unit(self) -> Unit:
        return "" if self.field else "duration"

    @property
    def latency(self) -> bool:
        return not self.field

    def hosts(self) -> tuple[str, ...]:
        return (split(self.address)[0],)

    async def measure(self, context: Context) -> Seen:
        secret = context.secret(self.password) if self.password else ""
        begun = time.monotonic_ns()
        async with connected(self.address) as (reader, writer):
            if secret:
                writer.write(_command("AUTH", secret))
                await _reply(reader)
            writer.write(_command("INFO") if self.field else b"PING\r\n")
            answer = await _reply(reader)
        if not self.field:
            return Seen(answer == "PONG", (time.monotonic_ns() - begun) / 1000, answer)
        for line in answer.splitlines():
            name, _, value = line.partition(":")
            if name == self.field:
                return number_or_text(value)
        return Seen(False, None, f"INFO says nothing of {self.field}")

    async def check(self, context: Context) -> None:
        if self.password:
            context.secret(self.password)


def _command(*words: str) -> bytes:
    parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
    return f"*{len(words)}\r\n{''.join(parts)}".encode()


async def _reply(reader: asyncio.StreamReader) -> str:
    """A simple or bulk string (RESP 2). Raises ValueError in the server's words for an error."""
    line = (await reader.readuntil(b"\r\n")).decode(errors="replace").rstrip()
    sign, text = line[:1], line[1:]
    if sign == "$" and text.isdecimal() and int(text) <= 1024 * 1024:
        return (await reader.readexactly(int(text) + 2))[:-2].decode(errors="replace")
    if sign != "+":
        raise ValueError(text if sign == "-" else f"no answer of Redis: {line[:60]}")
    return text
