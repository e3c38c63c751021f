"""The gRPC side of chaosctl: one channel a command, errors as ours.

Imported only by commands that talk to a controller: grpc takes a while to load.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from chaos_core.errors import ControllerUnreachable
from chaos_proto import channel  # before grpc: its package quiets grpc's own log lines
from chaos_proto.v1 import chaos_pb2, chaos_pb2_grpc
from chaosctl.options import Target

import grpc  # isort: skip

__all__ = ["ANSWER_S", "chaos_pb2", "lost", "operator"]

# How long a controller may take to answer a plain question.
ANSWER_S = 10.0


@contextmanager
def operator(target: Target) -> Iterator[chaos_pb2_grpc.OperatorStub]:
    """The controller's operator service. What a call raises becomes a ChaosError."""
    with channel.dial_sync(target.controller, target.pki) as link:
        try:
            yield chaos_pb2_grpc.OperatorStub(link)
        except grpc.RpcError as error:
            # A failed call is an RpcError and a Call, which grpc does not say in its types.
            failed: Any = error
            _raise(failed, target)


def _raise(error: grpc.RpcError, target: Target) -> NoReturn:
    channel.raise_from(error, address=target.controller, pki_dir=target.pki)


def lost(target: Target, what: str) -> ControllerUnreachable:
    """A stream that ended before its last event."""
    return ControllerUnreachable(
        f"the controller was lost before {what}",
        where=target.controller,
        hint="without it every fault ends by its lease within 5 s",
    )
