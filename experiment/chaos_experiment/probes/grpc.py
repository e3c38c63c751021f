"""``grpc``: what the standard health service says (grpc.health.v1)."""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from chaos_experiment.probes import Context, Place, Probe, Seen, Unit
from chaos_experiment.probes._net import Address, split


class Grpc(Probe):
    """The time to connect and be told SERVING; any other answer is a failure."""

    kind = "grpc"
    summary = "the standard health service: SERVING or not"
    example: ClassVar[Mapping[str, Any]] = {"address": "cart:50051", "service": "shop.Cart"}
    place = Place.EITHER

    address: Address = Field(description="host and port")
    service: str = Field(
        default="", max_length=256, description="whose health; the whole server's unless said"
    )
    tls: bool = Field(default=False, description="whether to speak TLS")
    ca_file: Path | None = Field(default=None, description="whom to trust, if not the system's")

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
        await asyncio.to_thread(importlib.import_module, "grpc_health.v1.health_pb2_grpc")
        import grpc
        from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
        from grpc_health.v1.health_pb2_grpc import HealthStub

        begun = time.monotonic_ns()
        # A connection of its own, and to nobody else: no pool, no proxy.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        if self.tls:
            authorities = self.ca_file.read_bytes() if self.ca_file else None
            credentials = grpc.ssl_channel_credentials(authorities)
            channel = grpc.aio.secure_channel(self.address, credentials, options)
        else:
            channel = grpc.aio.insecure_channel(self.address, options)
        async with channel:
            try:
                answer = await HealthStub(channel).Check(HealthCheckRequest(service=self.service))
            except grpc.aio.AioRpcError as error:
                return Seen(False, None, f"{error.code().name}: {error.details()}")
        serving = answer.status == HealthCheckResponse.SERVING
        took = (time.monotonic_ns() - begun) / 1000
        return Seen(serving, took, HealthCheckResponse.ServingStatus.Name(answer.status))
