"""Enrolment, the newcomer's side: from a token and a pinned hash to an identity.

What it promises: the token is sent to nobody but the holder of the pinned CA;
the key is made here and never sent; nothing is written unless all succeeded.

::

    served chain (unverified) ── pick the certificate whose sha256 is the pinned one
    TLS again with that CA as the only root, hostname checked ── token, CSR ──▶ certificate
"""

from __future__ import annotations

import socket
import ssl
import sys
from pathlib import Path
from typing import Any, Final

import grpc

from chaos_core.errors import ControllerUnreachable, InvalidInput
from chaos_proto import address as addresses
from chaos_proto import channel, pki
from chaos_proto.credentials import Credentials
from chaos_proto.identity import Identity
from chaos_proto.v1 import chaos_pb2, chaos_pb2_grpc

TIMEOUT_S: Final = 10.0


def enrol(
    address: str,
    token: str,
    ca_hash: str,
    directory: Path,
    *,
    replace: bool = False,
    uid: int = -1,
    gid: int = -1,
) -> Identity:
    """Trade ``token`` for a certificate and write identity.pem to ``directory``.

    ``address`` without a port means 7401. ``uid`` and ``gid`` will own it. Raises
    InvalidInput (a wrong hash or token, an identity that is there already and not to
    be replaced, a directory that cannot be written) or ControllerUnreachable.
    """
    directory = Path(directory)
    path = directory / pki.IDENTITY
    if path.exists() and not replace:
        raise InvalidInput(
            "already enrolled here; not overwritten",
            where=str(path),
            hint="to enrol again: --replace",
        )
    host, port = addresses.split(address, addresses.ENROLMENT_PORT)
    ca_pem = _pinned(_served_chain(host, port), ca_hash)
    key, request = pki.new_key_and_csr()
    certificate = _trade(addresses.join(host, port), ca_pem, token, request)
    made = Credentials(key, certificate, ca_pem, where=f"what {addresses.join(host, port)} sent")
    identity = made.check().identity
    pki.make_directory(directory, uid=uid, gid=gid)
    made.write(directory, uid=uid, gid=gid)
    return identity


def _served_chain(host: str, port: int) -> list[bytes]:
    """The certificates that the server shows, DER. Nothing is sent to it; nothing is trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    where = addresses.join(host, port)
    try:
        with (
            socket.create_connection((host, port), timeout=TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            return _chain(secure)
    except ssl.SSLError as error:
        raise InvalidInput(
            f"does not speak TLS: {error.reason}", where=where, hint="is this the enrolment port?"
        ) from None
    except OSError as error:
        raise ControllerUnreachable(
            f"the controller does not answer: {error.strerror or error}",
            where=where,
            hint="is chaos-controller running, and is the address right?",
        ) from None


def _chain(secure: ssl.SSLSocket) -> list[bytes]:
    """The unverified chain, by the public call of Python 3.13 or its private forerunner."""
    untyped: Any = secure
    if sys.version_info >= (3, 13):
        return list(untyped.get_unverified_chain())
    import _ssl

    encoding = _ssl.ENCODING_DER
    return [part.public_bytes(encoding) for part in untyped._sslobj.get_unverified_chain() or ()]


def _pinned(chain: list[bytes], ca_hash: str) -> bytes:
    wanted = ca_hash.strip().lower()
    for der in chain:
        if pki.hash_der(der) == wanted:
            return ssl.DER_cert_to_PEM_cert(der).encode("ascii")
    raise InvalidInput(
        "the controller's CA does not match the pinned hash",
        hint="copy the whole sha256:… that came with the token; if it is right,"
        " somebody else answers at this address",
    )


def _trade(target: str, ca_pem: bytes, token: str, request: bytes) -> bytes:
    """Send the token to the holder of the pinned CA and return the certificate, PEM."""
    trusting = grpc.ssl_channel_credentials(ca_pem)
    with grpc.secure_channel(target, trusting, options=channel.CLIENT_OPTIONS) as link:
        stub = chaos_pb2_grpc.EnrolmentStub(link)
        message = chaos_pb2.EnrolRequest(token=token.strip(), csr_pem=request.decode("ascii"))
        try:
            return stub.Enrol(message, timeout=TIMEOUT_S).certificate_pem.encode("ascii")
        except grpc.RpcError as error:
            channel.raise_from(error, address=target)
