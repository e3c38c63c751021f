"""``tcp``: how long a connection takes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from chaos_experiment.probes import Context, Place, Probe, Seen, Unit
from chaos_experiment.probes._net import Address, connected, split


class Tcp(Probe):
    """The time until the connection is made, the look-up of its name included."""

    kind = "tcp"
    summary = "connect to a port, and hang up"
    example: ClassVar[Mapping[str, Any]] = {"address": "shop:5432"}
    place = Place.EITHER

    address: Address = Field(description="host and port")

    @property
    def unit(self) -> Unit:
        return "duration"

    @property
    def latency(self) -> bool:
        return True

    def hosts(self) -> tuple[str, ...]:
        return (split(self.address)[0],)

    async def measure(self, context: Context) -> Seen:
        del context
        begun = time.monotonic_ns()
        async with connected(self.address):
            return Seen(True, (time.monotonic_ns() - begun) / 1000, "connected")
