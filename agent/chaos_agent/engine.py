"""Puts faults on this node and takes them off, each step proven by reading back.

check → compile → snapshot → journal intent (fsync) → apply → verify → renew … →
revert in reverse → verify absent → snapshot → journal done. The engine knows effects,
not leases: ``supervisor.py`` tells it when.

After a fault, everything that carries the agent's tag and everything that a fault changes on
purpose (units, limits, the clock) must be as it was before. Any other difference was made by
another program and is only reported: each request to the kernel names the agent's own objects.
The exception is a commit to an xtables table, which replaces the whole table; ``Xtables`` checks
every commit for changes to foreign rules (``Xtables.damage``).

It must never apply anything whose undo is not in the journal, never report a
fault as in force that was not read back, and never report a node as clean that
differs from its snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Literal

from chaos_agent import snapshot
from chaos_agent.effects import (
    AWAITED,
    Pulsing,
    counters,
    detour,
    hitting,
    next_boots,
    ops,
    overflow,
    revert_all,
    sweep,
    went_with_the_machine,
    words,
)
from chaos_agent.effects.detour import Counts
from chaos_agent.journal import Journal
from chaos_agent.linux.host import Host
from chaos_agent.rerouted import Watch
from chaos_agent.snapshot import Snapshot
from chaos_core import composition
from chaos_core.effects import AT_ONCE, Effect, Pipe, Reboot, changes
from chaos_core.errors import ChaosError, InvalidInput, NotInForce, Refused, Unsupported
from chaos_core.faults import Fault
from chaos_core.hits import Hits, add
from chaos_core.lease import Lease
from chaos_core.node import NodeView

_PAUSE_S = 0.2  # before what could not be swept is tried again
State = Literal["applying", "in_force", "reverting"]


@dataclass(slots=True)
class Standing:
    """A fault that is on this node, wholly or in part. Times are CLOCK_BOOTTIME in µs."""

    id: str
    run: str
    fault: Fault
    effects: tuple[Effect, ...]
    before: dict[str, list[str]]
    started_at: int
    state: State = "applying"
    in_force_at: int = 0
    hold_until: int = 0
    hold_at_most: int = 0
    begun: int = 0  # how many of the effects have been applied
    pending: str = ""  # what was not yet as asked, or not yet gone, when last read back
    complete: bool = False  # all effects have been applied
    cancelled: bool = False  # it is to end: apply no more of it
    counts: Counts = field(default_factory=Counts)
    hits: Hits | None = None  # as last counted; None: not counted
    before_hits: dict[Effect, Hits] = field(default_factory=dict)
    earlier_rounds: Hits | None = None
    watch: Watch | None = None  # of the ways of its packets
    next_turn: int | None = None  # when an effect with a pattern of its own has something to do
    round_at: int = 0  # when it was last done, if it is done again and again
    round: tuple[Effect, ...] = ()

    @property
    def next_round(self) -> int | None:
        """When it is to be done again, if it ever is."""
        every = self.fault.again()
        return self.round_at + every if every and self.state == "in_force" else None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a fault's end went.

    ``difference`` is empty when the node equals its snapshot but for what others did to
    their own things while the fault was in force, or what is left to the next boot: of
    such things ``told`` speaks. With ``again`` the fault still stands, and is to be ended again.
    """

    difference: tuple[str, ...]
    told: str
    ended_at: int
    left_open: bool = False  # the next boot finds its intent, and closes it
    again: bool = False


class Engine:
    """Applies, verifies, renews and reverts, on one host with one journal.

    ``clock`` is CLOCK_BOOTTIME in µs; ``view`` reads afresh what a fault must know of this node.
    ``step`` is called before each effect is applied, read back, renewed or reverted. No effect is
    half done then, so the caller may renew or end other faults. A fault in ``busy`` is being worked
    on: it may be renewed but not ended.
    """

    def __init__(
        self,
        host: Host,
        journal: Journal,
        view: Callable[[Fault], NodeView],
        clock: Callable[[], int],
    ) -> None:
        self.host = host
        self.journal = journal
        self.view = view
        self.clock = clock
        self.step: Callable[[], None] = lambda: None
        self.standing: dict[str, Standing] = {}
        self.busy: set[str] = set()

    @contextmanager
    def _at_work(self, fault_id: str) -> Iterator[None]:
        """Keep the fault in ``busy``."""
        inner = fault_id in self.busy
        self.busy.add(fault_id)
        try:
            yield
        finally:
            if not inner:
                self.busy.discard(fault_id)

    def start(self, run: str, fault: Fault, lease: Lease) -> Standing:
        """Apply a fault under its lease.

        When this raises, the fault is either not in ``standing``, and nothing was
        done, or it is and must be ended by the caller.
        """
        fault_id = lease.fault
        # With a boot the clock starts anew, and the numbers of heartbeats, by which a request
        # that comes twice is known, could come again as well.
        if fault.takes_down and self.journal.knows(fault_id):
            raise Refused(f"fault {fault_id} has been started before, says the journal")
        marks = {
            effect.mark
            for standing in self.standing.values()
            for effect in standing.effects
            if isinstance(effect, Pipe)
        }
        view = replace(self.view(fault), marks_in_use=frozenset(marks))
        effects = fault.compile(view, fault_id)
        self._check_untaken(effects)
        effects = composition.compose(effects, self._in_force(), view)
        before = snapshot.take(self.host, snapshot.scope_of(effects))
        now = self.clock()
        self.journal.intent(
            now, fault=fault_id, run=run, kind=fault.kind, to_apply=effects, before=before
        )
        standing = Standing(fault_id, run, fault, effects, before, started_at=now, round_at=now)
        self.standing[fault_id] = standing
        with self._at_work(fault_id):
            self._begin(standing, lease, view)
        return standing

    def _begin(self, standing: Standing, lease: Lease, view: NodeView) -> None:
        fault, effects = standing.fault, standing.effects
        standing.watch = Watch(fault, effects, view.ways)
        standing.hold_until, standing.hold_at_most = lease.hold_until, lease.hold_at_most
        standing.before_hits = hitting.origins(self.host, effects)
        self._go_on(standing)
        self.check(standing)

    def _check_untaken(self, effects: tuple[Effect, ...]) -> None:
        """Raise Refused when another fault holds changed what these would change.

        To the second, the first one's doing would be what was there before. And a reboot
        is alone: what is on the node could not be reverted in time.
        """
        together = [effects, *(standing.effects for standing in self.standing.values())]
        reboots = any(isinstance(effect, Reboot) for one in together for effect in one)
        if reboots and self.standing:
            raise Refused(
                f"a reboot and another fault ({', '.join(self.standing)}) cannot be on a node",
                hint="wait for its end, or abort",
            )
        for standing in self.standing.values():
            taken = changes(effects) & changes(standing.effects)
            if taken:
                raise Refused(
                    f"fault {standing.id} holds {', '.join(sorted(taken))} already",
                    hint="wait for its end, or abort",
                )

    def _in_force(self) -> dict[str, tuple[Effect, ...]]:
        """The effects of every fault on this node, by what to call it."""
        return {
            f"fault {standing.id} ({standing.fault.kind})": standing.effects
            for standing in self.standing.values()
        }

    def _go_on(self, standing: Standing) -> None:
        """Apply what has not been yet, as far as that can be: some effects are waited for."""
        for effect in standing.effects[standing.begun :]:
            if any(
                isinstance(earlier, AWAITED) and ops(earlier).verify(self.host, earlier)
                for earlier in standing.effects[: standing.begun]
            ):
                return
            self.step()
            if standing.cancelled:
                raise NotInForce("it was ended before all of it had been applied")
            standing.begun += 1
            ops(effect).apply(self.host, effect, standing.hold_until, standing.hold_at_most)
        self.turn(standing, standing.hold_until)
        standing.complete = True

    def check(self, standing: Standing) -> None:
        """Read the fault back; its state becomes ``in_force`` once all of it is there.

        Raises NotInForce when something that was there has gone.
        """
        with self._at_work(standing.id):
            self._check(standing)

    def _check(self, standing: Standing) -> None:
        if not standing.complete:
            self._go_on(standing)
        wrong = []
        for effect in standing.effects:
            self.step()
            if text := ops(effect).verify(self.host, effect):
                wrong.append(text)
        if not wrong:
            wrong += self._count(standing)
            past = standing.watch.look(self.host, self.clock) if standing.watch else None
            wrong += [past] if past else []
        standing.pending = "; ".join(wrong)
        if standing.state == "applying" and not wrong:
            standing.state = "in_force"
            standing.in_force_at = self.clock()
        elif standing.state == "in_force" and wrong:
            raise NotInForce(standing.pending)

    def _count(self, standing: Standing, *, fresh: bool = False) -> list[str]:
        """Take the counts; and what they say that is not as it should be.

        From what ``verify`` has just read, unless ``fresh``.
        """
        effects = standing.effects[: standing.begun]
        found = counters.read(self.host, effects, fresh=fresh)
        hits = hitting.total(self.host, effects, found, standing.before_hits)
        standing.hits = add((hits, standing.earlier_rounds)) or standing.hits
        standing.counts, lost = detour.look(self.host, effects, standing.counts, found)
        return [text for text in (lost, overflow.look(self.host, effects, found)) if text]

    def turn(self, standing: Standing, hold_until: int) -> None:
        """Let effects with a pattern of their own do what is due."""
        standing.next_turn = min(
            (
                verbs.turn(self.host, effect, hold_until)
                for effect in standing.effects
                if isinstance(verbs := ops(effect), Pulsing)
            ),
            default=None,
        )

    def again(self, standing: Standing) -> bool:
        """Another round of a fault that is over at once; False when there is nothing to do.

        Raises NotInForce when the last one has not had its effect, Refused when this one
        may not be.
        """
        wrong = [ops(effect).verify(self.host, effect) for effect in standing.round]
        if any(wrong):
            raise NotInForce("; ".join(filter(None, wrong)))
        now = standing.round_at = self.clock()
        standing.round = ()
        try:
            effects = standing.fault.compile(self.view(standing.fault), standing.id)
            if not all(isinstance(effect, AT_ONCE) for effect in effects):
                raise Refused("only what is over at once can be done again")
            for effect in effects:
                ops(effect).apply(self.host, effect, now)
        except (InvalidInput, Unsupported):  # nothing of the kind is there, or not any more
            return False
        standing.round = effects
        done = hitting.total(self.host, effects, counters.Counters(), {})
        standing.earlier_rounds = add((standing.earlier_rounds, done))
        return True

    def renew(self, fault_id: str, hold_until: int) -> None:
        """Extend every holder of the fault. Raises NotInForce when one has let go already."""
        standing = self.standing[fault_id]
        standing.hold_until = hold_until
        with self._at_work(fault_id):
            for effect in standing.effects[: standing.begun]:
                self.step()
                ops(effect).renew(self.host, effect, hold_until)

    def end(self, fault_id: str, reason: str, *, last: bool = False) -> Outcome:
        """Revert, prove absence, compare with the snapshot, and journal the end.

        Whatever fails is collected and the rest is still reverted. While there is a difference
        the fault stands and the caller tries again, but for the ``last`` time: then the end is
        journaled with the difference.
        """
        with self._at_work(fault_id):
            return self._end(self.standing[fault_id], reason, last=last)

    def _end(self, standing: Standing, reason: str, *, last: bool) -> Outcome:
        if standing.state != "reverting":
            standing.state = "reverting"
            with suppress(ChaosError, OSError):  # a count that fails is no reason not to revert
                self._count(standing, fresh=True)
        difference = revert_all(self.host, standing.effects, self.step)
        if next_boots(self.host, standing.effects):
            return self._left_open(standing)
        after = self._look(standing)
        told = ""
        if isinstance(after, str):
            difference.append(after)
        else:
            difference += self._our_doing(standing, after)
            told = _told(standing, after)
        difference += self.host.xtables.damage
        if went_with_the_machine(self.host, difference):
            return self._left_open(standing)
        ended_at = self.clock()
        if difference and not last:
            return Outcome(tuple(difference), told, ended_at, again=True)
        self.host.xtables.damage.clear()
        unkept = self.journal.done(
            ended_at, fault=standing.id, reason=reason, difference=difference
        )
        if unkept:
            difference.append(unkept)
        del self.standing[standing.id]
        return Outcome(tuple(difference), told, ended_at)

    def left(self, fault_id: str, why: str, *, last: bool) -> Outcome:
        """What ``end`` comes to when it breaks down: the intent stays open, for ``recover``."""
        if last:
            del self.standing[fault_id]
        return Outcome((why,), "", self.clock(), again=not last)

    def _left_open(self, standing: Standing) -> Outcome:
        """The next boot finds the intent open and closes it: what a kernel held is gone with it."""
        del self.standing[standing.id]
        told = "the machine is going down: the next boot ends it"
        return Outcome((), told, self.clock(), left_open=True)

    def residue(self) -> list[str]:
        """Everything on this node that carries our tag, a line each."""
        return [str(found) for found in sweep.find(self.host)]

    def sweep(self) -> list[str]:
        """Take away all that carries our tag, while nothing stands; what is left, a line each."""
        return sweep.clear(self.host, _PAUSE_S, tries=3) if sweep.find(self.host) else []

    def _look(self, standing: Standing) -> Snapshot | str:
        """A snapshot, or why there is none, which counts as a difference."""
        try:
            return snapshot.take(self.host, snapshot.scope_of(standing.effects))
        except Exception as error:
            return f"the node cannot be read back: {words(error)}"

    def _our_doing(self, standing: Standing, after: Snapshot) -> list[str]:
        """What is not as it was before, of what this fault brings or changes."""
        others = [other for other in self.standing if other != standing.id]
        before = snapshot.without(standing.before, others)
        after = snapshot.without(after, others)
        return snapshot.our_doing(before, after)


def _told(standing: Standing, after: Snapshot) -> str:
    """What others did to their own things while the fault was on the node; empty if nothing."""
    changed = snapshot.diff(snapshot.foreign(standing.before), snapshot.foreign(after))
    return f"changed by others during the fault: {'; '.join(changed)}" if changed else ""
