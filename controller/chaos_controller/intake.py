"""What agents say, checked and cut to size before anything is done with it.

An agent may be taken over. What it sends is kept, shown to operators and sent to their
terminals, so texts are one printable line each and everything is bounded. A hello that
is out of bounds is refused; a heartbeat of a plausible size is cut rather than refused,
since a node must not lose its lease for a long text.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable
from typing import Any, Final

from chaos_controller.limits import (
    MAX_HEARTBEAT,
    MAX_HELLO,
    MAX_KINDS,
    MAX_LABELS,
    MAX_OBSERVED,
    MAX_OFFERED,
    MAX_STATUSES,
)
from chaos_core import envelope
from chaos_core.envelope import Envelope
from chaos_core.errors import InvalidInput, Refused
from chaos_core.hits import MAX_NOTE, UNITS
from chaos_core.messages import (
    MAX_ADDRESSES,
    MAX_DETAIL,
    MAX_LINE,
    MAX_LINES,
    MAX_SURVIVED,
    read_params,
)
from chaos_core.text import printable
from chaos_proto.v1 import chaos_pb2 as pb

_LABEL: Final = 100
_WORD: Final = 64  # bytes of a name, an id, a state
_SENTENCE: Final = 300
_EPOCHS: Final = 2**63
_SURVIVED_WORDS: Final = ("boot", "run", "fault", "kind")
_MOST_HITS: Final = 2**53  # what every reader of JSON takes exactly
_MAX_VALUE: Final = 1e18  # as records keep figures
_STATUS_WORDS: Final = ("fault", "run", "kind", "state", "reason", "code")


def hello(said: pb.Hello) -> Envelope:
    """Bring a hello into bounds and return its envelope. Raises InvalidInput or Refused."""
    size = said.ByteSize()
    if size > MAX_HELLO:
        raise InvalidInput(f"a hello of {size} bytes is above {MAX_HELLO}", where=said.node[:_WORD])
    if len(said.kinds) > MAX_KINDS:
        raise InvalidInput(f"{len(said.kinds)} kinds are more than {MAX_KINDS}", where=said.node)
    if said.epoch >= _EPOCHS:
        raise InvalidInput(f"{said.epoch} is no epoch", where=said.node)
    ceilings = _envelope(said)
    said.envelope = json.dumps(envelope.as_json(ceilings))
    said.version = printable(said.version, _WORD)
    said.boot_id = printable(said.boot_id, _WORD)
    for offer in said.kinds:
        offer.kind = printable(offer.kind, _WORD)
        offer.summary = printable(offer.summary, _SENTENCE)
        offer.lease_holder = printable(offer.lease_holder, _SENTENCE)
        offer.why = printable(offer.why, MAX_DETAIL)
    del said.survived[MAX_SURVIVED:]
    for one in said.survived:
        for name in _SURVIVED_WORDS:
            setattr(one, name, printable(getattr(one, name), _WORD))
    _replace(said.addresses, filter(_reachable, said.addresses[:MAX_ADDRESSES]))
    _replace(said.labels, (printable(text, _LABEL) for text in said.labels[:MAX_LABELS]))
    for name in ("kinds", "hosts", "commands", "files"):
        offered = getattr(said.probes, name)
        _replace(offered, (printable(text, _SENTENCE) for text in offered[:MAX_OFFERED]))
    return ceilings


def heartbeat(said: pb.Heartbeat, node: str) -> pb.Heartbeat:
    """Bring a heartbeat into bounds. Raises Refused when it is none that a keeper sends."""
    size = said.ByteSize()
    if size > MAX_HEARTBEAT:
        raise Refused(f"a heartbeat of {size} bytes is above {MAX_HEARTBEAT}", where=node)
    if len(said.faults) > MAX_STATUSES:
        raise Refused(
            f"{len(said.faults)} faults in a heartbeat are more than {MAX_STATUSES}", where=node
        )
    for status in said.faults:
        for name in _STATUS_WORDS:
            setattr(status, name, printable(getattr(status, name), _WORD))
        status.detail = printable(status.detail, MAX_DETAIL)
        _hits(status)
    _replace(said.quarantine, (printable(text, MAX_LINE) for text in said.quarantine[:MAX_LINES]))
    return said


def _hits(status: pb.FaultStatus) -> None:
    """Bring what a fault has hit into bounds; what is no such figure is left out."""
    told = status.hits
    figures = (told.count, told.seen, told.asked)
    if told.unit not in UNITS or any(figure >= _MOST_HITS for figure in figures):
        status.ClearField("hits")
    else:
        told.note = printable(told.note, MAX_NOTE)


def observations(said: pb.Observations, node: str) -> pb.Observations:
    """Bring what probes have seen into bounds. Raises Refused when no link sends as much."""
    if len(said.seen) > MAX_OBSERVED:
        raise Refused(
            f"{len(said.seen)} observations in a message are more than {MAX_OBSERVED}", where=node
        )
    for seen in said.seen:
        seen.text = printable(seen.text, _SENTENCE)
        if not abs(seen.value) <= _MAX_VALUE:  # NaN neither
            seen.ok, seen.text = False, "what it told is no figure"
    return said


def _replace(field: Any, values: Iterable[str]) -> None:
    kept = list(values)
    del field[:]
    field.extend(kept)


def _reachable(text: str) -> bool:
    """Whether that can be an address by which others reach a node: a fault may aim at it."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (
        address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
    )


def _envelope(said: pb.Hello) -> Envelope:
    try:
        return envelope.from_json(read_params(said.envelope, "envelope"))
    except InvalidInput as error:
        raise InvalidInput(f"its envelope is not one: {error.what}", where=said.node) from None
