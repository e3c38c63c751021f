"""What keeper and link say to each other over ``/run/chaos/keeper.sock``.

One JSON object a message, on a SOCK_SEQPACKET socket, at most ``MAX_MESSAGE``
bytes. The keeper trusts none of it: every field is typed and bounded here,
unknown fields are refused, and times never cross in this direction. What it says
itself is bounded too: no parameter that it repeats and no rule that it finds may
make a heartbeat that the link cannot carry.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from chaos_core.envelope import MAX_FAULTS
from chaos_core.errors import InvalidInput
from chaos_core.hits import Hits
from chaos_core.text import printable

T = TypeVar("T")

# All limits of keeper.sock, in bytes unless it says otherwise.
MAX_MESSAGE = 64 * 1024  # to the keeper
MAX_FROM_KEEPER = 128 * 1024  # a hello with all its schemas; the fullest heartbeat has 100 KiB
MAX_MESSAGES_PER_S = 100  # from the link; more is a flood
MAX_CONNECTIONS_PER_S = 10  # of links
MAX_PARAMS = 8 * 1024
MAX_RUNS = 16  # named by one grant
MAX_REASON = 500  # of a release
MAX_REVERT_REASON = 200
MAX_DETAIL = 1_000
MAX_ADDRESSES = 64  # of a node, in its hello
MAX_ENDED = MAX_FAULTS  # faults that have ended and that heartbeats still tell of
MAX_SURVIVED = MAX_FAULTS  # faults of an earlier boot that a hello tells of
MAX_LINES = 20  # differences of a quarantined node that heartbeats tell of
MAX_LINE = 500

Identifier = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
FaultId = Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
Epoch = Annotated[int, Field(ge=0, lt=2**63)]
Sequence = Annotated[int, Field(ge=0, lt=2**63)]
Micros = Annotated[int, Field(ge=0, le=10**12)]
Detail = Annotated[str, AfterValidator(partial(printable, limit=MAX_DETAIL))]


def _first(lines: tuple[str, ...]) -> tuple[str, ...]:
    """What of a list of differences is told: the first ones, and how many more there are."""
    told = lines if len(lines) <= MAX_LINES else lines[: MAX_LINES - 1]
    more = len(lines) - len(told)
    rest = (f"… and {more} more, in the node's log",) if more else ()
    return (*(printable(line, MAX_LINE) for line in told), *rest)


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
    runs: Annotated[tuple[Identifier, ...], Field(max_length=MAX_RUNS, strict=False)] = ()


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
    reason: Annotated[str, Field(max_length=MAX_REVERT_REASON)] = "revert"


class Release(Message):
    """Lift the quarantine, if nothing of ours is found on the node."""

    type: Literal["release"] = "release"
    epoch: Epoch
    reason: Annotated[str, Field(min_length=1, max_length=MAX_REASON)]


ToKeeper = Annotated[Grant | Apply | Revert | Release, Field(discriminator="type")]


# ── keeper → link ─────────────────────────────────────────────────────────────────────────


class FaultStatus(Message):
    """A fault that is on the node, or was within the last minutes.

    ``state``: applying, in_force, reverting, ended, refused. ``clean`` says
    whether the node equalled its snapshot afterwards. Times are µs of this
    node's CLOCK_BOOTTIME, for reports only. ``hits`` is None for what is not counted.
    """

    fault: str
    run: str
    kind: str
    state: Literal["applying", "in_force", "reverting", "ended", "refused"]
    reason: str = ""
    code: str = ""
    detail: Detail = ""
    clean: bool = True
    started_at: int = 0
    in_force_at: int = 0
    ended_at: int = 0
    expires_at: int = 0
    hits: Hits | None = None


class Survived(Message):
    """A fault that was on the node in an earlier ``boot``, and that the present one has ended."""

    boot: str
    run: str
    fault: str
    kind: str


class Hello(Message):
    """Said once when the link connects: who this node is and what it can and may do."""

    type: Literal["hello"] = "hello"
    node: str
    version: str
    boot_id: str
    epoch: int
    envelope: dict[str, Any]
    kinds: dict[str, Any]  # kind → {schema, summary, lease_holder, risky, ok, why}
    addresses: tuple[str, ...] = ()  # by which others may reach it
    labels: tuple[str, ...] = ()  # like role=db
    survived: tuple[Survived, ...] = ()


class Heartbeat(Message):
    """Sent every second and at each change; a grant answers its ``seq``."""

    type: Literal["heartbeat"] = "heartbeat"
    seq: int
    sent_at: int
    epoch: int
    faults: tuple[FaultStatus, ...] = ()
    quarantine: Annotated[tuple[str, ...], AfterValidator(_first)] = ()


_TO_KEEPER: TypeAdapter[Grant | Apply | Revert | Release] = TypeAdapter(ToKeeper)
_FROM_KEEPER: TypeAdapter[Hello | Heartbeat] = TypeAdapter(
    Annotated[Hello | Heartbeat, Field(discriminator="type")]
)


def to_keeper(data: bytes) -> Grant | Apply | Revert | Release:
    """Parse a message from the link. Raises InvalidInput, naming the field."""
    return _parse(_TO_KEEPER, data, MAX_MESSAGE)


def from_keeper(data: bytes) -> Hello | Heartbeat:
    """Parse a message from the keeper. Raises InvalidInput."""
    return _parse(_FROM_KEEPER, data, MAX_FROM_KEEPER)


def read_params(text: str, where: str = "params") -> dict[str, Any]:
    """A fault's parameters from their JSON. Raises InvalidInput, also for what nests without end.

    Not ``json.loads``: that one raises RecursionError, and accepts NaN and halves of
    surrogate pairs, which no other program can read back.
    """
    try:
        params = from_json(text.encode(), allow_inf_nan=False)
    except ValueError as error:
        raise InvalidInput(f"params: not JSON: {error}", where=where) from None
    if not isinstance(params, dict):
        raise InvalidInput("params: not a JSON object", where=where)
    return params


def _parse(adapter: TypeAdapter[T], data: bytes, limit: int) -> T:
    if len(data) > limit:
        raise InvalidInput(f"message of {len(data)} bytes is above {limit}")
    try:
        return adapter.validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "message"
        raise InvalidInput(f"{field}: {first['msg']}", where="keeper.sock") from None
