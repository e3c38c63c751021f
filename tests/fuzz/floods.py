"""Much at once: messages, connections, handshakes and streams that never end.

Each flood goes on until it is told to stop, beside an honest agent and operator.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from grpc import aio
from tests.controller.rig import Agent, Rig
from tests.fuzz.controller_wire import PART_OF_THE_GAME, Stage

from chaos_proto.credentials import Credentials
from chaos_proto.v1 import chaos_pb2 as pb
from chaos_proto.v1 import chaos_pb2_grpc as rpc

Flood = Callable[[Rig, int], Awaitable[str]]
_HUGE = 100 << 20


def channel_credentials(home: Path) -> grpc.ChannelCredentials:
    us = Credentials.read(home)
    return grpc.ssl_channel_credentials(us.ca, us.key, us.certificate)


async def huge_message(rig: Rig, _: int) -> str:
    """One heartbeat of 100 MiB: refused by its length. Returns the status."""
    options = (("grpc.max_send_message_length", -1),)
    home = rig.home("agent/bad")
    credentials = channel_credentials(home)
    async with aio.secure_channel(rig.address, credentials, options=options) as link:
        stream: Any = link.stream_stream("/chaos.v1.AgentLink/Session")()
        with contextlib.suppress(*PART_OF_THE_GAME):
            await stream.write(b"\x12" + b"\0" * _HUGE)
            await stream.read()
        return str((await stream.code()).name)


async def messages(rig: Rig, size: int) -> str:
    """As many heartbeats as will go, dialling again whenever cut off."""
    sent = 0
    async with rig.dial("agent/bad") as link:
        while sent < size:
            stream = rpc.AgentLinkStub(link).Session()
            with contextlib.suppress(*PART_OF_THE_GAME):
                await stream.write(pb.FromAgent(hello=Agent(rig, "bad").hello()))
                for number in range(1_000):
                    await stream.write(pb.FromAgent(heartbeat=pb.Heartbeat(seq=number)))
                    sent += 1
            sent += 1
    return f"{sent} messages"


async def calls(rig: Rig, size: int) -> str:
    """Calls by a viewer as fast as they go, each with the largest request that is read."""
    refused = 0
    async with rig.dial("viewer/bad") as link:
        stub = rpc.OperatorStub(link)
        for _ in range(size // 50):
            many = [stub.GetRun(pb.GetRunRequest(id="x" * 60_000), timeout=5) for _ in range(50)]
            for answer in await asyncio.gather(*many, return_exceptions=True):
                refused += "calls a second" in str(answer)
    return f"{refused} of {size} refused for their number"


async def connections(rig: Rig, size: int) -> str:
    """Connections with a whole handshake and a watch that nobody reads."""
    links = [_own_channel(rig, number) for number in range(size)]
    watches = [rpc.OperatorStub(link).Watch(pb.WatchRequest()) for link in links]
    await asyncio.gather(*(_initial(watch) for watch in watches))
    await asyncio.sleep(0.5)
    for link in links:
        await link.close()
    return f"{size} connections"


async def loris(rig: Rig, size: int) -> str:
    """Handshakes that are begun and never finished, at both ports."""
    ports = (rig.controller.port, rig.controller.enrolment_port)
    hello = _client_hello()
    writers = []
    for number in range(size):
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", ports[number % 2])
            writer.write(hello[: number % len(hello)])
            writers.append(writer)
    await asyncio.sleep(0.5)
    for writer in writers:
        writer.close()
    return f"{len(writers)} handshakes"


async def enrolments(rig: Rig, size: int) -> str:
    """Enrolments that are begun and never say what they want, each on a connection of its own."""
    where = f"127.0.0.1:{rig.controller.enrolment_port}"
    credentials = grpc.ssl_channel_credentials(rig.ca.pem)
    links = [
        aio.secure_channel(where, credentials, options=(("chaos.number", number),))
        for number in range(min(size, 60))
    ]

    async def never() -> AsyncIterator[bytes]:
        await asyncio.sleep(3_600)
        yield b""

    calls: list[Any] = [link.stream_unary("/chaos.v1.Enrolment/Enrol") for link in links]
    begun = [call(never()) for call in calls]
    await asyncio.sleep(0.5)
    async with aio.secure_channel(where, credentials) as link:
        try:
            await rpc.EnrolmentStub(link).Enrol(pb.EnrolRequest(token="x"), timeout=5)
            said = ""
        except grpc.RpcError as error:
            said = str(error.details())
    for one in begun:
        one.cancel()
    for link in links:
        await link.close()
    assert "certificate request" in said, f"somebody else's enrolment was held up: {said}"
    return f"{len(begun)} enrolments"


FLOODS: tuple[Flood, ...] = (huge_message, messages, calls, connections, loris, enrolments)


async def play(stage: Stage, size: int) -> list[str]:
    """All floods, one after the other; after each the honest ones must not have noticed."""
    told = []
    for flood in FLOODS:
        stage.honest.slowest = 0.0
        outcome = await flood(stage.rig, size)
        await stage.judge()
        told.append(f"{flood.__name__}: {outcome}; slowest grant {stage.honest.slowest:.2f} s")
    return told


def _own_channel(rig: Rig, number: int) -> aio.Channel:
    """A channel whose connection no other channel shares."""
    home = rig.home("viewer/bad")
    credentials = channel_credentials(home)
    return aio.secure_channel(rig.address, credentials, options=(("chaos.number", number),))


async def _initial(watch: aio.UnaryStreamCall[pb.WatchRequest, pb.RunEvent]) -> None:
    with contextlib.suppress(*PART_OF_THE_GAME):
        async with asyncio.timeout(0.2):
            await watch.initial_metadata()


def _client_hello() -> bytes:
    """How a TLS handshake begins."""
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    secure = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        secure.do_handshake()
    return outgoing.read()
