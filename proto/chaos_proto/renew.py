"""Renewal, the holder's side: a new key, and a certificate for it in the same name and role.

What it promises: the old pair stays in use and on disk until the new one has been
checked, and is then replaced by one rename. Whatever fails, nothing has changed.
It dials anew, with what is on disk: a stream that is open does not notice, and a
certificate that this works with is one that the next dial will work with.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import grpc

from chaos_core.errors import InvalidInput
from chaos_proto import channel, pki
from chaos_proto.credentials import Credentials
from chaos_proto.v1 import chaos_pb2, chaos_pb2_grpc

TIMEOUT_S: Final = 10.0


def renew(address: str, directory: Path) -> pki.Leaf:
    """Replace the identity in ``directory``; returns the new certificate's facts.

    Raises InvalidInput (this identity cannot be used, or not be written), Revoked or
    ControllerUnreachable.
    """
    ours = Credentials.read(directory)
    key, request = _new_request()
    with channel.dial_sync(address, directory) as link:
        stub = chaos_pb2_grpc.RenewalStub(link)
        try:
            answer = stub.Renew(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            failed: Any = error
            channel.raise_from(failed, address=address, pki_dir=directory)
    return _accept(ours, key, answer, directory)


async def renew_async(address: str, directory: Path) -> pki.Leaf:
    """The same beside whatever else the event loop does."""
    ours = Credentials.read(directory)
    key, request = await asyncio.to_thread(_new_request)
    async with channel.dial(address, directory) as link:
        try:
            answer = await chaos_pb2_grpc.RenewalStub(link).Renew(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            channel.raise_from(error, address=address, pki_dir=directory)
    return await asyncio.to_thread(_accept, ours, key, answer, directory)


def _new_request() -> tuple[bytes, chaos_pb2.RenewRequest]:
    key, request = pki.new_key_and_csr()
    return key, chaos_pb2.RenewRequest(csr_pem=request.decode("ascii"))


def _accept(
    ours: Credentials, key: bytes, answer: chaos_pb2.RenewResponse, directory: Path
) -> pki.Leaf:
    """Check what was sent and put it in the place of what is there."""
    was = pki.identity_of(ours.certificate)
    certificate = answer.certificate_pem.encode()
    new = replace(ours, key=key, certificate=certificate, where="the controller's answer")
    leaf = new.check()
    if leaf.identity != was:
        raise InvalidInput(f"the controller sent a certificate of {leaf.identity} to {was}")
    new.write(directory)
    return leaf
