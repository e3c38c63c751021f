"""What keeper and link say to each other over ``/run/chaos/keeper.sock``.

One JSON object a message, on a SOCK_SEQPACKET socket, at most ``MAX_MESSAGE``
bytes. The keeper trusts none of it: every field is typed and bounded here,
unknown fields are refused, and times never cross in this direction.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from chaos_core.errors import InvalidInput

T = TypeVar("T")

MAX_MESSAGE = 64 * 1024
MAX_PARAMS = 8 * 1024

Identifier = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
FaultId = Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
Epoch = Annotated[int, Field(ge=0, lt=2**63)]
Sequence = Annotated[int, Field(ge=0, lt=2**63)]
Micros = Annotated[int, Field(ge=0, le=10**12)]


class Message(BaseModel):
    """Base of all messages: nothing unknown, nothing coerced, nothing changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


# ── link → keeper ─────────────────────────────────────────────────────────────────────────


class Grant(Message):
    """The controller lets ``runs`` go on for ``ttl_us`` from heartbeat ``seq`` on."""

    type: Literal["grant"] = "grant"
    epoch: Epoch
    seq: Sequence
    ttl_us: Micros
    runs: Annotated[tuple[Identifier, ...], Field(max_length=16, strict=False)] = ()


class Apply(Message):
    """Start a fault, under the lease that heartbeat ``seq`` gives it."""

    type: Literal["apply"] = "apply"
    epoch: Epoch
    seq: Sequence
    ttl_us: Micros
    run: Identifier
    fault: FaultId
    kind: Annotated[str, Field(max_length=64)]
    params: Annotated[str, Field(max_length=MAX_PARAMS)]  # canonical JSON
    duration_us: Micros


class Revert(Message):
    """End one fault, or all of them when ``fault`` is empty. Always accepted."""

    type: Literal["revert"] = "revert"
    fault: Annotated[str, Field(pattern=r"^([0-9a-f]{8})?$")] = ""
    reason: Annotated[str, Field(max_length=200)] = "revert"


class Release(Message):
    """Lift the quarantine, if nothing of ours is found on the node."""

    type: Literal["release"] = "release"
    epoch: Epoch
    reason: Annotated[str, Field(min_length=1, max_length=500)]


ToKeeper = Annotated[Grant | Apply | Revert | Release, Field(discriminator="type")]


# ── keeper → link ─────────────────────────────────────────────────────────────────────────


class FaultStatus(Message):
    """A fault that is on the node, or was within the last minutes.

    ``state``: applying, in_force, reverting, ended, refused. ``clean`` says
    whether the node equalled its snapshot afterwards. Times are µs of this
    node's CLOCK_BOOTTIME, for reports only.
    """

    fault: str
    run: str
    kind: str
    state: Literal["applying", "in_force", "reverting", "ended", "refused"]
    reason: str = ""
    code: str = ""
    detail: str = ""
    clean: bool = True
    started_at: int = 0
    in_force_at: int = 0
    ended_at: int = 0
    expires_at: int = 0


class Hello(Message):
    """Said once when the link connects: who this node is and what it can and may do."""

    type: Literal["hello"] = "hello"
    node: str
    version: str
    boot_id: str
    epoch: int
    envelope: dict[str, Any]
    kinds: dict[str, Any]  # kind → {schema, summary, lease_holder, risky, ok, why}


class Heartbeat(Message):
    """Sent every second and at each change; a grant answers its ``seq``."""

    type: Literal["heartbeat"] = "heartbeat"
    seq: int
    sent_at: int
    epoch: int
    faults: tuple[FaultStatus, ...] = ()
    quarantine: tuple[str, ...] = ()


_TO_KEEPER: TypeAdapter[Grant | Apply | Revert | Release] = TypeAdapter(ToKeeper)
_FROM_KEEPER: TypeAdapter[Hello | Heartbeat] = TypeAdapter(
    Annotated[Hello | Heartbeat, Field(discriminator="type")]
)


def to_keeper(data: bytes) -> Grant | Apply | Revert | Release:
    """Parse a message from the link. Raises InvalidInput, naming the field."""
    return _parse(_TO_KEEPER, data)


def from_keeper(data: bytes) -> Hello | Heartbeat:
    """Parse a message from the keeper. Raises InvalidInput."""
    return _parse(_FROM_KEEPER, data)


def _parse(adapter: TypeAdapter[T], data: bytes) -> T:
    if len(data) > MAX_MESSAGE:
        raise InvalidInput(f"message of {len(data)} bytes is above {MAX_MESSAGE}")
    try:
        return adapter.validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "message"
        raise InvalidInput(f"{field}: {first['msg']}", where="keeper.sock") from None
