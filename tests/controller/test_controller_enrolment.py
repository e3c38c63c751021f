"""Tokens and enrolment: once, in time, at the right controller."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from chaos_controller import clock
from chaos_core.errors import ControllerUnreachable, InvalidInput, NotPermitted
from chaos_proto import channel, enrol, pki
from chaos_proto.identity import Identity
from chaos_proto.v1 import chaos_pb2 as pb
from chaos_proto.v1 import chaos_pb2_grpc as rpc

from .rig import Rig


async def token(rig: Rig, identity: str = "agent/n1", ttl_s: int = 60) -> pb.CreateTokenResponse:
    async with rig.operator() as ann:
        request = pb.CreateTokenRequest(identity=identity, ttl_s=ttl_s)
        answer: pb.CreateTokenResponse = await ann.one("CreateToken", request)
        return answer


async def enrolled(rig: Rig, token: str, home: str, ca_hash: str = "") -> Identity:
    address = f"127.0.0.1:{rig.controller.enrolment_port}"
    pinned = ca_hash or rig.made.ca_hash
    return await asyncio.to_thread(enrol.enrol, address, token, pinned, rig.directory / home)


async def test_a_token_buys_one_identity_that_works(rig: Rig) -> None:
    made = await token(rig, "viewer/eve")
    assert made.ca_hash == rig.made.ca_hash
    assert await enrolled(rig, made.token, "eve", made.ca_hash) == Identity("viewer", "eve")
    home = rig.directory / "eve"
    assert (home / "identity.pem").stat().st_mode & 0o777 == 0o600
    channel.diagnose(home)
    async with channel.dial(rig.address, home) as link:
        answer = await rpc.OperatorStub(link).ListNodes(pb.ListNodesRequest(), timeout=5)
        assert answer.epoch == rig.controller.authority.epoch
    kept = [path.read_bytes() for path in rig.directory.glob("controller.db*")]
    assert kept
    assert not any(made.token.encode() in part for part in kept)


async def test_a_token_works_once(rig: Rig) -> None:
    made = await token(rig)
    await enrolled(rig, made.token, "a")
    with pytest.raises(NotPermitted, match="used already"):
        await enrolled(rig, made.token, "b")
    assert not (rig.directory / "b").exists()


async def test_of_many_who_use_a_token_at_once_one_succeeds(rig: Rig) -> None:
    made = await token(rig)
    tries = [enrolled(rig, made.token, f"home-{number}") for number in range(5)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == [
        "Identity",
        *["NotPermitted"] * 4,
    ]


async def test_an_expired_token_is_refused(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await token(rig, ttl_s=5)
    monkeypatch.setattr("chaos_controller.store.store.rfc3339", lambda: "2999-01-01T00:00:00.000Z")
    with pytest.raises(NotPermitted, match="expired at"):
        await enrolled(rig, made.token, "a")
    monkeypatch.undo()
    assert await enrolled(rig, made.token, "a")


async def test_an_unknown_token_is_refused(rig: Rig) -> None:
    with pytest.raises(NotPermitted, match="not known"):
        await enrolled(rig, "wrong", "a")


async def test_the_token_is_not_sent_to_a_controller_of_another_ca(rig: Rig) -> None:
    made = await token(rig)
    with pytest.raises(InvalidInput, match="does not match"):
        await enrolled(rig, made.token, "a", "sha256:" + "0" * 64)
    assert not (rig.directory / "a").exists()
    assert await enrolled(rig, made.token, "a")  # so it is still good


async def test_enrolling_twice_in_one_place_overwrites_nothing(rig: Rig) -> None:
    made = await token(rig)
    home = rig.home("agent/n1")
    before = (home / "identity.pem").read_bytes()
    with pytest.raises(InvalidInput, match="already enrolled"):
        await enrolled(rig, made.token, home.name)
    assert (home / "identity.pem").read_bytes() == before


async def test_a_bad_request_does_not_cost_the_token(rig: Rig) -> None:
    made = await token(rig)
    address = f"127.0.0.1:{rig.controller.enrolment_port}"
    credentials = grpc.ssl_channel_credentials(rig.ca.pem)
    async with grpc.aio.secure_channel(address, credentials) as link:
        stub = rpc.EnrolmentStub(link)
        for csr in ("", "nonsense", "x" * 20_000):
            with pytest.raises(grpc.RpcError) as caught:
                await stub.Enrol(pb.EnrolRequest(token=made.token, csr_pem=csr), timeout=5)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        operator = rpc.OperatorStub(link)  # this port serves nothing else
        with pytest.raises(grpc.RpcError) as caught:
            await operator.ListNodes(pb.ListNodesRequest(), timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert await enrolled(rig, made.token, "a")


async def test_enrolments_are_limited(rig: Rig) -> None:
    address = f"127.0.0.1:{rig.controller.enrolment_port}"
    credentials = grpc.ssl_channel_credentials(rig.ca.pem)
    _, request = pki.new_key_and_csr()
    message = pb.EnrolRequest(token="guess", csr_pem=request.decode())
    texts: set[str] = set()
    async with grpc.aio.secure_channel(address, credentials) as link:
        stub = rpc.EnrolmentStub(link)
        began = clock.now()
        while not any("too many" in text for text in texts):
            assert clock.now() - began < 5_000_000
            with pytest.raises(grpc.RpcError) as caught:
                await stub.Enrol(message, timeout=5)
            texts.add(caught.value.details() or "")


@pytest.mark.parametrize(
    ("identity", "ttl_s"), [("controller", 60), ("root/x", 60), ("agent/A", 60), ("agent/a", 10**8)]
)
async def test_tokens_that_are_not_made(rig: Rig, identity: str, ttl_s: int) -> None:
    with pytest.raises(InvalidInput):
        await token(rig, identity, ttl_s)


async def test_enrolling_where_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(ControllerUnreachable, match=r"127\.0\.0\.1:1"):
        enrol.enrol("127.0.0.1:1", "t", "sha256:0", tmp_path / "a")
