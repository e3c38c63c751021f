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
from chaos_proto import channel, files, pki
from chaos_proto.identity import Identity
from chaos_proto.v1 import chaos_pb2, chaos_pb2_grpc

TIMEOUT_S: Final = 10.0


def enrol(address: str, token: str, ca_hash: str, directory: Path, *, gid: int = -1) -> Identity:
    """Trade ``token`` for a certificate and write ca.pem, cert.pem, key.pem to ``directory``.

    ``address`` without a port means 7401. ``gid`` lets that group read the key
    (0640). Raises InvalidInput (a wrong hash or token, files that exist already,
    a directory that cannot be written) or ControllerUnreachable.
    """
    directory = Path(directory)
    for path in (directory / name for name in (pki.CERT, pki.KEY)):
        if path.exists():
            raise InvalidInput("already enrolled here; not overwritten", where=str(path))
    host, port = addresses.split(address, addresses.ENROLMENT_PORT)
    ca_pem = _pinned(_served_chain(host, port), ca_hash)
    key, request = pki.new_key_and_csr()
    certificate = _trade(addresses.join(host, port), ca_pem, token, request)
    identity = _check(certificate, ca_pem, key)
    mode = files.PRIVATE if gid < 0 else 0o640
    pki.make_directory(directory, gid)
    written: list[Path] = []
    try:
        for name, data, wanted in (
            (pki.KEY, key, mode),
            (pki.CA_CERT, ca_pem, files.PUBLIC),
            (pki.CERT, certificate, files.PUBLIC),
        ):
            files.write(directory / name, data, wanted, gid if wanted == 0o640 else -1)
            written.append(directory / name)
    except InvalidInput:
        for path in written:
            path.unlink(missing_ok=True)
        raise
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
    credentials = grpc.ssl_channel_credentials(ca_pem)
    with grpc.secure_channel(target, credentials, options=channel.CLIENT_OPTIONS) as link:
        stub = chaos_pb2_grpc.EnrolmentStub(link)
        message = chaos_pb2.EnrolRequest(token=token.strip(), csr_pem=request.decode("ascii"))
        try:
            return stub.Enrol(message, timeout=TIMEOUT_S).certificate_pem.encode("ascii")
        except grpc.RpcError as error:
            channel.raise_from(error, address=target)


def _check(certificate: bytes, ca_pem: bytes, key: bytes) -> Identity:
    """Whom the new certificate names. Raises InvalidInput unless it is ours and of our CA."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import serialization

    try:
        issued = x509.load_pem_x509_certificate(certificate)
        issued.verify_directly_issued_by(x509.load_pem_x509_certificate(ca_pem))
    except (ValueError, TypeError, InvalidSignature):
        raise InvalidInput("the controller sent a certificate of another CA") from None
    ours = serialization.load_pem_private_key(key, password=None).public_key()
    if issued.public_key() != ours:
        raise InvalidInput("the controller sent a certificate for another key")
    return pki.identity_of(certificate)
