"""Probes that look from nodes: asked of their links, and what they see put on our clock.

What it promises: a node that is heard again is asked again; what it saw is at the time of our
clock at which the look was due, whenever it arrives; one that says nothing is a failed look each
second, so that its silence is in the figures too when other nodes go on looking. What a node
says of others' watches, or of times at which nobody had asked yet or that are to come, is not kept.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from chaos_controller import clock
from chaos_core.units import SECOND, Duration
from chaos_experiment.probes import Emit, Probe
from chaos_experiment.series import Observation
from chaos_proto.v1 import chaos_pb2 as pb

if TYPE_CHECKING:
    from chaos_controller.fleet import Fleet, NodeSession

# What the way from a node adds to a probe's own timeout: its link tells five times a second.
LATE: Final = Duration.parse("1s")
_SILENT: Final = Duration.parse("3s")  # as long as a lease
_START: Final = Duration.parse("3s")  # for a link to load what a first probe needs
_LOOK_S: Final = 0.5
_WINDOW: Final = 60 * SECOND


@dataclass(slots=True)
class NodeClock:
    """How far our clock is ahead of a node's, by the message that was the least delayed.

    A message arrives after it was sent, by an unknown delay; so the least difference that was
    seen is the nearest to the truth, and a batch that was held up shifts nothing. Only the last
    one or two minutes count: clocks drift, by seconds in a day.
    """

    _least: int | None = None
    _before: int | None = None  # in the window before this one
    _until: int = 0

    def heard(self, sent: int, now: int) -> None:
        """A message that the node sent at ``sent`` by its clock is here at ``now`` by ours."""
        if now >= self._until:
            self._before, self._least, self._until = self._least, None, now + _WINDOW
        ahead = now - sent
        self._least = ahead if self._least is None else min(self._least, ahead)

    def here(self, moment: int) -> int:
        """What our clock showed when the node's showed ``moment``."""
        known = [each for each in (self._least, self._before) if each is not None]
        return moment + min(known)


@dataclass(slots=True)
class Watched:
    """One probe as one node looks by it. Times are of our clock, in µs."""

    name: str
    node: str
    since: int
    emit: Emit
    heard_at: int

    def tell(self, at: int, seen: pb.Observation, now: int) -> None:
        """Keep what the node has seen, if it can be: it may say what it likes."""
        if not self.since <= at <= now:
            return
        self.heard_at = now
        value = seen.value if seen.ok and seen.HasField("value") else None
        text = seen.text if seen.ok else f"{self.node}: {seen.text}"
        self.emit(Observation(self.name, at, seen.ok, value, text))


@dataclass(frozen=True, slots=True)
class Watching:
    """Has nodes look. ``fleet`` are those that are there."""

    fleet: Fleet

    async def watch(self, name: str, probe: Probe, nodes: Iterable[str], emit: Emit) -> None:
        """Have each of the nodes look until cancelled, then let them stop."""
        async with asyncio.TaskGroup() as each:
            for node in nodes:
                each.create_task(self._watch(name, probe, node, emit))

    async def _watch(self, name: str, probe: Probe, node: str, emit: Emit) -> None:
        asked = pb.Watch(id=secrets.token_hex(8), kind=probe.kind, params=params(probe))
        since = clock.now()
        looking = Watched(name, node, since, emit, since + probe.initial_delay + _START)
        patience = max(_SILENT, probe.due(1) + probe.timeout * (1 + probe.retries) + LATE)
        told: NodeSession | None = None
        silent_at = 0
        try:
            while True:
                session = self.fleet.sessions.get(node)
                if session is not None and session is not told and not session.fenced:
                    session.watched[asked.id] = looking
                    session.send(pb.ToAgent(watch=asked))
                    told = session
                now = clock.now()
                if now - max(looking.heard_at + patience, silent_at + SECOND) >= 0:
                    silent_at = now
                    emit(Observation(name, now, False, None, f"{node} says nothing"))
                await asyncio.sleep(_LOOK_S)
        finally:
            if told is not None:
                told.watched.pop(asked.id, None)
                told.send(pb.ToAgent(unwatch=pb.Unwatch(id=asked.id)))


def params(probe: Probe) -> str:
    """A probe as it goes over the wire."""
    told = probe.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return json.dumps(told, sort_keys=True, separators=(",", ":"))
