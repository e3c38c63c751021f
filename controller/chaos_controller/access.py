"""Who may call what: decided once, before any method runs, and denied unless listed.

The caller is whom the client certificate names; TLS has already checked that our
CA signed it. Errors of ours become gRPC statuses here, and refusals are audited.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from grpc import aio

from chaos_controller import clock
from chaos_controller.limits import Bucket
from chaos_controller.store import Store
from chaos_core.errors import ChaosError, NotPermitted
from chaos_core.log import Log
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
    "/chaos.v1.Operator/Watch": _VIEWER,
    "/chaos.v1.Operator/Abort": _OPERATOR,
    "/chaos.v1.Operator/Resume": _OPERATOR,
    "/chaos.v1.Operator/ListRuns": _VIEWER,
    "/chaos.v1.Operator/GetRun": _VIEWER,
    "/chaos.v1.Operator/CreateToken": _OPERATOR,
    "/chaos.v1.Operator/ReleaseNode": _OPERATOR,
    "/chaos.v1.Operator/ListAudit": _VIEWER,
}
_MAX_AUDITED = 2_000


def caller(context: Context) -> Identity:
    """Whom the client's certificate names. Raises NotPermitted when it names nobody of ours."""
    pems = context.auth_context().get("x509_pem_cert") or ()
    try:
        return pki.identity_of(bytes(next(iter(pems), b"")))
    except ChaosError as error:
        raise NotPermitted(error.what, hint="enrol again: chaosctl pki enrol") from None


class Gate(aio.ServerInterceptor):
    """Checks the role, then runs the method and translates its errors."""

    def __init__(self, store: Store, log: Log) -> None:
        self._store = store
        self._log = log
        self._refusals: dict[str, Bucket] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        shapes = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
        (shape,) = (name for name in shapes if getattr(handler, name) is not None)
        guarded = self._guard(method, getattr(handler, shape))
        return handler._replace(**{shape: guarded})

    def _guard(self, method: str, run: Callable[[Any, Context], Awaitable[Any]]) -> Any:
        async def guarded(request: Any, context: Context) -> Any:
            actor = "nobody"
            try:
                who = caller(context)
                actor = str(who)
                if who.role not in ROLES.get(method, frozenset()):
                    raise NotPermitted(f"{who} may not call {method.rpartition('/')[2]}")
                return await run(request, context)
            except ChaosError as error:
                await self._refused(actor, method, request, error)
                await abort_with(context, error)

        return guarded

    async def _refused(self, actor: str, method: str, request: Any, error: ChaosError) -> None:
        # A client that tries again for ever must not fill the disk.
        if not self._refusals.setdefault(actor, Bucket(rate=1, burst=60)).take(clock.now()):
            return
        text = MessageToJson(request, indent=None) if isinstance(request, Message) else ""
        name = method.rpartition("/")[2]
        self._log.warning("refused", actor=actor, call=name, code=error.code, why=error.what)
        try:
            await self._store.audit(
                actor=actor,
                action=name.lower(),
                request=text[:_MAX_AUDITED],
                decision=f"refused: {error.code}",
                outcome=error.what,
            )
        except ChaosError as failure:
            self._log.error("audit failed", why=failure.what)
