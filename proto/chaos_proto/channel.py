"""Channels to the controller, and how errors cross them.

A channel is made at once and connects when first used; what is wrong with the
files is said at once, what is wrong with the far end by ``raise_from``.
An error of ours travels as a gRPC status with its code, place and hint in the
trailing metadata, so that the far end raises the same class again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import grpc

from chaos_core import errors
from chaos_core.errors import ChaosError, ControllerUnreachable, InvalidInput, NotPermitted
from chaos_core.text import printable
from chaos_proto import address as addresses
from chaos_proto.credentials import Credentials

if TYPE_CHECKING:
    from grpc import aio

# The largest message that each side takes, in bytes. Whatever is larger is refused by its
# length, before it is read.
MAX_TO_CONTROLLER: Final = 256 * 1024  # an agent's schemas are the largest
MAX_TO_AGENT: Final = 64 * 1024
MAX_TO_OPERATOR: Final = 64 * 1024 * 1024  # what a thousand nodes say of themselves

# A dead path is noticed within about 2 s and a connection tried again at least every second:
# the lease lasts 3 s. Proxies are ignored, since a lease must not depend on one.
CLIENT_OPTIONS: Final[Sequence[tuple[str, Any]]] = (
    ("grpc.keepalive_time_ms", 1_000),
    ("grpc.keepalive_timeout_ms", 1_500),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 2_000),  # how long one attempt to connect may take
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.max_send_message_length", MAX_TO_CONTROLLER),
)

# The other half: pings are welcome, and a client that has gone is noticed as fast.
_SERVER_OPTIONS: Final[Sequence[tuple[str, Any]]] = (
    ("grpc.keepalive_time_ms", 1_000),
    ("grpc.keepalive_timeout_ms", 1_500),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.so_reuseport", 0),
    ("grpc.max_metadata_size", 8 * 1024),
    ("grpc.max_receive_message_length", MAX_TO_CONTROLLER),
    ("grpc.max_send_message_length", MAX_TO_OPERATOR),
    # Strangers get as far as the TLS handshake, and not for long.
    ("grpc.server_handshake_timeout_ms", 5_000),
)

SERVER_OPTIONS: Final[Sequence[tuple[str, Any]]] = (
    *_SERVER_OPTIONS,
    ("grpc.max_allowed_incoming_connections", 4_096),
    ("grpc.max_concurrent_streams", 64),  # of one connection
    ("grpc.max_connection_idle_ms", 60_000),  # an agent's has its session, so is never idle
)

# Enrolment is one short call, by those of whom nothing is known yet: a connection that has
# not done it after some seconds is in somebody's way.
ENROLMENT_OPTIONS: Final[Sequence[tuple[str, Any]]] = (
    *_SERVER_OPTIONS,
    ("grpc.max_allowed_incoming_connections", 256),
    ("grpc.max_concurrent_streams", 2),
    ("grpc.max_connection_idle_ms", 5_000),
    ("grpc.max_connection_age_ms", 10_000),
    ("grpc.max_connection_age_grace_ms", 2_000),
)

_MAX_TEXT = 1_000  # bytes each; all of them travel as headers, which are small
_CODE = "chaos-error-code"
_WHERE = "chaos-error-where-bin"
_HINT = "chaos-error-hint-bin"
_STATUS: Final = {
    "invalid": grpc.StatusCode.INVALID_ARGUMENT,
    "role": grpc.StatusCode.PERMISSION_DENIED,
    "revoked": grpc.StatusCode.PERMISSION_DENIED,
}


def client_options(most: int) -> Sequence[tuple[str, Any]]:
    """The options of a channel whose user takes messages of up to ``most`` bytes."""
    return (*CLIENT_OPTIONS, ("grpc.max_receive_message_length", most))


def dial(address: str, pki_dir: Path, *, most: int = MAX_TO_OPERATOR) -> aio.Channel:
    """A channel to the controller as the identity in ``pki_dir``, as it is there now.

    Must be called in a running event loop. ``address`` without a port means 7400, ``most``
    is the largest message that is taken.
    Raises InvalidInput when the address or a file is wrong.
    """
    from grpc import aio

    target, credentials = _target(address, Path(pki_dir))
    return aio.secure_channel(target, credentials, options=client_options(most))


def dial_sync(address: str, pki_dir: Path) -> grpc.Channel:
    """The same for code without an event loop."""
    target, credentials = _target(address, Path(pki_dir))
    return grpc.secure_channel(target, credentials, options=client_options(MAX_TO_OPERATOR))


def diagnose(pki_dir: Path) -> None:
    """Raise InvalidInput when the identity on this machine is the reason why nobody answers."""
    Credentials.read(pki_dir).check()


# ── errors ────────────────────────────────────────────────────────────────────────────────


def status_of(
    error: ChaosError,
) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str | bytes], ...]]:
    """An error of ours as gRPC carries it: status, details, trailing metadata."""
    where, hint = (printable(text, _MAX_TEXT).encode() for text in (error.where, error.hint))
    metadata = ((_CODE, error.code), (_WHERE, where), (_HINT, hint))
    status = _STATUS.get(error.code, grpc.StatusCode.FAILED_PRECONDITION)
    return status, printable(error.what, _MAX_TEXT), metadata


async def abort_with(context: aio.ServicerContext[Any, Any], error: ChaosError) -> NoReturn:
    """End the call with this error, so that ``raise_from`` raises it at the other end."""
    status, details, metadata = status_of(error)
    await context.abort(status, details, metadata)
    raise AssertionError("abort returned")  # unreachable: abort always raises


def raise_from(error: grpc.RpcError, *, address: str = "", pki_dir: Path | None = None) -> NoReturn:
    """Raise the ChaosError that a failed call stands for.

    Without an answer: InvalidInput when ``pki_dir`` explains it, else
    ControllerUnreachable with ``address``. Works for grpc and grpc.aio calls.
    """
    details = printable(error.details() or "", _MAX_TEXT)
    trailer: Any = error.trailing_metadata() or ()
    metadata: dict[str, Any] = dict(trailer)
    if _CODE in metadata:
        told = (bytes(metadata.get(key, b"")).decode(errors="replace") for key in (_WHERE, _HINT))
        where, hint = (printable(text, _MAX_TEXT) for text in told)
        raise errors.from_code(str(metadata[_CODE]), details, where=where, hint=hint) from error
    status = error.code()
    if status in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        if pki_dir is not None:
            diagnose(pki_dir)
        raise _unreachable(address, details) from error
    if status in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        raise NotPermitted(details or "the controller does not know this certificate") from error
    name = status.name.lower().replace("_", " ")
    raise ChaosError(f"the controller answered: {name}: {details}", where=address) from error


def _unreachable(address: str, details: str) -> ChaosError:
    if "CERTIFICATE_VERIFY_FAILED" in details or "Hostname Verification" in details:
        return InvalidInput(
            "the controller's certificate is not of our CA, has expired,"
            " or does not carry the name it was dialled by",
            where=address,
            hint="is this the right controller? controller.names in its PKI lists what it is"
            " reached by; is this machine's clock right?",
        )
    return ControllerUnreachable(
        "the controller does not answer",
        where=address,
        hint="is chaos-controller running, and is the address right?",
    )


def _target(address: str, pki_dir: Path) -> tuple[str, grpc.ChannelCredentials]:
    host, port = addresses.split(address)
    us = Credentials.read(pki_dir)
    credentials = grpc.ssl_channel_credentials(us.ca, us.key, us.certificate)
    return addresses.join(host, port), credentials
