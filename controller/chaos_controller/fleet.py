"""The nodes as they are right now: who is connected, what they last said, what we promised.

Everything here is lost with the process and may be: what must not be is in the store.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

from chaos_controller import clock, grants
from chaos_controller.limits import (
    MESSAGE_BURST,
    MESSAGES_PER_S,
    QUEUE,
    SESSION_BURST,
    SESSIONS_PER_S,
    Buckets,
)
from chaos_controller.watching import NodeClock, Watched
from chaos_core.envelope import Envelope
from chaos_core.lease import REVERT_BUDGET
from chaos_proto.v1 import chaos_pb2 as pb

# µs between reverts of what has been reverted already.
_REMINDER: Final = 1_000_000


class Pulse:
    """Wakes everybody who waits; they look for themselves what has changed."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def beat(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, timeout_s: float) -> None:
        """Until the next beat, or the time is over."""
        event = self._event
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            pass


@dataclass(slots=True, eq=False)
class NodeSession:
    """One stream of one agent. ``closing`` is set when the stream must end, ``closed`` says why."""

    node: str
    address: str
    hello: pb.Hello
    envelope: Envelope
    fenced: bool
    heartbeat: pb.Heartbeat | None = None
    heard_at: int = 0  # when the heartbeat was received, µs CLOCK_BOOTTIME
    reminded_at: int = 0
    closed: str = ""
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    outbox: asyncio.Queue[pb.ToAgent] = field(default_factory=lambda: asyncio.Queue(QUEUE))
    watched: dict[str, Watched] = field(default_factory=dict)  # by the watches' ids
    clock: NodeClock = field(default_factory=NodeClock)

    def send(self, message: pb.ToAgent) -> bool:
        """Queue a message. False, and the stream is closed, when the agent takes none."""
        if self.closed:
            return False
        try:
            self.outbox.put_nowait(message)
        except asyncio.QueueFull:
            self.close("the agent takes no messages")
            return False
        return True

    def revert(self, reason: str, fault: str = "") -> bool:
        """Tell the node to end one fault, or all of them: to fenced nodes too, ending is safe."""
        return self.send(pb.ToAgent(revert=pb.Revert(fault=fault, reason=reason)))

    def remind(self, reason: str, now: int, fault: str = "") -> None:
        """Revert again what a heartbeat still shows, at most once a second."""
        if now - self.reminded_at >= _REMINDER:
            self.reminded_at = now
            self.revert(reason, fault)

    def observed(self, said: pb.Observations, now: int) -> None:
        """What its probes have seen, for those who asked."""
        self.clock.heard(said.sent_at_us, now)
        for seen in said.seen:
            if seen.watch in self.watched:
                self.watched[seen.watch].tell(self.clock.here(seen.due_us), seen, now)

    def close(self, why: str) -> None:
        """End the stream now, whatever is queued."""
        self.closed = self.closed or why
        self.closing.set()

    @property
    def faults(self) -> tuple[pb.FaultStatus, ...]:
        """What the node last said of its faults."""
        return tuple(self.heartbeat.faults) if self.heartbeat else ()

    @property
    def quarantine(self) -> tuple[str, ...]:
        return tuple(self.heartbeat.quarantine) if self.heartbeat else ()

    @property
    def state(self) -> str:
        """connected, quarantined or fenced, as operators see it."""
        if self.fenced:
            return "fenced"
        return "quarantined" if self.quarantine else "connected"

    def clean_since(self, moment: int) -> bool:
        """Whether a heartbeat received after ``moment`` shows no fault at all on the node."""
        return self.heard_at > moment and not grants.active(self.faults)


class Fleet:
    """All sessions by node. ``changed`` beats with each heartbeat, coming and going."""

    def __init__(self) -> None:
        self.sessions: dict[str, NodeSession] = {}
        self.changed = Pulse()
        self._held_until: dict[str, dict[str, int]] = {}
        self._messages = Buckets(MESSAGES_PER_S, MESSAGE_BURST)
        self._joins = Buckets(SESSIONS_PER_S, SESSION_BURST)

    def join(self, session: NodeSession) -> None:
        """A node is here; an older session of the same node gives way."""
        older = self.sessions.get(session.node)
        if older is not None:
            older.close("a newer session of this node has taken its place")
        self.sessions[session.node] = session
        self.changed.beat()

    def leave(self, session: NodeSession) -> None:
        """A stream has ended. One that was replaced leaves no trace."""
        session.close("disconnected")
        if self.sessions.get(session.node) is session:
            del self.sessions[session.node]
        self.changed.beat()

    def admit_message(self, node: str) -> bool:
        """Whether this node may send one more message now."""
        return self._messages.take(node, clock.now())

    def admit_session(self, node: str) -> bool:
        """Whether this node may say hello once more now: each is written to the store."""
        return self._joins.take(node, clock.now())

    def promised(self, node: str, run: str, until: int) -> None:
        """The lease of a run on this node may last until then.

        Pass the time of sending + ttl: the node counts from when it *sent* the
        heartbeat, which was earlier, so its own expiry is never later.
        """
        held = self._held_until.setdefault(node, {})
        held[run] = max(held.get(run, 0), until)

    def lapsed_at(self, node: str, run: str = "") -> int:
        """When what was granted to a run there (or to all of them) is over; 0: nothing was."""
        held = self._held_until.get(node, {})
        last = held.get(run, 0) if run else max(held.values(), default=0)
        return last + int(REVERT_BUDGET) if last else 0

    def forget(self, node: str, run: str) -> None:
        """The run carries nothing on this node any more."""
        self._held_until.get(node, {}).pop(run, None)
