"""The agent's side of the lease: who may go on, until when, decided without a clock.

Sans-IO: the time ``now`` is an argument, CLOCK_BOOTTIME in µs; instructions come
out as values. What this module promises, whatever is delayed, dropped, doubled or
reordered on the wire:

- a lease ends at ``sent + ttl``, where ``sent`` is when the heartbeat that the
  grant answers was *sent*, by this node's own clock and memory, so a late grant
  extends nothing;
- it never outlives the deadline set when the fault was admitted. Only a kernel
  whose agent is dead may hold on for up to ``KERNEL_GRAIN`` longer, since its sets
  count whole seconds; never past the lease and never past ``MAX_DURATION``;
- an expired lease never revives: it takes a new apply;
- a command of a lower epoch than one obeyed before is refused.

It must never read a clock or trust a time that came over the wire.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from chaos_core.envelope import MAX_DURATION
from chaos_core.errors import Fenced, InvalidInput, Refused
from chaos_core.units import Duration

TTL = Duration.parse("3s")
HEARTBEAT_INTERVAL = Duration.parse("1s")
REVERT_BUDGET = Duration.parse("1s")
ABORT_BOUND = Duration.parse("5s")
KERNEL_GRAIN = Duration.parse("1s")  # ipset timeouts are whole seconds, rounded down
# The largest step from one epoch to the next that is believed: a million starts of a controller.
# One lie must not use up all epochs that there are.
MAX_EPOCH_STEP = 10**12
_HEARTBEATS_KEPT = 64
_FAULTS_KEPT = 1024


def check_timing(ttl: Duration, revert_budget: Duration = REVERT_BUDGET) -> None:
    """Raise InvalidInput for a ttl with which an unreachable node could miss the abort bound."""
    if ttl <= HEARTBEAT_INTERVAL:
        raise InvalidInput(
            f"ttl {ttl} must be above the heartbeat interval of {HEARTBEAT_INTERVAL}"
        )
    if ttl + revert_budget > ABORT_BOUND:
        raise InvalidInput(
            f"ttl {ttl} + revert budget {revert_budget} is above the abort bound of {ABORT_BOUND}",
            hint="an unreachable node would still carry its fault five seconds after an abort",
        )


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one fault to be in force until ``expires_at`` and never past ``deadline``.

    ``granted_until`` is what the last grant gave, before the deadline cuts it.
    """

    fault: str
    run: str
    epoch: int
    admitted_at: int
    granted_until: int
    deadline: int

    @property
    def expires_at(self) -> int:
        """When the agent ends the fault."""
        return min(self.granted_until, self.deadline)

    @property
    def hold_until(self) -> int:
        """When the kernel ends it by itself, should the agent be dead by then."""
        return min(self.granted_until, self.hold_at_most)

    @property
    def hold_at_most(self) -> int:
        """What no grant extends: the deadline, with the grain of the kernel's clocks."""
        return min(self.deadline + KERNEL_GRAIN, self.admitted_at + MAX_DURATION)


@dataclass(frozen=True, slots=True)
class Renew:
    """Tell every holder of this fault, the kernel first, that it may hold until ``hold_until``."""

    fault: str
    expires_at: int
    hold_until: int


@dataclass(frozen=True, slots=True)
class End:
    """Revert this fault now. ``reason`` is ``duration`` or ``lease``."""

    fault: str
    reason: str


Instruction = Renew | End


class LeaseTable:
    """All leases of one node. ``epoch`` is the highest ever obeyed, from disk."""

    def __init__(self, *, ttl: Duration = TTL, epoch: int = 0) -> None:
        check_timing(ttl)
        self.ttl = ttl
        self.epoch = epoch
        self.leases: dict[str, Lease] = {}
        self._sent: dict[int, int] = {}
        self._admitted: dict[str, None] = {}
        self._seq = 0

    def heartbeat(self, now: int) -> int:
        """Number a heartbeat that is sent at ``now`` and remember when that was.

        Numbers start from the time, so that none repeats after a crash: a stale answer
        to a heartbeat from before it must not count as one to a newer heartbeat.
        """
        self._seq = max(self._seq + 1, now)
        self._sent[self._seq] = now
        while len(self._sent) > _HEARTBEATS_KEPT:
            del self._sent[next(iter(self._sent))]
        return self._seq

    def check_step(self, epoch: int) -> None:
        """Raise Refused for an epoch that no controller can have reached since the last one."""
        if self.epoch and epoch > self.epoch + MAX_EPOCH_STEP:
            raise Refused(
                f"epoch {epoch} is out of all proportion to {self.epoch}, which was obeyed last",
                hint="if it is right: stop chaos-agent, remove its state file `epoch`, start it",
            )

    def obey(self, epoch: int) -> bool:
        """Accept ``epoch`` or raise Fenced; True when it is new and must be kept on disk first."""
        self.check_step(epoch)
        if epoch < self.epoch:
            raise Fenced(
                f"epoch {epoch} is lower than {self.epoch}, which this node has obeyed",
                hint="another controller, or this one's restored database, has been superseded",
            )
        raised = epoch > self.epoch
        self.epoch = epoch
        return raised

    def admit(
        self, now: int, *, epoch: int, run: str, fault: str, seq: int, ttl: int, duration: Duration
    ) -> Lease:
        """Give a new fault its lease, or raise Refused: the request came too late or twice.

        Twice counts also when the first has ended since: a repeated request would
        start it again with a new deadline.
        """
        self.obey(epoch)
        if fault in self.leases or fault in self._admitted:
            raise Refused(f"fault {fault} has already been started on this node")
        deadline = now + duration
        lease = Lease(fault, run, epoch, now, self._expiry(seq, ttl), deadline)
        if lease.expires_at <= now:
            raise Refused(
                "the request arrived after its own lease had ended",
                hint="the link to the controller is slow or was cut; try again",
            )
        self.leases[fault] = lease
        self._admitted[fault] = None
        while len(self._admitted) > _FAULTS_KEPT:
            del self._admitted[next(iter(self._admitted))]
        return lease

    def grant(
        self, now: int, *, epoch: int, seq: int, ttl: int, runs: Collection[str]
    ) -> tuple[Instruction, ...]:
        """Extend the leases of ``runs``; others are left to run out. Raises Fenced."""
        self.obey(epoch)
        ended = self.tick(now)
        offered = self._expiry(seq, ttl)
        renewed = [
            replace(lease, granted_until=offered)
            for lease in self.leases.values()
            if lease.run in runs and lease.epoch == epoch and offered > lease.granted_until
        ]
        self.leases.update((lease.fault, lease) for lease in renewed)
        return (
            *ended,
            *(Renew(lease.fault, lease.expires_at, lease.hold_until) for lease in renewed),
        )

    def tick(self, now: int) -> tuple[End, ...]:
        """What has ended by ``now``. Each fault is named once and is forgotten here."""
        ended = [
            End(lease.fault, "duration" if now >= lease.deadline else "lease")
            for lease in self.leases.values()
            if now >= lease.expires_at
        ]
        for end in ended:
            del self.leases[end.fault]
        return tuple(ended)

    def drop(self, fault: str) -> None:
        """Forget a fault that ended for another reason: a revert is always accepted."""
        self.leases.pop(fault, None)

    def next_expiry(self) -> int | None:
        """When ``tick`` must be called next, or None."""
        return min((lease.expires_at for lease in self.leases.values()), default=None)

    def _expiry(self, seq: int, ttl: int) -> int:
        """Until when a grant for heartbeat ``seq`` lasts; an unknown heartbeat grants nothing."""
        sent = self._sent.get(seq)
        if sent is None or ttl <= 0:
            return 0
        return sent + min(ttl, self.ttl)


def kernel_timeout(now: int, hold_until: int) -> int:
    """Whole seconds for a kernel set entry: rounded down, so that it ends first.

    0 means that there is nothing left to give; it must never reach ipset, to
    which a timeout of 0 is for ever.
    """
    return max(0, (hold_until - now) // KERNEL_GRAIN)
