"""``dns``: how long a look-up takes, and what it gives."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from chaos_core.units import SECOND
from chaos_experiment.probes import Context, Place, Probe, Seen, Unit


class Dns(Probe):
    """The time until the answer. It asks the servers of resolv.conf, or one of its own; no
    cache and no /etc/hosts between. ``text`` lists the addresses."""

    kind = "dns"
    summary = "look a name up: latency, and what it gives"
    example: ClassVar[Mapping[str, Any]] = {"name": "shop.example.org", "expect": ["192.0.2.7"]}
    place = Place.EITHER

    name: str = Field(min_length=1, max_length=253, description="to look up")
    type: Literal["A", "AAAA"] = Field(default="A", description="of its records")
    server: str | None = Field(default=None, description="address of the server to ask")
    port: int = Field(default=53, ge=1, le=65535, description="of that server")
    expect: tuple[str, ...] = Field(
        default=(), max_length=20, description="addresses that must be in the answer"
    )

    @field_validator("server")
    @classmethod
    def _server_is_an_address(cls, value: str | None) -> str | None:
        return value and str(ipaddress.ip_address(value))

    @field_validator("expect")
    @classmethod
    def _expects_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(ipaddress.ip_address(each)) for each in value)

    @property
    def unit(self) -> Unit:
        return "duration"

    @property
    def latency(self) -> bool:
        return True

    def hosts(self) -> tuple[str, ...]:
        return (self.server,) if self.server else ()

    async def measure(self, context: Context) -> Seen:
        del context
        import dns.asyncresolver
        import dns.resolver

        begun = time.monotonic_ns()
        resolver = dns.asyncresolver.Resolver(configure=self.server is None)
        resolver.cache = None
        if self.server:
            resolver.nameservers, resolver.port = [self.server], self.port
        try:
            answer = await resolver.resolve(
                self.name, self.type, search=False, lifetime=self.timeout / SECOND
            )
        except dns.resolver.NXDOMAIN:
            return Seen(False, None, f"there is no {self.name}")
        except dns.resolver.NoAnswer:
            return Seen(False, None, f"{self.name} has no {self.type} record")
        except dns.resolver.LifetimeTimeout:
            return Seen(False, None, "no server answered in time")
        except dns.resolver.NoNameservers as error:
            return Seen(False, None, str(error))
        took = (time.monotonic_ns() - begun) / 1000
        found = sorted(record.to_text() for record in answer)
        missing = set(self.expect) - set(found)
        text = ", ".join(found)
        if missing:
            return Seen(False, None, f"{', '.join(sorted(missing))} not in the answer: {text}")
        return Seen(True, took, text)
