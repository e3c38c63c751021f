"""The abort: everything, everywhere, and nothing starts again until a resume.

In this order: withhold every grant, write the latch to disk, tell every connected
node, end every run, watch each node become clean. Even when the disk does not
answer, the first, third and fourth happen.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from chaos_controller import clock
from chaos_controller.experiments import Experiments
from chaos_controller.fleet import Fleet, NodeSession
from chaos_controller.grants import Authority
from chaos_controller.runs import Runs
from chaos_controller.store import LatchRow, Store
from chaos_core.errors import ChaosError, Latched
from chaos_core.lease import ABORT_BOUND, HEARTBEAT_INTERVAL, REVERT_BUDGET
from chaos_core.log import Log
from chaos_proto.v1 import chaos_pb2 as pb

_DISK_S: Final = 1.0
_POLL_S: Final = 0.1
# A connected node that carries nothing is given this long to say so.
_ANSWER: Final = int(HEARTBEAT_INTERVAL + REVERT_BUDGET)


@dataclass(frozen=True, slots=True)
class Accepted:
    """An abort at ``at`` (µs CLOCK_BOOTTIME). ``unwritten`` says why the latch is not on disk."""

    at: int
    nodes: frozenset[str]
    carried: frozenset[str]
    unwritten: str


class Aborts:
    """The operator's emergency brake."""

    def __init__(
        self,
        authority: Authority,
        fleet: Fleet,
        runs: Runs,
        experiments: Experiments,
        store: Store,
        log: Log,
    ) -> None:
        self._authority = authority
        self._fleet = fleet
        self._runs = runs
        self._experiments = experiments
        self._store = store
        self._log = log

    async def accept(self, actor: str, reason: str) -> Accepted:
        """Latch and send every revert. Returns as soon as that is done."""
        at = clock.now()
        self._authority.latch = LatchRow(actor, reason, clock.rfc3339())
        self._authority.latched_at = at
        self._log.warning("abort", actor=actor, reason=reason)
        carried = frozenset(self._runs.carrying())
        unwritten = await self._write(self._authority.latch)
        for session in self._fleet.sessions.values():
            session.revert("abort")
        self._experiments.abort(f"{actor}: {reason}")
        self._runs.abort(f"{actor}: {reason}")
        nodes = frozenset({*carried, *self._fleet.sessions, *await self._known()})
        return Accepted(at, nodes, carried, unwritten)

    async def follow(self, abort: Accepted) -> AsyncIterator[pb.AbortEvent]:
        """Each node as it becomes clean, at the latest after the abort bound; then the total."""
        waiting, slowest, confirmed = set(abort.nodes), 0, True
        while waiting:
            now = clock.now()
            for node in sorted(waiting):
                event = self._node(node, abort, now)
                if event is not None:
                    waiting.discard(node)
                    confirmed &= event.confirmed or not event.carried_fault
                    slowest = max(slowest, event.clean_after_us)
                    yield event
            if waiting:
                await self._fleet.changed.wait(_POLL_S)
        detail = "nothing starts until: chaosctl resume --reason TEXT"
        if abort.unwritten:
            detail = f"THE LATCH IS NOT ON DISK ({abort.unwritten}): do not restart the controller"
        yield pb.AbortEvent(
            clean_after_us=slowest,
            confirmed=confirmed,
            carried_fault=bool(abort.carried),
            detail=detail,
        )

    async def resume(self, actor: str, reason: str) -> LatchRow | None:
        """Lift the latch, on disk first; returns what it was.

        An abort that is accepted meanwhile stays in force: raises Latched.
        """
        lifted = self._authority.latch
        was = await self._store.clear_latch(actor, reason) or lifted
        newer = self._authority.latch
        if newer is not None and newer is not lifted:
            await self._write(newer)
            raise Latched(
                f"{newer.actor} aborted everything while the resume was written: {newer.reason}",
                hint="when the cause is gone: chaosctl resume --reason TEXT",
            )
        self._authority.latch = None
        self._log.warning("resume", actor=actor, reason=reason)
        return was

    async def _write(self, latch: LatchRow) -> str:
        """Commit the latch; a disk that fails or hangs must not keep the reverts waiting."""
        try:
            async with asyncio.timeout(_DISK_S):
                await self._store.set_latch(latch)
        except (ChaosError, TimeoutError) as error:
            why = str(error) or "the disk does not answer"
            self._log.error("the latch was not written", why=why)
            return why
        return ""

    async def _known(self) -> set[str]:
        try:
            async with asyncio.timeout(_DISK_S):
                return set(await self._store.nodes())
        except (ChaosError, TimeoutError):
            return set()

    def _node(self, node: str, abort: Accepted, now: int) -> pb.AbortEvent | None:
        """What can be said of a node by now, None while it must be waited for."""
        session = self._fleet.sessions.get(node)
        carried = node in abort.carried
        if session and session.clean_since(abort.at) and self._runs.settled(node):
            return pb.AbortEvent(
                node=node,
                clean_after_us=session.heard_at - abort.at,
                confirmed=not session.quarantine,
                carried_fault=carried,
                detail=f"quarantined: {'; '.join(session.quarantine)}"
                if session.quarantine
                else "clean, read back",
            )
        over = self._out_of_reach_at(node, session, abort)
        if now < over:
            return None
        if session is None and not carried:
            detail = "out of reach; it carried no fault of ours"
        elif session is not None and session.heard_at > abort.at:
            detail = f"has not reported itself clean within {ABORT_BOUND}"
        else:
            detail = "out of reach; its lease has run out"
        return pb.AbortEvent(
            node=node,
            clean_after_us=over - abort.at,
            confirmed=False,
            carried_fault=carried,
            detail=detail,
        )

    def _out_of_reach_at(self, node: str, session: NodeSession | None, abort: Accepted) -> int:
        """When a node that says nothing is certainly clean; the bound for one that talks."""
        bound = abort.at + int(ABORT_BOUND)
        if session is not None and session.heard_at > abort.at:
            return bound
        lapsed = max(self._runs.lapsed_at(node), abort.at)
        if session is not None and node not in abort.carried:
            lapsed = max(lapsed, abort.at + _ANSWER)
        return min(lapsed, bound)
