"""Enrolment, a token for a certificate, once; and renewal, a certificate for the next.

Enrolment is on a port of its own, since those who call have no certificate yet. The token says
who they are; what their request claims is ignored. A token is used up in the same
transaction that issues the certificate.
"""

from __future__ import annotations

import asyncio
import hashlib

from chaos_controller import clock
from chaos_controller.access import Context, certificate
from chaos_controller.certificates import Certificates
from chaos_controller.limits import (
    ENROLMENT_BURST,
    ENROLMENT_BURST_OF_ONE,
    ENROLMENTS_PER_S,
    ENROLMENTS_PER_S_OF_ONE,
    MAX_CSR,
    MAX_TOKEN,
    Bucket,
    Buckets,
)
from chaos_controller.session import host_of
from chaos_core.errors import ChaosError, InvalidInput, Refused
from chaos_core.log import Log
from chaos_proto import pki
from chaos_proto.channel import abort_with
from chaos_proto.v1 import chaos_pb2 as pb
from chaos_proto.v1 import chaos_pb2_grpc as rpc


class Renewal(rpc.RenewalServicer):
    """Signs requests of those who hold a certificate, for nobody else than themselves."""

    def __init__(self, certificates: Certificates) -> None:
        self._certificates = certificates

    async def Renew(self, request: pb.RenewRequest, context: Context) -> pb.RenewResponse:  # noqa: N802
        csr = await _checked(request.csr_pem)
        pem = await self._certificates.renew(certificate(context), csr)
        return pb.RenewResponse(certificate_pem=pem.decode("ascii"))


async def _checked(csr_pem: str) -> bytes:
    """A request that can be signed. Raises InvalidInput."""
    if len(csr_pem) > MAX_CSR:
        raise InvalidInput("the certificate request is too long")
    csr = csr_pem.encode()
    await asyncio.to_thread(pki.check_request, csr)
    return csr


class Enrolment(rpc.EnrolmentServicer):
    """Signs requests of those who hold a token."""

    def __init__(self, ca: pki.CA, certificates: Certificates, log: Log) -> None:
        self._ca = ca
        self._certificates = certificates
        self._log = log
        self._of_one = Buckets(ENROLMENTS_PER_S_OF_ONE, ENROLMENT_BURST_OF_ONE)
        self._of_all = Bucket(ENROLMENTS_PER_S, ENROLMENT_BURST)

    async def Enrol(self, request: pb.EnrolRequest, context: Context) -> pb.EnrolResponse:  # noqa: N802
        peer = context.peer()
        try:
            return await self._enrol(request, peer)
        except ChaosError as error:
            self._log.warning("enrolment refused", peer=peer, why=error.what)
            await abort_with(context, error)

    async def _enrol(self, request: pb.EnrolRequest, peer: str) -> pb.EnrolResponse:
        now = clock.now()
        # One that asks too often must not use up what all have together.
        if not self._of_one.take(host_of(peer), now) or not self._of_all.take(now):
            raise Refused("too many enrolments at once", hint="try again in a few seconds")
        if len(request.token) > MAX_TOKEN:
            raise InvalidInput("the token is too long")
        csr = await _checked(request.csr_pem)  # a broken one must not cost the token
        digest = hashlib.sha256(request.token.encode()).hexdigest()
        identity, certificate = await self._certificates.enrol(digest, csr, peer)
        self._log.info("enrolled", identity=identity, peer=peer)
        return pb.EnrolResponse(
            certificate_pem=certificate.decode("ascii"),
            ca_pem=self._ca.pem.decode("ascii"),
            identity=str(identity),
        )
