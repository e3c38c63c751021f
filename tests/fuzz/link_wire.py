"""A controller with a valid certificate that has been taken over, against a real link.

The link relays to a keeper's end of a real ``keeper.sock``, behind which a real
Supervisor decides. Whatever the controller sends, the link goes on or dials again, and
the keeper's judge is content; a controller that has become honest again is obeyed.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc import aio
from tests.fuzz import fault_params, judge
from tests.fuzz.controller_wire import message
from tests.fuzz.dice import Dice, dumped
from tests.fuzz.harness import Check, Target
from tests.fuzz.pretend import VIEW, Kernel, Quiet, supervisor

from chaos_agent.allowed import KINDS, ProbeRules
from chaos_agent.config import AgentConfig
from chaos_agent.link import Link
from chaos_core import envelope
from chaos_core.envelope import PROFILES
from chaos_core.errors import InvalidInput
from chaos_core.messages import MAX_MESSAGE, Hello, to_keeper
from chaos_proto import pki
from chaos_proto.channel import SERVER_OPTIONS
from chaos_proto.credentials import Credentials
from chaos_proto.identity import Identity
from chaos_proto.v1 import chaos_pb2 as pb

_BEAT_S = 0.1
_AGAIN_S = 4.0  # for a link to dial again after the worst, on a loaded machine
Step = tuple[str, Any]


def _make(dice: Dice) -> list[Step]:
    return [_step(dice) for _ in range(dice.randrange(1, 8))]


def _step(dice: Dice) -> Step:
    match dice.randrange(12):
        case 0:
            return "end", dice.choice((0, 1, 7, 13, 14, 16))
        case 1:
            return "flood", dice.choice((300, 3_000))
        case 2:
            return "send", [dice.randbytes(dice.choice((1, 60, 70_000, 2_000_000)))]
        case 3:
            return "send", [_apply(dice)]
        case 4:
            return "send", [_watch(dice) for _ in range(dice.choice((1, 4, 40)))]
        case _:
            said = [message(dice, pb.ToAgent()).SerializeToString() for _ in range(4)]
            return "send", [dice.rarely(data, dice.damaged(data), sides=3) for data in said]


def _apply(dice: Dice) -> bytes:
    kind = dice.choice(("cpu.stress", "network.latency", "network.loss"))
    params = fault_params.text(dice, kind).replace("\\ud800", "?")
    fault = f"{dice.randrange(2**32):08x}"
    apply = pb.Apply(epoch=1, ttl_us=3_000_000, run="r-1", fault=fault, kind=kind, params=params)
    apply.seq, apply.duration_us = 0, 10_000_000
    return pb.ToAgent(apply=apply).SerializeToString()


def _watch(dice: Dice) -> bytes:
    """Something to look at, or no longer: as a controller would ask, or as none ever did."""
    name = dice.choice(("1", "2", dice.wire_text()))
    if dice.one_in(3):
        return pb.ToAgent(unwatch=pb.Unwatch(id=name)).SerializeToString()
    kind = dice.rarely(dice.choice(KINDS), "redis", "_watch", "os", "../x", dice.wire_text())
    fields: dict[str, Any] = {"from": "web", "metric": dice.choice(("cpu", "load", "count", "x"))}
    for name_of_one in dice.sample(_FIELDS, dice.randrange(5)):
        fields[name_of_one] = dice.rarely(dice.choice(_VALUES), dice.value())
    params = dice.rarely(dumped(fields), dice.nested(), dumped(dice.value()))
    watch = pb.Watch(id=name, kind=kind, params=params)
    return pb.ToAgent(watch=watch).SerializeToString()


_FIELDS = (
    *("url", "address", "name", "server", "command", "path", "unit", "cmdline", "rate"),
    *("interval", "timeout", "retries", "initial_delay", "mode", "method", "body_matches"),
)
_VALUES = (
    *("http://127.0.0.1:1/", "127.0.0.1:1", "localhost", "127.0.0.1", "true", "/proc/stat"),
    *("100ms", "1s", "60s", 1, 10, 100, 1_000, "GET", "POST", "(a+)+$", "nginx", "*a*a*a*b"),
)


class Rogue:
    """The controller's end: does what it is told on each stream that a link opens."""

    def __init__(self) -> None:
        self.honest = False
        self.heard = 0
        self.streams = 0
        self.last: pb.Heartbeat | None = None
        self._orders: asyncio.Queue[Step] = asyncio.Queue()

    async def play(self, steps: list[Step]) -> None:
        for step in steps:
            self._orders.put_nowait(step)
        async with asyncio.timeout(_AGAIN_S * (1 + len(steps))):
            await self._orders.join()

    async def session(self, requests: AsyncIterator[bytes], context: Any) -> None:
        self.streams += 1
        reader = asyncio.create_task(self._read(requests, context))
        try:
            while True:
                how, what = await self._orders.get()
                try:
                    if not await self._do(how, what, context):
                        return
                finally:
                    self._orders.task_done()
        finally:
            reader.cancel()

    async def _do(self, how: str, what: Any, context: Any) -> bool:
        """One step; False when the stream is over by it."""
        with contextlib.suppress(aio.UsageError, grpc.RpcError, asyncio.InvalidStateError):
            match how:
                case "end":
                    context.set_code(list(grpc.StatusCode)[what])
                    return False
                case "flood":
                    grant = pb.ToAgent(grant=pb.Grant(epoch=1, seq=1)).SerializeToString()
                    for _ in range(what):
                        await context.write(grant)
                case _:
                    for data in what:
                        await context.write(self._with_seq(data))
        return not context.cancelled()

    def _with_seq(self, data: bytes) -> bytes:
        """An apply of ours counts from the last heartbeat; all else goes as it is."""
        try:
            said = pb.ToAgent.FromString(data)
        except DecodeError:
            return data
        if said.HasField("apply") and not said.apply.seq and self.last is not None:
            said.apply.seq = self.last.seq
            return bytes(said.SerializeToString())
        return data

    async def _read(self, requests: AsyncIterator[bytes], context: Any) -> None:
        async for data in requests:
            said = pb.FromAgent.FromString(data)
            if said.HasField("heartbeat"):
                self.heard += 1
                self.last = said.heartbeat
                if self.honest:
                    grant = pb.Grant(epoch=2**62, seq=self.last.seq, ttl_us=1)
                    with contextlib.suppress(Exception):
                        await context.write(pb.ToAgent(grant=grant).SerializeToString())


class Keeper:
    """A keeper's end of the socket: real messages, a real Supervisor, a pretended kernel."""

    def __init__(self, path: Path, made: Any, kernel: Kernel) -> None:
        self.made = made
        self.kernel = kernel
        self.refused = 0
        self.obeyed = 0
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen(4)
        self._listener.setblocking(False)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            link, _ = await loop.sock_accept(self._listener)
            link.setblocking(False)
            hello = Hello(
                node="n1", version="1", boot_id="b", epoch=0, kinds={},
                envelope=envelope.as_json(PROFILES["staging"]),
            )  # fmt: skip
            tasks = [asyncio.create_task(self._read(link)), asyncio.create_task(self._beat(link))]
            try:
                await loop.sock_sendall(link, hello.model_dump_json().encode())
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            except OSError:
                pass
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                link.close()

    async def _read(self, link: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(link, MAX_MESSAGE + 1):
            try:
                self.made.obey(to_keeper(data), self.kernel.now)
                self.obeyed += 1
            except InvalidInput:
                self.refused += 1
            judge.within(PROFILES["staging"], VIEW, self.kernel.in_force())

    async def _beat(self, link: socket.socket) -> None:
        while True:
            self.kernel.now += int(_BEAT_S * 1_000_000)
            self.made.tick(self.kernel.now)
            judge.within(PROFILES["staging"], VIEW, self.kernel.in_force())
            data = self.made.heartbeat(self.kernel.now).model_dump_json().encode()
            await asyncio.get_running_loop().sock_sendall(link, data)
            await asyncio.sleep(_BEAT_S)

    def close(self) -> None:
        self._listener.close()


class _Stage:
    """All three, in one loop in a thread."""

    def __init__(self, directory: Path, made: Any, kernel: Kernel) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.rogue = Rogue()
        self._directory = directory
        self._made, self._kernel = made, kernel

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(120)

    async def start(self) -> None:
        home = self._directory
        made = pki.init(home / "pki", names=["127.0.0.1"])
        ca = pki.CA.load(made.directory)
        key, request = pki.new_key_and_csr()
        certificate = ca.sign_request(request, Identity.parse("agent/n1"))
        Credentials(key, certificate, ca.pem).write(home)
        pair = ca.controller(["127.0.0.1"])
        self._server = aio.server(options=SERVER_OPTIONS)
        session: Any = grpc.stream_stream_rpc_method_handler(self.rogue.session)
        service = grpc.method_handlers_generic_handler("chaos.v1.AgentLink", {"Session": session})
        self._server.add_generic_rpc_handlers((service,))
        port = self._server.add_secure_port(
            "127.0.0.1:0",
            grpc.ssl_server_credentials([pair], ca.pem, require_client_auth=True),
        )
        await self._server.start()
        self.keeper = Keeper(home / "keeper.sock", self._made, self._kernel)
        rules = ProbeRules(("127.0.0.1", "localhost"), ("/proc/stat",), {"true": ("/bin/true",)})
        config = AgentConfig("n1", f"127.0.0.1:{port}", runtime=home, pki=home, probes=rules)
        self._tasks = [
            asyncio.create_task(self.keeper.run()),
            asyncio.create_task(Link(config, Quiet()).run()),
        ]

    async def check(self, steps: list[Step]) -> None:
        """Play, then be honest: the link must carry heartbeats and grants again."""
        self.rogue.honest = False
        with contextlib.suppress(TimeoutError):
            await self.rogue.play(steps)
        self.alive()
        self.rogue.honest = True
        heard, obeyed = self.rogue.heard, self.keeper.obeyed
        async with asyncio.timeout(_AGAIN_S):
            while self.rogue.heard < heard + 2 or self.keeper.obeyed == obeyed:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        self.alive()

    def alive(self) -> None:
        for task in self._tasks:
            assert not task.done(), f"it ended: {task.exception()!r}"

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.stop(0)
        self.keeper.close()

    def close(self) -> None:
        self.run(self.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextmanager
def _open() -> Iterator[Check]:
    with (
        tempfile.TemporaryDirectory() as name,
        supervisor(PROFILES["staging"], Path(name)) as (made, kernel),
    ):
        stage = _Stage(Path(name), made, kernel)
        try:
            stage.run(stage.start())

            def check(steps: list[Step]) -> None:
                stage.run(stage.check(steps))

            yield check
        finally:
            stage.close()


TARGET = Target("link_wire", _make, _open, chunk=100_000)
