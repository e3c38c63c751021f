"""Decides, with leases and the envelope, what the engine does. No socket, no clock.

One per node. Messages from the link (or from ``apply --local``) come in with the
time; heartbeats with the state of every fault go out. It must never do more than
the envelope allows, whoever asks, nor keep a fault beyond its lease.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from chaos_agent.config import AgentConfig
from chaos_agent.effects import FAILED, words
from chaos_agent.engine import Engine, Standing
from chaos_agent.journal import epoch_file, quarantine_file, read_quarantine
from chaos_core import envelope
from chaos_core.errors import ChaosError, InvalidInput, NotInForce, Refused, Unsupported
from chaos_core.faults import parse
from chaos_core.lease import KERNEL_GRAIN, End, Lease, LeaseTable
from chaos_core.log import Log
from chaos_core.messages import (
    MAX_ENDED,
    Apply,
    FaultStatus,
    Grant,
    Heartbeat,
    Release,
    Revert,
    read_params,
)
from chaos_core.run import RECOVER_BUDGET
from chaos_core.units import Duration

_CHECK_EVERY = 1_000_000  # read a fault in force back once a second
_SETTLE_EVERY = 100_000  # and one that is being applied ten times a second
_RETRY_EVERY = 200_000  # what failed once is tried again: renew, read back, revert
# µs for a fault to be wholly gone; then the node is quarantined.
_REVERT_BUDGET = int(RECOVER_BUDGET)
_LEFT = "still there: "
_SETTLE_BUDGET = 12_000_000  # µs for a fault to be wholly there; below the run's own budget


@dataclass(slots=True)
class _Ending:
    """Why a fault is taken off, and how often that has been tried. Times are CLOCK_BOOTTIME."""

    reason: str
    detail: str
    refusal: ChaosError | None
    since: int
    next_try: int
    seen: tuple[str, ...] = ()  # what was left of it


class Supervisor:
    """All that is decided on one node. ``quarantine`` holds why nothing may start."""

    def __init__(self, config: AgentConfig, engine: Engine, log: Log, memory_total: int) -> None:
        """``memory_total`` is the node's, in bytes: of it the envelope's memory is a share."""
        self.memory_total = memory_total
        self.config = config
        self.engine = engine
        self.log = log
        self._epoch = epoch_file(config.state)
        self._quarantine = quarantine_file(config.state)
        self.quarantine = read_quarantine(config.state)
        self.leases = LeaseTable(epoch=self._epoch.read(0))
        self.changed = False  # something happened that the controller should hear of at once
        self._ended: deque[FaultStatus] = deque(maxlen=MAX_ENDED)
        self._checks: dict[str, int] = {}
        self._endings: dict[str, _Ending] = {}
        self._doubted: set[str] = set()  # what could not be renewed or read back

    # ── from the link ─────────────────────────────────────────────────────────────────────

    def obey(self, message: Grant | Apply | Revert | Release, now: int) -> None:
        """Do as told if it may be done. A refused apply becomes a status, nothing else."""
        try:
            match message:
                case Grant():
                    self._grant(message, now)
                case Apply():
                    self._apply(message, now)
                case Revert():
                    self._revert(message, now)
                case Release():
                    self._release(message)
        except ChaosError as error:
            self.log.warning("refused", message=message.type, error=error.code, why=error.what)
            if isinstance(message, Apply):
                self._tell_refused(message, error, now)
        except Exception as error:
            self.log.error("failed", message=message.type, trace=_trace(error))
            if isinstance(message, Apply):
                self._tell_refused(message, ChaosError(words(error)), now)

    def _raise_epoch(self, epoch: int) -> None:
        """Keep a higher epoch on disk before obeying it."""
        if epoch > self.leases.epoch:
            self.leases.check_step(epoch)
            try:
                self.engine.journal.disk.do(lambda: self._epoch.write(epoch))
            except OSError as error:
                raise Refused(
                    f"the epoch cannot be kept: {error.strerror}", where=str(self._epoch.path)
                ) from None

    def _grant(self, grant: Grant, now: int) -> None:
        self._raise_epoch(grant.epoch)
        # What the kernel holds by now it was given by the grant before this one.
        held = dict(self.leases.leases)
        for step in self.leases.grant(
            now, epoch=grant.epoch, seq=grant.seq, ttl=grant.ttl_us, runs=grant.runs
        ):
            if step.fault not in self.engine.standing:
                continue
            if isinstance(step, End):
                self._end(step.fault, step.reason, now)
            elif step.fault not in self._endings:
                self._renew(step.fault, step.hold_until, held[step.fault], now)

    def _renew(self, fault: str, hold_until: int, held: Lease, now: int) -> None:
        try:
            self.engine.renew(fault, hold_until)
        except Exception as error:
            self._doubt(self.engine.standing[fault], error, now, held)

    def _apply(self, request: Apply, now: int) -> None:
        if self.quarantine:
            raise Refused(
                f"node {self.config.node} is quarantined: {self.quarantine[0]}",
                hint="see `chaosctl nodes`, then `chaosctl node release NODE --reason TEXT`",
            )
        self._raise_epoch(request.epoch)
        self.leases.obey(request.epoch)
        fault = parse(request.kind, read_params(request.params, request.kind))
        duration = Duration(request.duration_us)
        standing = self.engine.standing.values()
        wanted, *others = (
            one.draw().on(self.memory_total)
            for one in (fault, *(other.fault for other in standing))
        )
        envelope.check(self.config.envelope, wanted, duration, others)
        envelope.check_runs(self.config.envelope, request.run, (other.run for other in standing))
        lease = self.leases.admit(
            now,
            epoch=request.epoch,
            run=request.run,
            fault=request.fault,
            seq=request.seq,
            ttl=request.ttl_us,
            duration=duration,
        )
        try:
            self.engine.start(request.run, fault, lease)
        except Exception as error:
            self._failed_start(request, error, now)
            return
        self._checks[request.fault] = now
        self.changed = True
        self.log.info("applied", run=request.run, fault=request.fault, kind=request.kind)

    def _failed_start(self, request: Apply, error: Exception, now: int) -> None:
        """Nothing was begun: refused. Something stands: revert it and say so."""
        self.leases.drop(request.fault)
        if request.fault in self.engine.standing:
            refusal = error if isinstance(error, Unsupported | Refused) else None
            self._end(
                request.fault, "not_in_force", now, self._words(error, request.fault), refusal
            )
        elif isinstance(error, OSError):
            raise Refused(f"{error}", where=request.kind) from None
        else:
            raise error

    def _revert(self, request: Revert, now: int) -> None:
        for fault in [request.fault] if request.fault else list(self.engine.standing):
            if fault in self.engine.standing:
                self._end(fault, "abort" if request.reason == "abort" else "revert", now)

    def _release(self, request: Release) -> None:
        """Lift the quarantine after a clean check; what is still there is told instead."""
        self._raise_epoch(request.epoch)
        self.leases.obey(request.epoch)
        self.changed = True
        if self.engine.standing:
            raise Refused("a fault is on the node", hint="wait for its end, or abort")
        left = self.engine.sweep()
        if left:
            known = [line for line in self.quarantine if not line.startswith(_LEFT)]
            self._keep_quarantine([*known, *left])
            raise Refused(f"not clean: {'; '.join(left)}", hint="look at it on the node")
        self.log.info("quarantine lifted", why=request.reason, was="; ".join(self.quarantine))
        self.quarantine = []
        self._on_disk(self._quarantine.remove)

    def meanwhile(self, now: int) -> None:
        """What cannot wait for the work on a fault: the ends of others. For ``Engine.step``."""
        for end in self.leases.tick(now):
            if end.fault in self.engine.standing:
                self._end(end.fault, end.reason, now)

    # ── with time ─────────────────────────────────────────────────────────────────────────

    def tick(self, now: int) -> None:
        """End what has run out, and read back what stands."""
        self.meanwhile(now)
        for standing in list(self.engine.standing.values()):
            if standing.id in self._endings:
                if now >= self._endings[standing.id].next_try:
                    self._try_to_end(standing, now)
                continue
            for moment, do in (
                (standing.next_turn, self._turn),
                (self._next_check(standing), self._check),
                (standing.next_round, self._again),
            ):
                stays = standing.id in self.engine.standing and standing.id not in self._endings
                if stays and moment is not None and now >= moment:
                    do(standing, now)

    def next_wakeup(self) -> int | None:
        """When ``tick`` is due at the latest, or None when nothing stands."""
        moments = [self.leases.next_expiry()]
        for standing in self.engine.standing.values():
            if ending := self._endings.get(standing.id):
                moments.append(ending.next_try)
            else:
                moments += [self._next_check(standing), standing.next_turn, standing.next_round]
        return min((moment for moment in moments if moment is not None), default=None)

    def _next_check(self, standing: Standing) -> int:
        every = _SETTLE_EVERY if standing.state == "applying" else _CHECK_EVERY
        if standing.id in self._doubted:
            every = _RETRY_EVERY
        return self._checks.get(standing.id, 0) + every

    def _turn(self, standing: Standing, now: int) -> None:
        try:
            self.engine.turn(standing, self.leases.leases[standing.id].hold_until)
        except Exception as error:
            why = self._words(error, standing.id)
            self._end(standing.id, self._why_gone(standing.id, now), now, why)

    def _check(self, standing: Standing, now: int) -> None:
        """Read a fault back. Where a renewal has failed, try that once more before."""
        self._checks[standing.id] = now
        was = standing.state
        try:
            if standing.id in self._doubted:
                self.engine.renew(standing.id, self.leases.leases[standing.id].hold_until)
            self.engine.check(standing)
        except Exception as error:
            self._doubt(standing, error, now)
            return
        self._doubted.discard(standing.id)
        if was != standing.state:
            self.changed = True
            self.log.info("in force", run=standing.run, fault=standing.id)
        elif standing.state == "applying" and now > standing.started_at + _SETTLE_BUDGET:
            self._end(standing.id, "not_in_force", now, standing.pending)

    def _doubt(
        self, standing: Standing, error: Exception, now: int, held: Lease | None = None
    ) -> None:
        """An effect is not there; or it could not be asked, which ends a fault the second time."""
        told = isinstance(error, NotInForce | Refused | Unsupported | InvalidInput)
        unforeseen = not isinstance(error, ChaosError | OSError)
        if told or unforeseen or standing.id in self._doubted:
            self._gone(standing, error, now, held)
            return
        self._doubted.add(standing.id)
        self._checks[standing.id] = now
        self.log.warning("tried again", run=standing.run, fault=standing.id, why=str(error))

    def _again(self, standing: Standing, now: int) -> None:
        try:
            done = self.engine.again(standing)
        except Exception as error:
            why = self._words(error, standing.id)
            self._end(standing.id, self._why_gone(standing.id, now), now, why)
            return
        if done:
            self.log.info("again", run=standing.run, fault=standing.id)

    def _gone(
        self,
        standing: Standing,
        error: Exception,
        now: int,
        held: Lease | None = None,
    ) -> None:
        """An effect is not there. Nobody has disturbed what was not in force yet.

        ``held`` is the lease that the kernel was given last, if not the one that stands.
        """
        reason = self._why_gone(standing.id, now, held)
        if (standing.state, reason) == ("applying", "disturbed"):
            reason = "not_in_force"
        self._end(standing.id, reason, now, self._words(error, standing.id))

    def _why_gone(self, fault: str, now: int, held: Lease | None = None) -> str:
        """An effect went away: by its lease, which kernels end up to a grain early, or by whom?

        Also by its duration, where the kernel may not hold on past that (MAX_DURATION).
        """
        lease = held or self.leases.leases.get(fault)
        if lease is not None and max(now, self.engine.clock()) + KERNEL_GRAIN < lease.hold_until:
            return "disturbed"
        out_of_time = lease is not None and lease.hold_at_most < lease.granted_until
        return "duration" if out_of_time else "lease"

    def end_all(self, reason: str, now: int) -> None:
        """Revert everything, as on shutdown. What is left is for ``tick``, or for ``recover``."""
        for fault in list(self.engine.standing):
            self._end(fault, reason, now)

    def _end(
        self,
        fault: str,
        reason: str,
        now: int,
        detail: str = "",
        refusal: ChaosError | None = None,
    ) -> None:
        """Take a fault off: now, and again as long as something of it is left.

        Nothing that comes later changes why. A clean ``refusal`` never was a fault. One that is
        being worked on is left to who does that, or to ``tick``.
        """
        standing = self.engine.standing[fault]
        if fault not in self._endings:
            if reason == "duration" and standing.state == "applying":
                reason, detail = "not_in_force", standing.pending
            elif reason == "lease" and standing.state == "applying":
                detail = f"its lease ended while it was being applied: {standing.pending}"
            self.leases.drop(fault)
            self._checks.pop(fault, None)
            self._doubted.discard(fault)
            self._endings[fault] = _Ending(reason, detail, refusal, now, now)
        standing.cancelled = True
        if fault not in self.engine.busy:
            self._try_to_end(standing, now)

    def _try_to_end(self, standing: Standing, now: int) -> None:
        """One attempt, the last of which quarantines the node when something is left all the same.

        Of a fault that takes its node down, the next boot tells the end, unless somebody waits
        for it now.
        """
        fault, ending = standing.id, self._endings[standing.id]
        last = now >= ending.since + _REVERT_BUDGET
        try:
            outcome = self.engine.end(fault, ending.reason, last=last)
        except Exception as error:
            self.log.error("failed", fault=fault, trace=_trace(error))
            outcome = self.engine.left(fault, words(error), last=last)
        if outcome.again:
            self._not_yet(standing, ending, outcome.difference)
            return
        del self._endings[fault]
        detail = ending.detail
        if outcome.difference:
            detail = "; ".join([detail, *outcome.difference]).removeprefix("; ")
        if outcome.told:
            detail = f"{detail}; {outcome.told}" if detail else outcome.told
        state: Literal["refused", "ended", "reverting"] = "ended"
        awaited = ending.reason in ("abort", "revert")
        if standing.fault.takes_down and outcome.left_open and not awaited:
            state = "reverting"
        elif ending.refusal and not outcome.difference:
            state = "refused"
        self._ended.append(
            FaultStatus(
                fault=fault,
                run=standing.run,
                kind=standing.fault.kind,
                state=state,
                reason=ending.reason,
                code=ending.refusal.code if ending.refusal else "",
                detail=detail,
                clean=not outcome.difference,
                started_at=standing.started_at,
                in_force_at=standing.in_force_at,
                ended_at=outcome.ended_at,
                hits=standing.hits,
            )
        )
        self.changed = True
        # Now that it is among the ended: a heartbeat may go out while the disk is waited for.
        self._to_quarantine(fault, outcome.difference)
        self.log.info(
            "ended",
            run=standing.run,
            fault=fault,
            reason=ending.reason,
            took_us=outcome.ended_at - ending.since,
            clean=not outcome.difference,
            detail=detail,
        )

    def _not_yet(self, standing: Standing, ending: _Ending, left: tuple[str, ...]) -> None:
        """Something of it is still there: say so, and when it is tried again.

        A defect quarantines the node at once, also when the next try is clean.
        """
        ending.next_try = self.engine.clock() + _RETRY_EVERY
        standing.pending = "; ".join(left)
        if left != ending.seen:
            ending.seen = left
            self._to_quarantine(standing.id, tuple(line for line in left if FAILED in line))
            self.changed = True
            self.log.warning(
                "not clean yet", run=standing.run, fault=standing.id, why=standing.pending
            )

    def _words(self, error: Exception, fault: str) -> str:
        """What to tell of an error. An unexpected one is logged with its trace, and quarantines."""
        if not isinstance(error, ChaosError | OSError):
            self.log.error("failed", fault=fault, trace=_trace(error))
            self._to_quarantine(fault, (words(error),))
        return words(error)

    def _to_quarantine(self, fault: str, difference: tuple[str, ...]) -> None:
        """Beside what the node is quarantined for already: nobody has looked at that yet."""
        more = [f"fault {fault}: {line}" for line in difference]
        if more:
            self._keep_quarantine([*dict.fromkeys([*self.quarantine, *more])])

    def _keep_quarantine(self, why: list[str]) -> None:
        self.quarantine = why
        self._on_disk(lambda: self._quarantine.write(why))

    def _on_disk(self, work: Callable[[], None]) -> None:
        try:
            self.engine.journal.disk.do(work)
        except OSError as error:
            self.log.error("the quarantine cannot be kept", why=str(error))

    # ── to the controller ─────────────────────────────────────────────────────────────────

    def heartbeat(self, now: int) -> Heartbeat:
        """Number a heartbeat and say how every fault is."""
        self.changed = False
        return Heartbeat(
            seq=self.leases.heartbeat(now),
            sent_at=now,
            epoch=self.leases.epoch,
            faults=(*self._ended, *map(self._status, self.engine.standing.values())),
            quarantine=tuple(self.quarantine),
        )

    def _status(self, standing: Standing) -> FaultStatus:
        lease = self.leases.leases.get(standing.id)
        return FaultStatus(
            fault=standing.id,
            run=standing.run,
            kind=standing.fault.kind,
            state=standing.state,
            detail=standing.pending or (standing.hits.note if standing.hits else ""),
            started_at=standing.started_at,
            in_force_at=standing.in_force_at,
            expires_at=lease.expires_at if lease else 0,
            hits=standing.hits,
        )

    def _tell_refused(self, request: Apply, error: ChaosError, now: int) -> None:
        self._ended.append(
            FaultStatus(
                fault=request.fault,
                run=request.run,
                kind=request.kind,
                state="refused",
                reason=error.code,
                code=error.code,
                detail=str(error),
                ended_at=now,
            )
        )
        self.changed = True


def _trace(error: Exception) -> str:
    """The innermost calls: a log line has room for no more."""
    return "".join(traceback.format_exception(error, limit=-6))
