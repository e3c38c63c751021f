"""P2, leased: whatever the network and our own processes do, no fault outlives its lease.

A schedule of beats, answers, deliveries (late, twice, in any order, never),
crashes and changes of controller is played against a ``LeaseTable`` and a model
of the kernel's set entries. The model knows what the table must not be trusted
with: when each heartbeat was really sent, and which of them were answered.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from chaos_core import lease
from chaos_core.envelope import MAX_DURATION
from chaos_core.errors import Fenced, InvalidInput, Refused
from chaos_core.lease import (
    KERNEL_GRAIN,
    TTL,
    End,
    Lease,
    LeaseTable,
    Renew,
    check_timing,
    kernel_timeout,
)
from chaos_core.units import Duration

S = 1_000_000
Op = tuple[Any, ...]


@dataclass(frozen=True)
class Beat:
    """A heartbeat as it really was: its number, and when it left."""

    seq: int
    sent: int


@dataclass(frozen=True)
class Message:
    """A grant for ``run`` (fault None) or an apply, written in answer to ``beat``."""

    beat: Beat
    epoch: int
    ttl: int
    run: str
    fault: str | None = None
    duration: int = 0


@dataclass
class Kernel:
    """Set entries: until when the kernel lets each fault be in force, with nobody alive."""

    until: dict[str, int] = field(default_factory=dict)

    def hold(self, fault: str, now: int, hold_until: int) -> None:
        timeout = kernel_timeout(now, hold_until)
        assert timeout >= 0
        if timeout == 0:  # to ipset, 0 would be for ever
            self.until.pop(fault, None)
        else:
            self.until[fault] = now + timeout * S


class World:
    """One node, its kernel, controllers of several epochs, and a network that does its worst."""

    def __init__(self, table: type[LeaseTable]) -> None:
        self.make = table
        self.table = table()
        self.kernel = Kernel()
        self.now = 1_000 * S
        self.controller = 1
        self.highest = 0  # the highest epoch that the node has obeyed
        self.beats: list[Beat] = []
        self.sent: list[Message] = []
        self.bound: dict[str, int] = {}  # newest answered beat + ttl, by fault
        self.admitted: dict[str, int] = {}
        self.deadline: dict[str, int] = {}  # from the first time that it was admitted
        self.until: dict[str, int] = {}  # as the agent was last told
        self.over: set[str] = set()
        self.run_of: dict[str, tuple[str, int]] = {}

    def play(self, schedule: list[Op]) -> None:
        for name, *args in schedule:
            getattr(self, name)(*args)
            self.check()

    # ── what may happen ───────────────────────────────────────────────────────────────────

    def wait(self, span: int) -> None:
        self.now += span

    def beat(self) -> None:
        self.now += 1
        self.beats.append(Beat(self.table.heartbeat(self.now), self.now))

    def tick(self) -> None:
        for end in self.table.tick(self.now):
            self._end(end.fault)

    def revert(self, fault: str) -> None:
        if fault in self.table.leases:
            self.table.drop(fault)
            self._end(fault)

    def crash(self) -> None:
        """Every process dies: what is on disk is kept, leases and sent times are not."""
        self.over |= self.table.leases.keys()
        self.table = self.make(epoch=self.table.epoch)

    def promote(self) -> None:
        self.controller += 1

    def answer(self, back: int, run: str, ttl: int, older: int = 0) -> None:
        if beat := self._beat(back):
            epoch = max(1, self.controller - older)
            self._send(Message(beat, epoch, ttl, run))

    def apply(self, back: int, run: str, fault: str, ttl: int, duration: int, older: int) -> None:
        if (beat := self._beat(back)) and fault not in self.run_of:
            epoch = max(1, self.controller - older)
            self.run_of[fault] = (run, epoch)
            self._send(Message(beat, epoch, ttl, run, fault, duration))

    def deliver(self, back: int) -> None:
        """Any message ever sent, as often as the network likes."""
        if not self.sent:
            return
        message = self.sent[-1 - back % len(self.sent)]
        low = message.epoch < self.highest
        before = dict(self.table.leases)
        try:
            self._act(message)
        except Fenced:
            assert low
            assert self.table.leases == before
        else:
            assert not low, "a lower epoch acted"
            self.highest = message.epoch

    # ── inside ────────────────────────────────────────────────────────────────────────────

    def _beat(self, back: int) -> Beat | None:
        return self.beats[-1 - back % len(self.beats)] if self.beats else None

    def _send(self, message: Message) -> None:
        """Write an answer: from here on the faults of that run may last that much longer."""
        self.sent.append(message)
        for fault, run in self.run_of.items():
            if run == (message.run, message.epoch):
                until = message.beat.sent + min(message.ttl, TTL)
                self.bound[fault] = max(self.bound.get(fault, 0), until)

    def _act(self, message: Message) -> None:
        common = {"epoch": message.epoch, "seq": message.beat.seq, "ttl": message.ttl}
        if message.fault is None:
            for step in self.table.grant(self.now, runs=[message.run], **common):
                if isinstance(step, End):
                    self._end(step.fault)
                else:
                    self._hold(step.fault, step.expires_at, step.hold_until)
            return
        duration = Duration(message.duration)
        try:
            new = self.table.admit(
                self.now, run=message.run, fault=message.fault, duration=duration, **common
            )
        except Fenced:
            raise
        except Refused:
            self.highest = max(self.highest, message.epoch)
            return
        self.admitted.setdefault(message.fault, self.now)
        self.deadline.setdefault(message.fault, self.now + message.duration)
        self._hold(message.fault, new.expires_at, new.hold_until)

    def _hold(self, fault: str, expires_at: int, hold_until: int) -> None:
        assert fault not in self.over, "a lease that was over revived"
        assert expires_at <= self.bound[fault], "beyond ttl of the newest answered heartbeat"
        assert expires_at <= self.deadline[fault], "beyond its deadline"
        assert self.now < self.until.get(fault, expires_at), "an expired lease revived"
        self.until[fault] = expires_at
        self.kernel.hold(fault, self.now, hold_until)

    def _end(self, fault: str) -> None:
        assert fault not in self.over, "ended twice"
        self.over.add(fault)
        self.kernel.until.pop(fault, None)

    def check(self) -> None:
        """What is in force now has a right to be, whoever of us is alive."""
        for fault, until in self.kernel.until.items():
            if until > self.now:
                assert self.now < self.bound[fault], "in force after its lease"
                # Sets count whole seconds: a kernel left alone may round the deadline up.
                assert self.now < self.deadline[fault] + KERNEL_GRAIN
                assert self.now < self.admitted[fault] + MAX_DURATION


# One draw an operation keeps the search fast; how often each stands here is its weight.
OPERATIONS: list[Op] = [
    *[("wait", span) for span in (1, 300_000, S, S, 2 * S, 3 * S - 1, 3 * S) * 2],
    *[("beat",)] * 16,
    *[("tick",)] * 4,
    *[("crash",), ("promote",), ("revert", "f1")],
    *[("answer", back, run, 3 * S) for back in (0, 0, 1, 2) for run in ("r1", "r1", "r2")],
    *[("answer", 0, "r1", ttl) for ttl in (0, S, 10 * S)],
    ("answer", 0, "r1", 3 * S, 1),
    *[("apply", 0, "r1", "f2", 3 * S, span, 0) for span in (S // 2, 5 * S, 300 * S)],
    *[("apply", 1, "r2", "f3", ttl, 300 * S, 0) for ttl in (S, 10 * S)],
    ("apply", 0, "r2", "f3", 3 * S, 300 * S, 1),
    *[("deliver", back) for back in (0, 0, 0, 1, 1, 2, 3)] * 3,
]


def start(duration: int) -> list[Op]:
    """Most of what goes wrong goes wrong while a fault is on the node."""
    return [("beat",), ("apply", 0, "r1", "f1", 3 * S, duration, 0), ("deliver", 0)]


schedules = st.builds(
    lambda duration, tail: [*start(duration), *tail],
    st.sampled_from([S // 2, 5 * S, 300 * S]),
    st.lists(st.sampled_from(OPERATIONS), min_size=5, max_size=40),
)


def hunt(table: type[LeaseTable], examples: int, phases: list[Phase]) -> Callable[[], None]:
    @settings(
        derandomize=True,
        deadline=None,
        database=None,
        max_examples=examples,
        phases=phases,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(schedules)
    def played(schedule: list[Op]) -> None:
        World(table).play(schedule)

    return played


def test_no_schedule_lets_a_fault_outlive_its_lease_or_deadline_or_revive() -> None:
    hunt(LeaseTable, 500, [Phase.generate, Phase.shrink])()


# ── the test above is worth something: it catches these ───────────────────────────────────


class CountsFromReceipt(LeaseTable):
    """The classic mistake: a late grant extends the lease."""

    def grant(self, now: int, **kwargs: Any) -> Any:
        if kwargs["seq"] in self._sent:
            self._sent[kwargs["seq"]] = now
        return super().grant(now, **kwargs)


class Revives(LeaseTable):
    """A grant that arrives after the expiry, before anybody noticed it, renews."""

    def grant(self, now: int, **kwargs: Any) -> Any:
        return super().grant(now - 2 * S, **kwargs)


class NoDeadline(LeaseTable):
    """Renewed for as long as somebody renews."""

    def admit(self, now: int, **kwargs: Any) -> Any:
        return super().admit(now, **{**kwargs, "duration": Duration(10**15)})


class NoEpochCheck(LeaseTable):
    """A superseded controller goes on commanding."""

    def obey(self, epoch: int) -> bool:
        self.epoch = epoch
        return True


class TrustsTtl(LeaseTable):
    """A ttl from the wire above our own is believed."""

    def _expiry(self, seq: int, ttl: int) -> int:
        return self._sent.get(seq, 0) + ttl


class CountsHeartbeatsFromOne(LeaseTable):
    """After a crash, a stale answer meets a new heartbeat of the same number."""

    def heartbeat(self, now: int) -> int:
        self._sent[len(self._sent) + 1] = now
        return len(self._sent)


class ForgetsWhatEnded(LeaseTable):
    """An apply that the network repeats starts the fault again."""

    def admit(self, now: int, **kwargs: Any) -> Any:
        self._admitted.clear()
        return super().admit(now, **kwargs)


class RenewsAnyRun(LeaseTable):
    """A grant for one run renews another."""

    def grant(self, now: int, **kwargs: Any) -> Any:
        return super().grant(now, **{**kwargs, "runs": ["r1", "r2"]})


@pytest.mark.parametrize(
    ("mutant", "why"),
    [
        (CountsFromReceipt, "beyond ttl|an expired lease revived"),
        (Revives, "an expired lease revived"),
        (NoDeadline, "beyond its deadline"),
        (NoEpochCheck, "a lower epoch acted"),
        (TrustsTtl, "beyond ttl"),
        (CountsHeartbeatsFromOne, "beyond ttl|a lease that was over"),
        (ForgetsWhatEnded, "a lease that was over revived"),
        (RenewsAnyRun, "beyond ttl"),
    ],
)
def test_a_table_that_is_wrong_is_caught(mutant: type[LeaseTable], why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        hunt(mutant, 2_000, [Phase.generate])()


def test_a_timeout_rounded_up_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def up(now: int, expires_at: int) -> int:
        return -((now - expires_at) // S)

    monkeypatch.setitem(globals(), "kernel_timeout", up)
    with pytest.raises(AssertionError, match="in force after its lease"):
        hunt(LeaseTable, 2_000, [Phase.generate])()


# ── the kernel's timeout ──────────────────────────────────────────────────────────────────


@given(now=st.integers(0, 2**50), left=st.integers(-(10**10), 10**10))
@settings(derandomize=True, deadline=None, database=None, max_examples=150)
def test_a_kernel_timeout_ends_before_the_lease(now: int, left: int) -> None:
    timeout = kernel_timeout(now, now + left)
    assert timeout >= 0
    assert now + timeout * S <= max(now, now + left)
    assert (timeout == 0) == (left < S)


# ── one rule each, by name ────────────────────────────────────────────────────────────────


def admit(table: LeaseTable, now: int, seq: int, **kwargs: Any) -> Lease:
    defaults = {"epoch": 1, "run": "r", "fault": "f", "ttl": TTL, "duration": Duration(10 * S)}
    return table.admit(now, seq=seq, **{**defaults, **kwargs})


def test_a_grant_counts_from_when_its_heartbeat_was_sent() -> None:
    table = LeaseTable()
    admit(table, 0, table.heartbeat(0))
    seq = table.heartbeat(S)
    late = 2_900_000
    assert table.grant(late, epoch=1, seq=seq, ttl=TTL, runs=["r"]) == (
        Renew("f", S + TTL, S + TTL),
    )


def test_a_lease_ends_when_nothing_is_granted_and_is_named_once() -> None:
    table = LeaseTable()
    admit(table, 0, table.heartbeat(0))
    assert table.next_expiry() == TTL
    assert table.tick(TTL - 1) == ()
    assert table.tick(TTL) == (End("f", "lease"),)
    assert table.tick(TTL) == ()
    assert table.next_expiry() is None


def test_a_grant_at_the_very_end_does_not_revive() -> None:
    table = LeaseTable()
    admit(table, 0, table.heartbeat(0))
    seq = table.heartbeat(S)
    assert table.grant(TTL, epoch=1, seq=seq, ttl=TTL, runs=["r"]) == (End("f", "lease"),)


def test_the_deadline_caps_every_renewal_and_gives_the_reason() -> None:
    table = LeaseTable()
    admit(table, 0, table.heartbeat(0), duration=Duration(4 * S))
    seq = table.heartbeat(2 * S)
    assert table.grant(2 * S, epoch=1, seq=seq, ttl=TTL, runs=["r"]) == (Renew("f", 4 * S, 5 * S),)
    assert table.tick(4 * S) == (End("f", "duration"),)


def test_an_older_grant_that_comes_later_takes_nothing_back() -> None:
    table = LeaseTable()
    first = table.heartbeat(0)
    admit(table, 0, first)
    second = table.heartbeat(S)
    table.grant(S, epoch=1, seq=second, ttl=TTL, runs=["r"])
    assert table.grant(S, epoch=1, seq=first, ttl=TTL, runs=["r"]) == ()
    assert table.leases["f"].expires_at == S + TTL


def test_a_new_epoch_does_not_renew_what_an_older_one_started() -> None:
    table = LeaseTable()
    admit(table, 0, table.heartbeat(0))
    assert table.obey(2) is True
    assert table.obey(2) is False
    seq = table.heartbeat(S)
    assert table.grant(S, epoch=2, seq=seq, ttl=TTL, runs=["r"]) == ()
    with pytest.raises(Fenced, match="lower than 2"):
        table.grant(S, epoch=1, seq=seq, ttl=TTL, runs=["r"])


def test_an_apply_that_comes_too_late_or_for_an_unknown_heartbeat_is_refused() -> None:
    table = LeaseTable()
    seq = table.heartbeat(0)
    for now, wrong, ttl in ((TTL, seq, TTL), (0, seq + 1, TTL), (0, seq, Duration(0))):
        with pytest.raises(Refused, match="after its own lease"):
            admit(table, now, wrong, ttl=ttl)
    assert not table.leases


def test_the_same_fault_is_admitted_once_even_after_it_ended() -> None:
    table = LeaseTable()
    seq = table.heartbeat(0)
    admit(table, 0, seq)
    for _ in range(2):
        with pytest.raises(Refused, match="already"):
            admit(table, S, seq)
        table.drop("f")


def test_heartbeats_that_are_too_old_are_forgotten() -> None:
    table = LeaseTable()
    first = table.heartbeat(0)
    for _ in range(lease._HEARTBEATS_KEPT):
        last = table.heartbeat(0)
    with pytest.raises(Refused):
        admit(table, 0, first)
    admit(table, 0, last)


def test_numbers_of_heartbeats_do_not_repeat_after_a_restart() -> None:
    before, after = LeaseTable(), LeaseTable()
    old = [before.heartbeat(now * S) for now in range(5)]
    assert not {after.heartbeat(now * S) for now in range(5, 10)} & set(old)


@pytest.mark.parametrize(
    ("ttl", "budget", "ok"), [(3, 1, True), (4, 1, True), (5, 1, False), (1, 1, False)]
)
def test_a_ttl_that_could_miss_the_abort_bound_is_refused(ttl: int, budget: int, ok: bool) -> None:
    with suppress(InvalidInput):
        check_timing(Duration(ttl * S), Duration(budget * S))
        assert ok
        return
    assert not ok


def test_one_lie_does_not_use_up_all_epochs() -> None:
    table = LeaseTable(epoch=7_000_000)
    for epoch in (2**63 - 1, 7_000_000 + lease.MAX_EPOCH_STEP + 1):
        with pytest.raises(Refused, match="out of all proportion"):
            table.obey(epoch)
    assert table.epoch == 7_000_000
    assert table.obey(7_000_000 + lease.MAX_EPOCH_STEP)
    assert LeaseTable().obey(2**62)  # who has obeyed nobody yet has nothing to compare with
