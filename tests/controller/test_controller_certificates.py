"""Certificates that are renewed and revoked, and nodes that are forgotten, on real connections."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import hashlib
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from chaos_controller import clock
from chaos_core.errors import (
    ChaosError,
    ControllerUnreachable,
    InvalidInput,
    NotPermitted,
    Refused,
    Revoked,
)
from chaos_proto import channel, enrol, pki, renew
from chaos_proto.credentials import Credentials
from chaos_proto.identity import Identity
from chaos_proto.v1 import chaos_pb2 as pb
from chaos_proto.v1 import chaos_pb2_grpc as rpc

from .rig import Agent, Client, Rig, injection, issued, until

N1 = Identity("agent", "n1")


async def revoke(rig: Rig, subject: str, by: str = "operator/ann") -> pb.RevokeResponse:
    async with rig.operator(by) as client:
        request = pb.RevokeRequest(subject=subject, reason="the disk was stolen")
        answer: pb.RevokeResponse = await client.one("Revoke", request)
        return answer


async def forget(rig: Rig, node: str) -> None:
    async with rig.operator() as ann:
        await ann.one("ForgetNode", pb.ForgetNodeRequest(node=node, reason="scrapped"))


async def enrolled(rig: Rig, identity: str, *, replace: bool = True) -> Path:
    """Through a token, as a user would, in the place of what is there."""
    async with rig.operator() as ann:
        made = await ann.one("CreateToken", pb.CreateTokenRequest(identity=identity))
    address = f"127.0.0.1:{rig.controller.enrolment_port}"
    home = rig.directory / identity.replace("/", "-")
    trade = [address, made.token, rig.made.ca_hash, home]
    await asyncio.to_thread(enrol.enrol, *trade, replace=replace)
    return home


def serial(home: Path) -> str:
    return Credentials.read(home).check().serial


async def outcome(work: Awaitable[Any]) -> Any:
    try:
        return await work
    except ChaosError as error:
        return error


async def audited(rig: Rig, action: str) -> list[tuple[str, str, str]]:
    entries = await rig.audit()
    return [(e["actor"], e["request"], e["decision"]) for e in entries if e["action"] == action]


# ── renewal ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("who", ["agent/n1", "operator/eve", "viewer/bob"])
async def test_a_renewal_keeps_name_and_role_and_changes_the_key(rig: Rig, who: str) -> None:
    home = rig.home(who)
    before = Credentials.read(home)
    leaf = await renew.renew_async(rig.address, home)
    after = Credentials.read(home)
    assert leaf == after.check()
    assert str(leaf.identity) == who
    assert after.key != before.key
    assert (home / "identity.pem").stat().st_mode & 0o777 == 0o600
    await asyncio.to_thread(renew.renew, rig.address, home)  # the new one works, and is renewed
    old = pki.leaf_of(before.certificate).serial
    assert await audited(rig, "renew") == [(who, old, "accepted"), (who, leaf.serial, "accepted")]


async def test_a_renewal_is_for_whoever_asks_whatever_the_request_says(rig: Rig) -> None:
    _, request = pki.new_key_and_csr(Identity("operator", "root"))
    async with rig.dial("viewer/bob") as link:
        answer = await rpc.RenewalStub(link).Renew(pb.RenewRequest(csr_pem=request.decode()))
    assert str(pki.identity_of(answer.certificate_pem.encode())) == "viewer/bob"


@pytest.mark.parametrize("csr", ["", "nonsense", "x" * 9_000])
async def test_a_renewal_that_fails_changes_nothing(
    rig: Rig, csr: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = rig.home("agent/n1")
    before = (home / "identity.pem").read_bytes()
    monkeypatch.setattr(renew, "_new_request", lambda: (b"", pb.RenewRequest(csr_pem=csr)))
    with pytest.raises(InvalidInput, match="request"):
        await renew.renew_async(rig.address, home)
    assert (home / "identity.pem").read_bytes() == before


async def test_an_answer_that_is_not_ours_is_not_kept(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = rig.home("agent/n1")
    before = (home / "identity.pem").read_bytes()
    key, request = pki.new_key_and_csr()
    message = pb.RenewRequest(csr_pem=request.decode())
    other_key, _ = pki.new_key_and_csr()
    monkeypatch.setattr(renew, "_new_request", lambda: (other_key, message))
    with pytest.raises(InvalidInput, match="does not belong"):
        await renew.renew_async(rig.address, home)
    monkeypatch.setattr(renew, "_new_request", lambda: (key, message))
    monkeypatch.setattr(
        rig.controller.certificates, "_issue", lambda csr, _: _issued(rig, csr, "agent/n2")
    )
    with pytest.raises(InvalidInput, match="sent a certificate of agent/n2"):
        await renew.renew_async(rig.address, home)
    assert (home / "identity.pem").read_bytes() == before


def _issued(rig: Rig, csr: bytes, identity: str) -> tuple[pki.Leaf, bytes]:
    pem = rig.ca.sign_request(csr, Identity.parse(identity))
    return pki.leaf_of(pem), pem


async def test_renewals_are_limited(rig: Rig) -> None:
    home = rig.home("agent/n1")
    results = [await outcome(renew.renew_async(rig.address, home)) for _ in range(15)]
    assert "too many renewals" in str(results[-1])
    assert await renew.renew_async(rig.address, rig.home("agent/n2"))


# ── revocation ────────────────────────────────────────────────────────────────────────────


async def test_a_revoked_node_is_out_at_once_and_its_fault_ends_by_its_lease(rig: Rig) -> None:
    agent = await rig.agent("n1")
    other = await rig.agent("n2")
    async with rig.operator() as ann:
        run = ann.stub.Inject(injection("n1", duration_us=60_000_000))
        await until(lambda: agent.active() and agent.grants[-1].runs)
        answer = await revoke(rig, "agent/n1")
        began = clock.now()
        assert (answer.subject, answer.ended) == ("agent/n1", 1)
        assert [c.serial for c in answer.certificates] == [serial(rig.home("agent/n1"))]
        await until(lambda: agent.ended_by)
        assert "revoked by operator/ann" in agent.ended_by
        assert "the disk was stolen" in agent.ended_by
        await until(lambda: not agent.active())
        assert clock.now() - began < 2_000_000  # its ttl is 1.05 s
        assert [fault.reason for fault in agent.faults.values()] == ["lease"]
        run.cancel()
        grants = len(agent.grants)
        for _ in range(2):
            await agent.dial()
            await until(lambda: agent.ended_by)
            assert len(agent.grants) == grants
            await rig.restart()  # the next controller knows it too
        assert await ann_state(rig) == "unreachable"
    await other.dial()
    count = len(other.grants)
    await until(lambda: len(other.grants) > count)


async def ann_state(rig: Rig) -> str:
    async with rig.operator() as ann:
        return await ann.state("n1")


async def test_a_revoked_node_comes_back_with_a_new_token_and_with_no_old_one(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await rig.agent("n1")
    async with rig.operator() as ann:
        old = await ann.one("CreateToken", pb.CreateTokenRequest(identity="agent/n1"))
    await revoke(rig, "n1")  # a name is enough when only one identity has it
    with pytest.raises(NotPermitted, match="not known"):
        await asyncio.to_thread(
            enrol.enrol,
            f"127.0.0.1:{rig.controller.enrolment_port}",
            old.token,
            rig.made.ca_hash,
            rig.directory / "x",
        )
    with pytest.raises(InvalidInput, match="already enrolled") as caught:
        await enrolled(rig, "agent/n1", replace=False)
    assert "--replace" in caught.value.hint
    utc = clock.utc  # the controller's clock is set back: later is later all the same
    monkeypatch.setattr(clock, "utc", lambda: utc() - dt.timedelta(hours=1))
    await enrolled(rig, "agent/n1")
    monkeypatch.undo()
    grants = len(agent.grants)
    await agent.dial()
    await until(lambda: len(agent.grants) > grants)
    await revoke(rig, "agent/n1")  # and can be revoked again
    await until(lambda: "revoked" in agent.ended_by)


async def test_revoking_a_serial_leaves_the_other_certificate_of_the_same_operator(
    rig: Rig,
) -> None:
    laptop = await enrolled(rig, "operator/eve")
    lost = serial(laptop)
    async with rig.operator("operator/eve") as eve:
        watching = asyncio.create_task(eve.all("Watch", pb.WatchRequest()))
        await until(lambda: rig.controller.runs.feed._queues)
        token = await eve.one("CreateToken", pb.CreateTokenRequest(identity="operator/mallory"))
        await renew.renew_async(rig.address, laptop)
        answer = await revoke(rig, lost[:8], by="operator/eve")
        assert [c.serial for c in answer.certificates] == [lost]
        with pytest.raises(Revoked, match="operator/eve"):
            await watching
        with pytest.raises(Revoked):
            await eve.one("ListNodes", pb.ListNodesRequest())
    async with rig.operator("operator/eve") as eve:
        assert await eve.one("ListNodes", pb.ListNodesRequest())
    with pytest.raises(NotPermitted, match="not known"):  # what the thief had made for later
        await asyncio.to_thread(
            enrol.enrol,
            f"127.0.0.1:{rig.controller.enrolment_port}",
            token.token,
            rig.made.ca_hash,
            rig.directory / "mallory",
        )


async def test_a_revoked_certificate_is_not_renewed(rig: Rig) -> None:
    home = rig.home("agent/n1")
    await renew.renew_async(rig.address, home)
    before = (home / "identity.pem").read_bytes()
    await revoke(rig, "agent/n1")
    with pytest.raises(Revoked, match="stolen") as caught:
        await renew.renew_async(rig.address, home)
    assert "pki token agent/n1" in caught.value.hint
    assert (home / "identity.pem").read_bytes() == before


async def test_no_renewal_slips_through_beside_a_revocation(rig: Rig) -> None:
    holder = await renew.renew_async(rig.address, rig.home("agent/n1"))
    certificates, (_, csr) = rig.controller.certificates, pki.new_key_and_csr()
    async with rig.controller.store._writing:  # the disk is busy: both wait, the renewal first
        renewing = asyncio.create_task(certificates.renew(holder, csr))
        await asyncio.sleep(0)
        revoking = asyncio.create_task(revoke(rig, "agent/n1"))
        await until(lambda: str(N1) in certificates._revoked)
    results = await asyncio.gather(renewing, revoking, return_exceptions=True)
    assert isinstance(results[0], Revoked)
    assert certificates.newest(N1) is None


async def test_no_token_is_spent_beside_a_revocation(rig: Rig) -> None:
    await rig.agent("n1")
    async with rig.operator() as ann:
        made = await ann.one("CreateToken", pb.CreateTokenRequest(identity="agent/n1"))
    certificates, (_, csr) = rig.controller.certificates, pki.new_key_and_csr()
    digest = hashlib.sha256(made.token.encode()).hexdigest()
    async with rig.controller.store._writing:  # as above
        enrolling = asyncio.create_task(certificates.enrol(digest, csr, "peer"))
        await asyncio.sleep(0)
        revoking = asyncio.create_task(revoke(rig, "agent/n1"))
        await until(lambda: str(N1) in certificates._revoked)
    results = await asyncio.gather(enrolling, revoking, return_exceptions=True)
    assert isinstance(results[0], Refused)
    assert certificates.newest(N1) is None


async def test_a_revocation_that_cannot_be_written_is_withdrawn_and_says_so(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await rig.agent("n1")

    async def full(*_: Any, **__: Any) -> None:
        raise ChaosError("the store failed: disk full")

    monkeypatch.setattr(rig.controller.store, "revoke", full)
    with pytest.raises(ChaosError, match="disk full"):
        await revoke(rig, "agent/n1")
    grants = len(agent.grants)
    await agent.dial()
    await until(lambda: len(agent.grants) > grants)


async def test_nobody_revokes_what_they_call_with_so_an_operator_is_always_left(rig: Rig) -> None:
    own = serial(rig.home("operator/ann"))
    for subject in ("operator/ann", "ann", own, own[:10]):
        with pytest.raises(Refused, match="what you are calling with"):
            await revoke(rig, subject)
    first, second = rig.home("operator/eve"), rig.home("operator/zoe")
    async with channel.dial(rig.address, first) as a, channel.dial(rig.address, second) as b:
        for link in (a, b):
            await rpc.OperatorStub(link).ListNodes(pb.ListNodesRequest())
        results = await asyncio.gather(
            Client(rpc.OperatorStub(a)).one("Revoke", pb.RevokeRequest(subject="zoe", reason="x")),
            Client(rpc.OperatorStub(b)).one("Revoke", pb.RevokeRequest(subject="eve", reason="x")),
            return_exceptions=True,
        )
    assert sorted(type(result).__name__ for result in results) == ["RevokeResponse", "Revoked"]
    revoked = "eve" if isinstance(results[0], Revoked) else "zoe"
    leaf = Credentials.read(rig.home(f"operator/{revoked}")).check()
    with pytest.raises(Revoked):  # also one whose call was under way already
        await rig.controller.certificates.revoke(leaf, Identity("operator", "ann"), "x")


@pytest.mark.parametrize(
    ("subject", "reason", "says"),
    [
        ("agent/n9", "x", "no certificate of"),
        ("root/n1", "x", "unknown role"),
        ("", "x", "no certificate of"),
        ("0123", "x", "no certificate of"),
        ("both", "x", "can mean"),
        ("agent/n1", " ", "needs a reason"),
    ],
)
async def test_revocations_that_mean_nothing(
    rig: Rig, subject: str, reason: str, says: str
) -> None:
    for who in ("agent/both", "viewer/both"):
        await renew.renew_async(rig.address, rig.home(who))
    async with rig.operator() as ann:
        with pytest.raises(InvalidInput, match=says):
            await ann.one("Revoke", pb.RevokeRequest(subject=subject, reason=reason))
        listed = await ann.one("ListCertificates", pb.ListCertificatesRequest())
    assert not [c for c in listed.certificates if c.revoked]


async def test_the_list_shows_what_was_issued_seen_and_revoked(rig: Rig) -> None:
    await rig.agent("n1")  # made offline: known since it connected
    home = await enrolled(rig, "viewer/eve")
    await revoke(rig, "viewer/eve")
    await rig.restart()
    async with rig.operator("viewer/bob") as bob:
        listed = await bob.one("ListCertificates", pb.ListCertificatesRequest())
    found = {c.identity: c for c in listed.certificates}
    assert found.keys() == {"operator/ann", "viewer/bob", "viewer/eve", "agent/n1"}
    eve = found["viewer/eve"]
    assert (eve.serial, eve.revoked_by, eve.reason) == (
        serial(home),
        "operator/ann",
        "the disk was stolen",
    )
    assert eve.revoked >= eve.issued
    assert not found["agent/n1"].revoked
    assert await audited(rig, "revoke") == [
        ("operator/ann", "viewer/eve: the disk was stolen", "accepted")
    ]


# ── expiry ────────────────────────────────────────────────────────────────────────────────


async def test_a_stream_outlives_its_certificate_only_if_that_was_renewed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle, renewing = await rig.agent("n1"), await rig.agent("n2")
    utc, ahead = clock.utc, dt.timedelta()
    monkeypatch.setattr(clock, "utc", lambda: utc() + ahead)
    ahead = dt.timedelta(hours=20)
    async with rig.operator() as ann:
        nodes = (await ann.one("ListNodes", pb.ListNodesRequest())).nodes
        assert [node.certificate_old for node in nodes] == [True, True]
        await renew.renew_async(rig.address, rig.home("agent/n2"))
        # By its own clock the machine that renews is not ahead: pretend that it is.
        newest = rig.controller.certificates.newest(Identity("agent", "n2"))
        assert newest is not None
        later = dt.timedelta(hours=20)
        longer = pki.Leaf(newest.identity, "f00d", newest.issued, newest.expires + later)
        rig.controller.certificates._remember(longer)
        answer = await ann.one("ListNodes", pb.ListNodesRequest())
        assert [node.certificate_old for node in answer.nodes] == [True, False]
        assert answer.nodes[1].certificate_expires == clock.rfc3339(longer.expires)
        assert answer.renew_before  # ann's own is old as well
    idle.silent = True  # in the middle of a write grpc would keep the reason to itself
    await asyncio.sleep(0.15)
    ahead = dt.timedelta(hours=25)
    await until(lambda: idle.ended_by)
    assert "agent/n1 expired on" in idle.ended_by
    count = len(renewing.grants)
    await until(lambda: len(renewing.grants) > count + 5)
    assert not renewing.ended_by


async def test_an_expired_certificate_says_to_enrol_again(rig: Rig) -> None:
    rig.ca = pki.CA.load(rig.made.directory, dt.timedelta(seconds=-5))
    home = rig.home("operator/ann")
    async with channel.dial(rig.address, home) as link:
        with pytest.raises(InvalidInput, match="expired on") as caught:
            await shown(rpc.OperatorStub(link).ListNodes(pb.ListNodesRequest()), home)
    assert "chaosctl pki token" in caught.value.hint


async def test_a_certificate_that_is_not_valid_yet_blames_the_clock(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chaos_proto._x509.CLOCK_SKEW", -dt.timedelta(hours=1))
    home = rig.home("operator/ann")
    async with channel.dial(rig.address, home) as link:
        with pytest.raises(InvalidInput, match="is valid from") as caught:
            await shown(rpc.OperatorStub(link).ListNodes(pb.ListNodesRequest()), home)
    assert "clock" in caught.value.hint


async def shown(call: Any, home: Path) -> None:
    """Fail as chaosctl would show it."""
    try:
        await call
    except grpc.RpcError as error:
        channel.raise_from(error, address="there", pki_dir=home)


# ── roles ─────────────────────────────────────────────────────────────────────────────────


async def test_the_controllers_own_certificate_opens_nothing(rig: Rig) -> None:
    key, certificate = rig.ca.controller(["127.0.0.1"])
    home = rig.directory / "controller"
    home.mkdir()
    Credentials(key, certificate, rig.ca.pem).write(home)
    async with channel.dial(rig.address, home) as link:
        with pytest.raises(NotPermitted, match="controller may not call ListNodes"):
            await shown(rpc.OperatorStub(link).ListNodes(pb.ListNodesRequest()), home)
        stream = rpc.AgentLinkStub(link).Session()
        with contextlib.suppress(grpc.RpcError):  # refused already: the reader is told why
            await stream.write(pb.FromAgent(hello=pb.Hello(node="n1")))
        with pytest.raises(NotPermitted, match="controller may not call Session"):
            await shown(stream.read(), home)
    with pytest.raises(NotPermitted, match="controller may not call Renew"):
        await renew.renew_async(rig.address, home)
    assert not rig.controller.fleet.sessions


async def test_without_a_certificate_the_main_port_is_closed(rig: Rig) -> None:
    credentials = grpc.ssl_channel_credentials(rig.ca.pem)
    async with aio.secure_channel(rig.address, credentials) as link:
        with pytest.raises(grpc.RpcError) as caught:
            await rpc.OperatorStub(link).ListNodes(pb.ListNodesRequest(), timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE  # TLS itself has refused


@pytest.mark.parametrize("who", ["agent/n1", "operator/eve"])
async def test_nobody_but_the_controller_can_serve(rig: Rig, who: str) -> None:
    """Whoever holds a certificate of our CA cannot play the controller to others."""
    thief = issued(rig.ca, who)
    pair = [(thief.key, thief.certificate + thief.ca)]
    server = aio.server()
    credentials = grpc.ssl_server_credentials(pair, rig.ca.pem, require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    home = rig.home("operator/ann")
    async with channel.dial(f"127.0.0.1:{port}", home) as link:
        with pytest.raises((InvalidInput, ControllerUnreachable)) as caught:
            await shown(rpc.OperatorStub(link).ListNodes(pb.ListNodesRequest()), home)
    assert "not of our CA" in caught.value.what
    await server.stop(0)


# ── nodes that are gone ───────────────────────────────────────────────────────────────────


async def test_a_node_that_is_gone_is_forgotten_and_counts_no_more(rig: Rig) -> None:
    for name in ("n1", "n2", "n3"):
        await rig.agent(name, profile="staging")
    with pytest.raises(Refused, match="connected") as caught:
        await forget(rig, "n3")
    assert "systemctl" in caught.value.hint
    await rig.agents[2].leave()
    await until(lambda: "n3" not in rig.controller.fleet.sessions)
    await forget(rig, "n3")
    assert (await rig.controller.store.nodes()).keys() == {"n1", "n2"}
    assert ("operator/ann", "agent/n3: scrapped", "accepted") in await audited(rig, "forgetnode")
    with pytest.raises(InvalidInput, match="unknown node"):
        await forget(rig, "n3")
    await rig.agents[2].dial()
    await until(lambda: "revoked" in rig.agents[2].ended_by)
    assert (await rig.controller.store.nodes()).keys() == {"n1", "n2"}
    home = await enrolled(rig, "agent/n3")
    assert Credentials.read(home).check().identity.name == "n3"
    await rig.agents[2].dial()
    await until(lambda: "n3" in rig.controller.fleet.sessions)


async def test_a_node_that_may_carry_a_fault_is_not_forgotten(rig: Rig) -> None:
    agent: Agent = await rig.agent("n1")
    async with rig.operator() as ann:
        call = ann.stub.Inject(injection("n1", duration_us=60_000_000))
        await until(agent.active)
        agent.silent = True  # cut off: it holds its fault until its lease is over
        await agent.leave()
        await until(lambda: not rig.controller.fleet.sessions)
        with pytest.raises(Refused, match="may still carry a fault"):
            await forget(rig, "n1")
        rig.controller.fleet._held_until.clear()  # its lease is over, and it has not said so
        with pytest.raises(Refused, match="may still carry a fault"):
            await forget(rig, "n1")
        call.cancel()
    await rig.restart()  # as if its lease had been waited out
    await until(lambda: not rig.controller.runs.carrying())
    await forget(rig, "n1")
    assert not await rig.controller.store.nodes()
