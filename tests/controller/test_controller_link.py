"""The real link between a pretended keeper and a real controller: renewal, and what it says."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import logging
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from chaos_agent.allowed import ProbeRules
from chaos_agent.config import AgentConfig
from chaos_agent.link import Link
from chaos_controller import clock
from chaos_core import envelope
from chaos_core.faults import kinds
from chaos_core.log import Log
from chaos_core.messages import Apply, FaultStatus, Grant, Heartbeat, Hello, Revert, to_keeper
from chaos_core.units import Duration
from chaos_proto import enrol, pki
from chaos_proto.credentials import Credentials
from chaos_proto.v1 import chaos_pb2 as pb

from .rig import Rig, injection, issued, until


class Keeper:
    """Listens where a link connects; applies what it is told to, and keeps each grant."""

    def __init__(self, path: Path) -> None:
        self.sent: list[int] = []
        self.grants: list[Grant] = []
        self.links = 0
        self._fault: FaultStatus | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.setblocking(False)
        self._listener.bind(str(path))
        self._listener.listen()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        with self._listener:
            while True:
                connection, _ = await loop.sock_accept(self._listener)
                self.links += 1
                with connection:
                    beating = asyncio.create_task(self._beat(connection))
                    with contextlib.suppress(ConnectionError):  # a link that hangs up at once
                        await self._read(connection)
                    beating.cancel()
                    await asyncio.gather(beating, return_exceptions=True)

    async def _read(self, connection: socket.socket) -> None:
        while data := await asyncio.get_running_loop().sock_recv(connection, 65536):
            message = to_keeper(data)
            if isinstance(message, Grant):
                self.grants.append(message)
            elif isinstance(message, Apply):
                self._fault = FaultStatus(
                    fault=message.fault,
                    run=message.run,
                    kind=message.kind,
                    state="in_force",
                    in_force_at=clock.now(),
                )
                over = message.duration_us / 1_000_000
                asyncio.get_running_loop().call_later(over, self._end, "duration")
            elif isinstance(message, Revert):
                self._end("revert")

    def _end(self, reason: str) -> None:
        if self._fault is not None and self._fault.state == "in_force":
            ended = {"state": "ended", "reason": reason, "ended_at": clock.now()}
            self._fault = self._fault.model_copy(update=ended)

    async def _beat(self, connection: socket.socket) -> None:
        offer = {"summary": "", "schema": {}, "lease_holder": "", "risky": False, "ok": True}
        await self._send(
            connection,
            Hello(
                node="n1",
                version="test",
                boot_id="boot",
                epoch=0,
                envelope=json.loads(json.dumps(envelope.as_json(envelope.PROFILES["production"]))),
                kinds={kind: {**offer, "why": ""} for kind in kinds()},
            ),
        )
        while True:
            self.sent.append(len(self.sent) + 1)
            faults = (self._fault,) if self._fault else ()
            beat = Heartbeat(seq=self.sent[-1], sent_at=clock.now(), epoch=0, faults=faults)
            await self._send(connection, beat)
            await asyncio.sleep(0.1)

    async def _send(self, connection: socket.socket, message: Hello | Heartbeat) -> None:
        data = message.model_dump_json().encode()
        await asyncio.get_running_loop().sock_sendall(connection, data)


def logger(lines: list[str]) -> logging.Logger:
    """Appends each message to ``lines``."""
    made = logging.Logger("link")
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    made.addHandler(handler)
    return made


@contextlib.asynccontextmanager
async def linked(
    rig: Rig, home: Path, said: list[str] | None = None, probes: ProbeRules | None = None
) -> AsyncIterator[Keeper]:
    """A link of n1 with the identity in ``home``, and its keeper. ``said`` is what it logs."""
    runtime = rig.directory / "run"
    runtime.mkdir()
    config = AgentConfig(
        node="n1",
        controller=rig.address,
        runtime=runtime,
        pki=home,
        probes=probes or ProbeRules(),
    )
    keeper = Keeper(config.socket)
    link = Link(config, Log(logger([] if said is None else said)))
    tasks = [asyncio.create_task(keeper.run()), asyncio.create_task(link.run())]
    try:
        yield keeper
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_both_certificates_rotate_under_a_stream_and_no_grant_is_missed(rig: Rig) -> None:
    """Lives of four seconds: what opened the stream has expired when the test is over."""
    rig.life = Duration.parse("4s")
    await rig.restart()
    rig.ca = pki.CA.load(rig.made.directory, dt.timedelta(seconds=4))
    home = rig.home("agent/n1")
    first, serving = Credentials.read(home).check(), rig.controller.certificate.leaf
    async with linked(rig, home) as keeper:
        await until(lambda: keeper.grants, 5)
        session = rig.controller.fleet.sessions["n1"]
        rig.ca = pki.CA.load(rig.made.directory)  # the operator does not rotate here
        async with rig.operator() as ann:
            run = ann.stub.Inject(injection("n1", duration_us=60_000_000))
            await until(lambda: keeper.grants[-1].runs)
            held = keeper.grants[-1].seq
            await until(lambda: clock.utc() > max(first.expires, serving.expires), 15)
            async with rig.operator("viewer/bob") as bob:  # whoever dials now sees the new one
                assert await bob.state("n1") == "connected"
            count = len(keeper.grants)
            await until(lambda: len(keeper.grants) > count + 3)
            run.cancel()
        leaves = rig.controller.certificates._known[first.identity]
        assert len(leaves) >= 2
        assert Credentials.read(home).check().serial in leaves
        assert rig.controller.certificate.leaf.serial != serving.serial
        assert rig.controller.fleet.sessions["n1"] is session
        assert keeper.links == 1
        seqs = [grant.seq for grant in keeper.grants]
        assert seqs == keeper.sent[: len(seqs)]
        assert all(grant.runs for grant in keeper.grants if grant.seq >= held)
        session.close("the test says so")  # and the next session is of the new certificate
        await until(lambda: rig.controller.fleet.sessions.get("n1") not in (None, session))
        await until(lambda: len(keeper.grants) > len(seqs) + 3)


async def test_a_renewal_that_fails_is_logged_and_tried_again_and_the_stream_stays(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as long_ago:
        long_ago.setattr("chaos_proto._x509.CLOCK_SKEW", dt.timedelta(days=10))
        home = rig.home("agent/n1")
    rig.home("operator/ann")
    before = (home / "identity.pem").read_bytes()
    said: list[str] = []
    monkeypatch.setattr("chaos_agent.renewal._RETRY_S", (0.05, 0.05))
    with monkeypatch.context() as disk:
        disk.setattr("chaos_proto.files.os.fchmod", full)
        async with linked(rig, home, said) as keeper:
            await until(lambda: sum("certificate not renewed" in line for line in said) >= 2)
            assert any("No space left" in line for line in said)
            async with rig.operator() as ann:
                (node,) = (await ann.one("ListNodes", pb.ListNodesRequest())).nodes
            assert (node.state, node.certificate_old) == ("connected", True)
            assert (home / "identity.pem").read_bytes() == before
            disk.undo()
            await until(lambda: "certificate renewed" in said[-1])
            assert (home / "identity.pem").read_bytes() != before
            count = len(keeper.grants)
            await until(lambda: len(keeper.grants) > count)
            assert keeper.links == 1


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


# ── what is said when an identity cannot be used ──────────────────────────────────────────


async def test_a_revoked_link_says_by_whom_and_comes_back_with_a_new_identity(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chaos_agent.link._REFUSED_S", 0.2)
    home = rig.home("agent/n1")
    said: list[str] = []
    async with linked(rig, home, said) as keeper:
        await until(lambda: keeper.grants)
        async with rig.operator() as ann:
            await ann.one("Revoke", pb.RevokeRequest(subject="n1", reason="it was sold"))
        await until(lambda: any("revoked by operator/ann" in line for line in said))
        for part in ("no session", "it was sold", "pki token agent/n1"):
            assert part in said[-1]
        count = len(keeper.grants)
        async with rig.operator() as ann:
            made = await ann.one("CreateToken", pb.CreateTokenRequest(identity="agent/n1"))
        trade = (f"127.0.0.1:{rig.controller.enrolment_port}", made.token, rig.made.ca_hash, home)
        await asyncio.to_thread(enrol.enrol, *trade, replace=True)
        await until(lambda: len(keeper.grants) > count)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ("expired", "expired on"),
        ("early", "is valid from"),
        ("mismatched", "does not belong"),
        ("other CA", "not of our CA"),
        ("stranger", "not issued by"),
        ("open", "everybody on this machine"),
        ("missing", "No such file"),
        ("garbage", "not an identity"),
        ("operator", "operator/n1 may not call Session"),
        ("another node", "certificate is of agent/n2"),
    ],
)
async def test_a_link_that_cannot_dial_says_why_in_one_line(
    rig: Rig,
    spoil: str,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for wait in ("_RETRY_S", "_REFUSED_S"):
        monkeypatch.setattr(f"chaos_agent.link.{wait}", 0.05)
    home = rig.home("agent/n1")
    path = home / "identity.pem"
    good, other = Credentials.read(home), issued(pki.CA.create(), "agent/n1")
    match spoil:
        case "expired":
            issued(replace(rig.ca, life=dt.timedelta(seconds=-1)), "agent/n1").write(home)
        case "early":
            monkeypatch.setattr("chaos_proto._x509.CLOCK_SKEW", -dt.timedelta(hours=1))
            issued(rig.ca, "agent/n1").write(home)
        case "mismatched":
            replace(good, key=other.key).write(home)
        case "other CA":
            other.write(home)
        case "stranger":
            replace(other, ca=good.ca).write(home)
        case "open":
            path.chmod(0o644)
        case "missing":
            path.unlink()
        case "garbage":
            path.write_text("garbage")
        case "operator":
            issued(rig.ca, "operator/n1").write(home)
        case "another node":
            issued(rig.ca, "agent/n2").write(home)
    before = path.read_bytes() if path.exists() else b""
    said: list[str] = []
    async with linked(rig, home, said) as keeper:
        await until(lambda: any(says in line for line in said), 6)
        await asyncio.sleep(0.15)  # it has tried again meanwhile, and has said nothing new
    (line,) = [line for line in said if "info" not in line]
    assert "no session" in line
    assert "→ " in line or spoil == "operator"  # what to do
    assert not keeper.grants
    assert "n1" not in await rig.controller.store.nodes()
    assert (path.read_bytes() if path.exists() else b"") == before
