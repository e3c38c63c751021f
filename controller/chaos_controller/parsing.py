"""What does not parse as the contract's messages is refused before anybody sees it.

gRPC itself would call that an unhandled exception and write a traceback each time, also
for strangers at the enrolment port: a way to fill a disk.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from chaos_core.errors import InvalidInput
from chaos_proto.channel import abort_with

_SHAPES: Final = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
_NOT_A_MESSAGE: Final = object()


def shape_of(handler: Any) -> str:
    """Which of a handler's four kinds of methods it has."""
    return next(name for name in _SHAPES if getattr(handler, name) is not None)


class Parsing(aio.ServerInterceptor):
    """Stands in front of everything else; ends a call whose messages are none."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        shape = shape_of(handler)
        run = _of_stream if handler.request_streaming else _of_one
        return handler._replace(
            request_deserializer=_forgiving(handler.request_deserializer),
            **{shape: run(getattr(handler, shape))},
        )


def _forgiving(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def parsed(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError:
            return _NOT_A_MESSAGE

    return parsed


def _problem() -> InvalidInput:
    return InvalidInput("not a message of this contract")


def _of_one(run: Callable[[Any, Any], Awaitable[Any]]) -> Any:
    async def checked(request: Any, context: Any) -> Any:
        if request is _NOT_A_MESSAGE:
            await abort_with(context, _problem())
        return await run(request, context)

    return checked


def _of_stream(run: Callable[[Any, Any], Awaitable[Any]]) -> Any:
    async def whole(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            if request is _NOT_A_MESSAGE:
                raise _problem()
            yield request

    async def checked(requests: AsyncIterator[Any], context: Any) -> Any:
        return await run(whole(requests), context)

    return checked
