"""``tcp``, ``dns`` and ``grpc`` beside servers on loopback."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tests.services.looks import look
from tests.services.private import free_port

from chaos_core.units import Duration
from chaos_experiment.probes.dns import Dns
from chaos_experiment.probes.grpc import Grpc
from chaos_experiment.probes.tcp import Tcp

SHORT = Duration.parse("300ms")


def sockets() -> set[str]:
    return {str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if _is_socket(path)}


def _is_socket(path: Path) -> bool:
    try:
        return str(path.readlink()).startswith("socket:")
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_tcp(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    before = sockets()
    with socket.socket(family) as server:
        server.bind((address, 0))
        port = server.getsockname()[1]
        shown = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        refused = await look(Tcp(address=shown))
        assert (refused.ok, refused.value, refused.text) == (False, None, "connection refused")
        server.listen()
        seen = await look(Tcp(address=shown))
    assert (seen.ok, seen.text) == (True, "connected")
    assert seen.value is not None
    assert 0 < seen.value < 2_000_000
    assert sockets() == before


async def test_tcp_to_where_nothing_answers() -> None:
    with socket.socket() as server, socket.socket() as first, socket.socket() as second:
        server.bind(("127.0.0.1", 0))
        server.listen(0)  # one may wait; whoever comes later hears nothing
        for client in (first, second):
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        seen = await look(Tcp(address=f"127.0.0.1:{server.getsockname()[1]}", timeout=SHORT))
    assert (seen.ok, seen.text) == (False, "timed out after 300ms")
    lost = await look(Tcp(address="no.such.name.invalid:80"))
    assert lost.text.startswith("name not resolved")


class Names(asyncio.DatagramProtocol):
    """A name server that knows shop.test and answers nothing about silent.test."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, peer: Any) -> None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        name, kind = question.name.to_text(), question.rdtype.name
        answer = dns.message.make_response(query)
        if name == "silent.test.":
            return
        if name == "broken.test.":
            answer.set_rcode(dns.rcode.SERVFAIL)
        elif name != "shop.test.":
            answer.set_rcode(dns.rcode.NXDOMAIN)
        elif kind == "A":
            addresses = ("192.0.2.9", "192.0.2.7")
            answer.answer.append(dns.rrset.from_text(name, 1, "IN", "A", *addresses))
        self.transport.sendto(answer.to_wire(), peer)


async def test_dns() -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Names, ("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]

    async def said(name: str, **fields: object) -> tuple[bool, str]:
        given = {"name": name, "server": "127.0.0.1", "port": port, "timeout": "1s", **fields}
        seen = await look(Dns.model_validate(given))
        assert (seen.value is not None) == seen.ok
        return seen.ok, seen.text

    before = sockets()
    try:
        assert await said("shop.test") == (True, "192.0.2.7, 192.0.2.9")
        assert await said("shop.test", expect=["192.0.2.9"]) == (True, "192.0.2.7, 192.0.2.9")
        missing = "192.0.2.1 not in the answer: 192.0.2.7, 192.0.2.9"
        assert await said("shop.test", expect=["192.0.2.1"]) == (False, missing)
        assert await said("shop.test", type="AAAA") == (False, "shop.test has no AAAA record")
        assert await said("other.test") == (False, "there is no other.test")
        ok, text = await said("silent.test", timeout="300ms")
        assert not ok
        assert "time" in text
        ok, text = await said("broken.test")
        assert not ok
        assert "SERVFAIL" in text
        await asyncio.sleep(0)  # a transport closes its socket in the loop's next round
        assert sockets() == before
    finally:
        transport.close()


async def test_grpc() -> None:
    server = grpc.aio.server()
    service = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    address = f"127.0.0.1:{port}"
    await server.start()
    try:
        await service.set("", health_pb2.HealthCheckResponse.SERVING)
        await service.set("shop.Cart", health_pb2.HealthCheckResponse.NOT_SERVING)
        well = await look(Grpc(address=address))
        assert (well.ok, well.text) == (True, "SERVING")
        assert well.value is not None
        assert 0 < well.value < 2_000_000
        ill = await look(Grpc(address=address, service="shop.Cart"))
        assert (ill.ok, ill.value, ill.text) == (False, None, "NOT_SERVING")
        unknown = await look(Grpc(address=address, service="odd"))
        assert unknown.text.startswith("NOT_FOUND")
    finally:
        await server.stop(None)
    nobody = await look(Grpc(address=f"127.0.0.1:{free_port()}"))
    assert not nobody.ok
    assert nobody.text.startswith("UNAVAILABLE")
