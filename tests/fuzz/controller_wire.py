"""Agents, operators and strangers against a controller over real gRPC and mTLS, on loopback.

All of them have valid certificates, or none. Meanwhile an honest agent's grants come in
time, an honest operator is answered, and the controller's memory stays what it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
from google.protobuf.descriptor import FieldDescriptor
from grpc import aio
from tests.controller.rig import Rig
from tests.fuzz.dice import Dice, dumped
from tests.fuzz.harness import Check, Target
from tests.fuzz.honest import HonestAgent, list_nodes

from chaos_core import envelope
from chaos_core.errors import ChaosError
from chaos_proto.v1 import chaos_pb2 as pb

GRANT_S = 1.5  # half of a lease, on a machine that does other things too
_GROWTH = 64 << 20  # bytes of the controller, once it is warm
_WARM = 50  # examples
_PATIENCE_S = 0.15
_CALLS = tuple(method.name for method in pb.DESCRIPTOR.services_by_name["Operator"].methods)
_SESSION = "/chaos.v1.AgentLink/Session"
Step = tuple[str, Any]
# What attackers are told, one way or another.
PART_OF_THE_GAME = (
    grpc.RpcError,
    ChaosError,
    TimeoutError,
    OSError,
    asyncio.InvalidStateError,  # a write to a stream that the controller has ended
)


def message(dice: Dice, made: Any, depth: int = 3) -> Any:
    """Fill a message with absurd values of the right types."""
    for field in made.DESCRIPTOR.fields:
        if dice.one_in(4):
            continue
        if field.message_type and field.message_type.GetOptions().map_entry:
            for _ in range(dice.randrange(3)):  # of texts, as all of ours are
                getattr(made, field.name)[dice.wire_text()] = dice.wire_text()
        elif field.is_repeated:
            many = getattr(made, field.name)
            for _ in range(dice.rarely(dice.randrange(3), 300, sides=40)):
                if field.message_type and field.message_type.GetOptions().map_entry:
                    key, value = field.message_type.fields
                    many[_scalar(dice, key)] = _scalar(dice, value)
                elif field.message_type and depth:
                    message(dice, many.add(), depth - 1)
                elif not field.message_type:
                    many.append(_scalar(dice, field))
        elif field.message_type and depth and not (field.containing_oneof and dice.one_in(2)):
            message(dice, getattr(made, field.name), depth - 1)
        elif not field.message_type:
            setattr(made, field.name, _scalar(dice, field))
    return made


def _scalar(dice: Dice, field: Any) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            return _word(dice, field.name)
        case FieldDescriptor.CPPTYPE_BOOL:
            return dice.one_in(2)
        case FieldDescriptor.CPPTYPE_DOUBLE:
            return dice.choice((0.0, -1.0, float("nan"), 1e300))
        case FieldDescriptor.CPPTYPE_UINT32:
            return dice.number() % 2**32
        case _:
            return dice.number() % 2**64


def _word(dice: Dice, name: str) -> str:
    known = {
        "node": ("bad", "honest", "n9"),
        "nodes": ("bad", "honest"),
        "state": ("applying", "in_force", "ended", "refused", "reverting"),
        "kind": ("network.latency", "cpu.stress"),
        "params": ('{"percent": "5%"}', dice.nested(), dumped(dice.value())),
        "envelope": (_ENVELOPE, dice.nested(), dumped(dice.value())),
        "identity": ("agent/bad", "operator/x", "root/x"),
    }
    huge = "y" * dice.choice((70_000, 130_000, 300_000))
    usual = dice.choice(known.get(name, ("",)))
    return dice.rarely(usual, dice.wire_text(), dice.wire_text(), huge, sides=4)


_ENVELOPE = dumped(envelope.as_json(envelope.PROFILES["lab"]))


def _hello(dice: Dice) -> bytes:
    if dice.one_in(3):
        return bytes(message(dice, pb.FromAgent()).SerializeToString())
    hello = pb.Hello(node="bad", version="1", boot_id=dice.wire_text(), envelope=_ENVELOPE)
    hello.epoch = dice.rarely(0, dice.number() % 2**64)
    return pb.FromAgent(hello=hello).SerializeToString()


def _said(dice: Dice) -> pb.FromAgent:
    if dice.one_in(3):
        return pb.FromAgent(observations=message(dice, pb.Observations()))
    return pb.FromAgent(heartbeat=message(dice, pb.Heartbeat()))


def _make(dice: Dice) -> list[Step]:
    return [_step(dice) for _ in range(dice.randrange(1, 5))]


def _step(dice: Dice) -> Step:
    match dice.randrange(6):
        case 0 | 1 | 2:
            beats = [
                _said(dice).SerializeToString()
                for _ in range(dice.rarely(dice.randrange(5), 150, sides=20))
            ]
            sent = [_hello(dice), *beats]
            if dice.one_in(3):
                dice.shuffle(sent)
            sent = [dice.rarely(data, dice.damaged(data), dice.randbytes(30)) for data in sent]
            who = dice.rarely("agent/bad", "viewer/bad", "operator/bad", "agent/other")
            return "session", (who, sent)
        case 3 | 4:
            call = dice.choice(_CALLS)
            request = message(dice, getattr(pb, f"{call}Request")()).SerializeToString()
            request = dice.rarely(request, dice.damaged(request), sides=4)
            who = dice.choice(("operator/bad", "viewer/bad", "agent/bad"))
            if call in ("Abort", "Resume") and who == "operator/bad":
                who = "viewer/bad"  # an operator may stop everything: that is no finding
            return "call", (who, f"/chaos.v1.Operator/{call}", request)
        case _:
            port = dice.choice(("main", "enrolment"))
            if dice.one_in(2):
                request = message(dice, pb.EnrolRequest()).SerializeToString()
                return "enrol", dice.rarely(request, dice.damaged(request), sides=3)
            return "tcp", (port, dice.choice((b"", b"\x16\x03\x01\xff\xff", dice.randbytes(200))))


class Attack:
    """Everybody's side of the wire, in one loop beside the controller's."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self._links: dict[str, aio.Channel] = {}
        self._held: list[asyncio.StreamWriter] = []

    async def step(self, step: Step) -> None:
        with contextlib.suppress(*PART_OF_THE_GAME):
            async with asyncio.timeout(3):
                await getattr(self, step[0])(step[1])

    async def session(self, what: tuple[str, list[bytes]]) -> None:
        who, sent = what
        stream: Any = self._link(who).stream_stream(_SESSION)()
        for data in sent:
            await stream.write(data)
        async with asyncio.timeout(_PATIENCE_S):
            while await stream.read() is not aio.EOF:
                pass

    async def call(self, what: tuple[str, str, bytes]) -> None:
        who, method, request = what
        ask: Any = self._link(who).unary_stream(method)
        answers = ask(request, timeout=_PATIENCE_S)
        async for _ in answers:
            pass

    async def enrol(self, request: bytes) -> None:
        port = self.rig.controller.enrolment_port
        credentials = grpc.ssl_channel_credentials(self.rig.ca.pem)
        async with aio.secure_channel(f"127.0.0.1:{port}", credentials) as link:
            ask: Any = link.unary_unary("/chaos.v1.Enrolment/Enrol")
            await ask(request, timeout=1)

    async def tcp(self, what: tuple[str, bytes]) -> None:
        """Say something that is not TLS, and hold on."""
        controller = self.rig.controller
        port = controller.port if what[0] == "main" else controller.enrolment_port
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(what[1])
        self._held.append(writer)
        if len(self._held) > 50:
            self._held.pop(0).close()

    def _link(self, who: str) -> aio.Channel:
        if who not in self._links:
            self._links[who] = self.rig.dial(who)
        return self._links[who]

    async def end(self) -> None:
        for writer in self._held:
            writer.close()
        for link in self._links.values():
            await link.close()


class Controller:
    """The program itself, in a process of its own; what it logs is kept."""

    def __init__(self, rig: Rig) -> None:
        config = rig.directory / "controller.toml"
        config.write_text(
            'listen = "127.0.0.1"\nport = 0\nenrolment_port = 0\n'
            f'pki = "{rig.made.directory}"\ndatabase = "{rig.config.database}"\n'
        )
        words = "import sys; from chaos_controller.main import run; run()"
        argv = [sys.executable, "-c", words, "run", "--config", str(config)]
        self.process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
        self.rss = psutil.Process(self.process.pid).memory_info
        self.log: list[str] = []
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r" port=(\d+) enrolment_port=(\d+)", line):
                self.port, self.enrolment_port = map(int, found.groups())
                break
        else:
            raise AssertionError(f"the controller did not start: {self.log}")
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            del self.log[:-2_000]

    def escaped(self) -> str:
        """What of its log is no line of ours: a traceback, or something that broke out of one."""
        levels = ("info ", "warning", "error")
        strange = [
            line
            for line in list(self.log)
            if not line.startswith(levels) or not line.rstrip("\n").isprintable()
        ]
        return "".join(strange[:40])

    def stop(self) -> None:
        """As systemd does it: a stream that ends at this very moment can keep gRPC waiting."""
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)
        self._reader.join()


class Stage:
    """A controller, an honest agent and operator, and the attack, in a loop of their own."""

    def __init__(self, directory: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.rig = Rig(directory)
        self.controller = Controller(self.rig)
        self.rig.controller = self.controller  # type: ignore[assignment]
        self.honest = HonestAgent(self.rig, "honest")
        self.attack = Attack(self.rig)

    def run(self, work: Coroutine[Any, Any, Any], timeout_s: float = 120) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    async def start(self) -> None:
        await self.honest.__aenter__()
        for who in ("agent/bad", "agent/other", "operator/bad", "viewer/bad"):
            self.rig.home(who)

    async def check(self, steps: list[Step]) -> None:
        """Play the steps; then the honest ones must not have noticed."""
        for step in steps:
            await self.attack.step(step)
        await self.judge()

    async def judge(self) -> None:
        assert self.controller.process.poll() is None, f"it died: {self.controller.log[-20:]}"
        assert not self.controller.escaped(), self.controller.escaped()
        assert not self.honest.problem, f"the honest stream ended: {self.honest.problem}"
        waited = max(self.honest.slowest, self.honest.waiting())
        assert waited < GRANT_S, f"a grant took {waited:.2f} s"
        nodes = {node.name: node for node in (await list_nodes(self.rig)).nodes}
        assert nodes["honest"].state == "connected"
        for node in nodes.values():
            texts = (*node.quarantine, node.version, node.boot_id, *(f.detail for f in node.faults))
            assert all(text.isprintable() for text in texts), f"{texts!r:.500}"

    async def _leave(self) -> None:
        await self.attack.end()
        await self.honest.__aexit__()

    def close(self) -> None:
        self.run(self._leave())
        self.controller.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextmanager
def stage() -> Iterator[Stage]:
    """Set everything up."""
    with tempfile.TemporaryDirectory() as name:
        made = Stage(Path(name))
        try:
            made.run(made.start())
            yield made
        finally:
            made.close()


@contextmanager
def _open() -> Iterator[Check]:
    with stage() as made:
        before = 0
        count = 0

        def check(steps: list[Step]) -> None:
            nonlocal before, count
            made.run(made.check(steps))
            count += 1
            if count == _WARM:
                before = made.controller.rss().rss
            elif count > _WARM:
                grown = made.controller.rss().rss - before
                assert grown < _GROWTH, f"the controller's memory grew by {grown >> 20} MiB"

        yield check


TARGET = Target("controller_wire", _make, _open, chunk=100_000)
