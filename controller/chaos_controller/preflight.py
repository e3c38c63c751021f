"""Whether a run may start. Everything is decided before anything is written or sent.

The agents check most of it again, by their own envelope; the latch and how many
nodes may carry faults at once only the controller can know.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from chaos_controller import targets
from chaos_controller.fleet import Fleet, NodeSession
from chaos_controller.grants import Authority
from chaos_controller.limits import MAX_NODES
from chaos_controller.store import LatchRow
from chaos_core import blast, envelope, faults
from chaos_core.envelope import MAX_DURATION, Draw, Envelope
from chaos_core.errors import (
    EnvelopeExceeded,
    InvalidInput,
    Latched,
    NodeUnreachable,
    Refused,
    Unsupported,
)
from chaos_core.messages import MAX_PARAMS, read_params
from chaos_core.units import Duration
from chaos_proto.v1 import chaos_pb2 as pb


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request that makes sense.

    ``params`` are canonical JSON, by the nodes that are to carry the fault; ``asked`` is
    what they were made of. ``draw`` is None for a kind that only its agents know.
    """

    kind: str
    asked: str
    params: Mapping[str, str]
    duration: Duration
    draw: Draw | None

    @property
    def returns(self) -> bool:
        """Whether its nodes go away with it, and come back."""
        return self.kind in faults.kinds() and faults.lookup(self.kind).takes_down

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(self.params)


async def read(request: pb.InjectRequest, known: Mapping[str, object], fleet: Fleet) -> Wanted:
    """Check a request by itself. ``known`` are all nodes. Raises InvalidInput."""
    nodes = set(request.nodes)
    if not nodes or len(nodes) > MAX_NODES:
        what = f"more than {MAX_NODES} nodes named" if nodes else "no node named"
        raise InvalidInput(what, hint="-n NODE")
    for node in sorted(nodes):
        if node not in known:
            hint = faults.nearest(node, dict.fromkeys(sorted(known))) if known else ""
            raise InvalidInput(f"unknown node {node!r}", hint=hint or "no agent has ever connected")
    if request.duration_us <= 0:
        raise InvalidInput("a fault needs a duration", hint="--for 60s")
    asked = _canonical(read_params(request.params or "{}", request.kind))
    _offered(request.kind, nodes, fleet)
    found = await targets.expand(request, known, fleet)
    params = {node: _canonical(found[node]) for node in sorted(found)}
    draws = [_draw(request.kind, each) for each in found.values()]
    duration = Duration(min(request.duration_us, 2**62))
    return Wanted(request.kind, asked, params, duration, draws[0])


def check_open(authority: Authority, latch: LatchRow | None, now: int) -> None:
    """Raise Latched after an abort, Refused while leases of a former controller may last."""
    latch = latch or authority.latch
    if latch is not None:
        raise Latched(
            f"{latch.actor} aborted everything at {latch.since}: {latch.reason}",
            hint="when the cause is gone: chaosctl resume --reason TEXT",
        )
    left = authority.settled_at - now
    if left > 0:
        seconds = -(-left // 1_000_000)
        raise Refused(
            "this controller has just started, and faults of the one before may not have ended",
            hint=f"try again in {seconds} s",
        )


def check_nodes(wanted: Wanted, fleet: Fleet, authority: Authority, now: int) -> None:
    """Raise unless each node is connected, clean, ours, able, and allows it by itself."""
    for node in wanted.nodes:
        session = _reachable(node, fleet, authority, now)
        _able(session, wanted.kind)
        if wanted.duration > MAX_DURATION:
            raise EnvelopeExceeded(
                f"duration {wanted.duration} is above the ceiling of {MAX_DURATION} for every fault"
            )
        if wanted.draw is not None:
            envelope.check(session.envelope, wanted.draw, wanted.duration)


def check_sum(
    wanted: Wanted, run: str, ceilings: Envelope, others: Mapping[str, Draw | None]
) -> None:
    """Raise EnvelopeExceeded when it is too much beside ``others``, the runs on this node."""
    envelope.check_runs(ceilings, run, others)
    if wanted.draw is not None:
        draws = [draw for draw in others.values() if draw is not None]
        envelope.check(ceilings, wanted.draw, wanted.duration, draws)


def check_radius(
    wanted: Wanted, occupied: Iterable[str], nodes: Mapping[str, Mapping[str, object]]
) -> None:
    """Raise EnvelopeExceeded when too many nodes would carry faults at once.

    ``nodes`` are the store's rows of all known nodes: their number is the fleet.
    """
    busy = set(occupied)
    involved = {*busy, *wanted.nodes}
    ceilings = {
        name: envelope.from_json(json.loads(str(row["envelope"])))
        for name, row in nodes.items()
        if name in involved
    }
    blast.check(wanted.nodes, busy, ceilings, len(nodes))


def _canonical(params: Mapping[str, Any]) -> str:
    text = json.dumps(params, sort_keys=True, separators=(",", ":"))
    if len(text) > MAX_PARAMS:
        raise InvalidInput(f"more than {MAX_PARAMS} bytes", where="params")
    return text


def _offered(kind: str, nodes: Collection[str], fleet: Fleet) -> None:
    """Raise InvalidInput for a kind that neither we nor the nodes know."""
    sessions = (fleet.sessions.get(node) for node in nodes)
    offered = {offer.kind for session in sessions if session for offer in session.hello.kinds}
    names = dict.fromkeys(sorted({*faults.kinds(), *offered}))
    if kind not in names:
        raise InvalidInput(f"unknown fault {kind!r}", hint=faults.nearest(kind, names))


def _draw(kind: str, params: Mapping[str, Any]) -> Draw | None:
    """What they take from a node, if the kind is known here."""
    return faults.parse(kind, params).draw() if kind in faults.kinds() else None


def _reachable(node: str, fleet: Fleet, authority: Authority, now: int) -> NodeSession:
    session = fleet.sessions.get(node)
    if session is None:
        raise NodeUnreachable(
            "not connected", where=node, hint="is chaos-agent running there? chaosctl nodes"
        )
    if session.fenced:
        raise NodeUnreachable(
            "fenced: it has obeyed a later controller than this one",
            where=node,
            hint="chaos-controller run --epoch-at-least N; the controller's log names N",
        )
    if session.quarantine:
        raise NodeUnreachable(
            f"quarantined: {'; '.join(session.quarantine)}",
            where=node,
            hint="look at the differences, then: chaosctl node release NODE --reason TEXT",
        )
    age = now - session.heard_at
    # The lease runs from that heartbeat: enough of it must be left to apply and renew.
    if session.heartbeat is None or age > authority.ttl * 2 // 3:
        raise NodeUnreachable("connected, but silent", where=node, hint="try again in a moment")
    return session


def _able(session: NodeSession, kind: str) -> None:
    offers = {offer.kind: offer for offer in session.hello.kinds}
    if kind not in offers:
        raise Unsupported(
            f"its agent ({session.hello.version}) does not know {kind}", where=session.node
        )
    if not offers[kind].ok:
        raise Unsupported(
            offers[kind].why or f"cannot do {kind}", where=session.node, hint="chaos-agent doctor"
        )
