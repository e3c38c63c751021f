"""Who may call what: decided once, before any method runs, and denied unless listed.

The caller is whom the client certificate names; TLS has already checked that our
CA signed it, certificates.py says whether it still holds. Errors of ours become gRPC
statuses here, and refusals are audited.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import grpc
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from grpc import aio

from chaos_controller import clock
from chaos_controller.certificates import Certificates
from chaos_controller.limits import (
    CALL_BURST,
    CALLS_AT_ONCE,
    CALLS_PER_S,
    MAX_AUDITED,
    MAX_REQUEST,
    REFUSAL_BURST,
    REFUSALS_PER_S,
    Buckets,
)
from chaos_controller.parsing import shape_of
from chaos_controller.store import Store
from chaos_controller.timeline import Later
from chaos_core.errors import ChaosError, InvalidInput, NotPermitted, Refused
from chaos_core.log import Log
from chaos_core.text import printable
from chaos_proto import pki
from chaos_proto.channel import abort_with
from chaos_proto.identity import Identity

Context = aio.ServicerContext[Any, Any]

_OPERATOR: Final = frozenset({"operator"})
_VIEWER: Final = frozenset({"operator", "viewer"})
_AGENT: Final = frozenset({"agent"})

# Every method of the main port. One that is missing here can be called by nobody.
ROLES: Final = {
    "/chaos.v1.AgentLink/Session": _AGENT,
    "/chaos.v1.Operator/ListNodes": _VIEWER,
    "/chaos.v1.Operator/Inject": _OPERATOR,
    "/chaos.v1.Operator/Experiment": _OPERATOR,
    "/chaos.v1.Operator/End": _OPERATOR,
    "/chaos.v1.Operator/GetRecord": _VIEWER,
    "/chaos.v1.Operator/Watch": _VIEWER,
    "/chaos.v1.Operator/Abort": _OPERATOR,
    "/chaos.v1.Operator/Resume": _OPERATOR,
    "/chaos.v1.Operator/ListRuns": _VIEWER,
    "/chaos.v1.Operator/GetRun": _VIEWER,
    "/chaos.v1.Operator/CreateToken": _OPERATOR,
    "/chaos.v1.Operator/ReleaseNode": _OPERATOR,
    "/chaos.v1.Operator/ForgetNode": _OPERATOR,
    "/chaos.v1.Operator/ListAudit": _VIEWER,
    "/chaos.v1.Operator/ListCertificates": _VIEWER,
    "/chaos.v1.Operator/Revoke": _OPERATOR,
    "/chaos.v1.Renewal/Renew": _AGENT | _VIEWER,
}
# Never kept waiting, whatever else its caller does; api.py bounds it once an abort is in force.
_ALWAYS: Final = "/chaos.v1.Operator/Abort"


def caller(context: Context) -> Identity:
    """Whom the client's certificate names. Raises NotPermitted when it names nobody of ours."""
    return certificate(context).identity


def certificate(context: Context) -> pki.Leaf:
    """The client's certificate. Raises NotPermitted when it names nobody of ours."""
    pems = context.auth_context().get("x509_pem_cert") or ()
    try:
        return pki.leaf_of(bytes(next(iter(pems), b"")))
    except ChaosError as error:
        raise NotPermitted(error.what, hint="enrol again: chaosctl pki enrol") from None


class Gate(aio.ServerInterceptor):
    """Checks certificate and role, then runs the method and translates its errors.

    A call whose certificate ceases to hold is ended.
    """

    def __init__(self, certificates: Certificates, store: Store, log: Log, later: Later) -> None:
        self._certificates = certificates
        self._store = store
        self._later = later
        self._log = log
        self._refusals = Buckets(REFUSALS_PER_S, REFUSAL_BURST)
        self._calls = Buckets(CALLS_PER_S, CALL_BURST)
        self._open: Counter[str] = Counter()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        shape = shape_of(handler)
        guarded = self._guard(method, getattr(handler, shape))
        return handler._replace(**{shape: guarded})

    def _guard(self, method: str, run: Callable[[Any, Context], Awaitable[Any]]) -> Any:
        async def guarded(request: Any, context: Context) -> Any:
            actor = "nobody"
            try:
                leaf = certificate(context)
                who, actor = leaf.identity, str(leaf.identity)
                if who.role not in ROLES.get(method, frozenset()):
                    raise NotPermitted(f"{who} may not call {method.rpartition('/')[2]}")
                async with self._certificates.used(leaf):
                    with self._bounded(actor, method, request):
                        return await run(request, context)
            except ChaosError as error:
                self._refused(actor, method, request, error)
                await abort_with(context, error)

        return guarded

    @contextmanager
    def _bounded(self, actor: str, method: str, request: Any) -> Iterator[None]:
        """Keep one caller from taking what all share. Raises InvalidInput or Refused."""
        size = request.ByteSize() if isinstance(request, Message) else 0
        if size > MAX_REQUEST:
            raise InvalidInput(f"a request of {size} bytes is above {MAX_REQUEST}")
        if method != _ALWAYS:
            if not self._calls.take(actor, clock.now()):
                raise Refused(f"{actor}: more than {CALLS_PER_S:g} calls a second")
            if self._open[actor] >= CALLS_AT_ONCE:
                raise Refused(
                    f"{actor}: {CALLS_AT_ONCE} calls are open already",
                    hint="end what still watches, or wait",
                )
        self._open[actor] += 1
        try:
            yield
        finally:
            self._open[actor] -= 1
            if not self._open[actor]:
                del self._open[actor]

    def _refused(self, actor: str, method: str, request: Any, error: ChaosError) -> None:
        """Write it down behind the call's back: whoever hangs up must not escape the audit log."""
        # A client that tries again for ever must not fill the disk.
        if not self._refusals.take(actor, clock.now()):
            return
        short = isinstance(request, Message) and request.ByteSize() <= MAX_REQUEST
        text = MessageToJson(request, indent=None) if short else ""
        name = method.rpartition("/")[2]
        self._log.warning("refused", actor=actor, call=name, code=error.code, why=error.what)
        self._later(
            partial(
                self._store.audit,
                actor=actor,
                action=name.lower(),
                request=printable(text, MAX_AUDITED),
                decision=f"refused: {error.code}",
                outcome=printable(error.what, MAX_AUDITED),
            )
        )
