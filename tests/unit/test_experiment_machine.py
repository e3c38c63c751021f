"""An experiment on a clock of the test's: what is begun, ended and concluded, and when."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from chaos_core.run import Phase
from chaos_core.run import Verdict as RunVerdict
from chaos_core.units import Duration
from chaos_experiment.conditions import Condition, parse
from chaos_experiment.guard import Guard
from chaos_experiment.machine import (
    Abort,
    Begin,
    End,
    Experiment,
    Finished,
    InForce,
    Instruction,
    Over,
    Said,
    Start,
    Tick,
    Verdict,
)
from chaos_experiment.plan import Note, Plan, Step
from chaos_experiment.series import Observation, Series

S = 1_000_000
TICK = 200_000
RATE = 10  # looks a second


def d(text: str) -> Duration:
    return Duration.parse(text)


def all_of(*texts: str) -> tuple[Condition, ...]:
    return tuple(map(parse, texts))


def step(number: int, at: str = "0s", length: str = "10s") -> Step:
    return Step(number, d(at), d(length), "network.latency", {}, ("web",))


STEADY = all_of("shop.p99 < 100ms", "shop.error_rate < 1%")


def plan(
    *steps: Step,
    steady: tuple[Condition, ...] = STEADY,
    during: tuple[Condition, ...] = (),
    abort_when: tuple[Condition, ...] = (),
    preflight: tuple[Condition, ...] = (),
    notes: tuple[Note, ...] = (),
) -> Plan:
    return Plan(
        "t",
        steps or (step(1),),
        notes,
        preflight,
        steady,
        during,
        abort_when,
        baseline=d("10s"),
        recovery_within=d("20s"),
    )


@dataclass
class System:
    """A system under test, its probe and its nodes, in one made-up time.

    ``answer`` says at a time (µs since T, negative before) how slow a request is (µs), or
    None if it fails. A step is in force ``lag`` after it was begun, and over after its
    duration or at once when it is told to end.
    """

    plan: Plan
    answer: Callable[[int], float | None] = lambda _: 20_000.0
    lag: int = S // 2
    verdicts: dict[int, tuple[RunVerdict, str]] = field(default_factory=dict)
    blind_from: int | None = None  # the probe says nothing any more from then, µs since T
    now: int = 1_000 * S
    told: list[tuple[int, Instruction]] = field(default_factory=list)
    due: list[tuple[int, InForce | Over]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.machine = Experiment(self.plan)

    def play(self, *events: tuple[int, Abort], seconds: int = 300) -> Experiment:
        """From the beginning to the verdict; ``events`` are given at times since T."""
        self._give(Begin())
        waiting = list(events)
        for _ in range(seconds * S // TICK):
            if self.machine.over:
                break
            self.now += TICK
            self._observe()
            since = self.since_t()
            for at, event in [each for each in waiting if since >= each[0]]:
                waiting.remove((at, event))
                self._give(event)
            for at, happened in [each for each in self.due if each[0] <= self.now]:
                self.due.remove((at, happened))
                self._give(happened)
            self._give(Tick())
        return self.machine

    def since_t(self) -> int:
        injected = self.machine.injected_at
        return self.now - injected if injected is not None else -1

    def _observe(self) -> None:
        if self.blind_from is not None and self.since_t() >= self.blind_from:
            return
        for at in range(self.now - TICK, self.now, S // RATE):
            injected = self.machine.injected_at
            value = self.answer(at - injected if injected is not None else -1)
            ok = value is not None
            self.machine.series.add(Observation("shop", at, ok, value, "" if ok else "refused"))

    def _give(self, event: object) -> None:
        for instruction in self.machine.step(event, self.now):  # type: ignore[arg-type]
            self.told.append((self.now, instruction))
            match instruction:
                case Start(begun):
                    verdict = self.verdicts.get(begun.number, (RunVerdict.HELD, "as asked"))
                    if verdict[0] is RunVerdict.REFUSED:
                        self.due.append((self.now + self.lag, Over(begun.number, *verdict)))
                    else:
                        self.due.append((self.now + self.lag, InForce(begun.number)))
                        end = self.now + self.lag + begun.duration
                        self.due.append((end, Over(begun.number, *verdict)))
                case End():
                    running = {each.step for _, each in self.due if isinstance(each, Over)}
                    self.due = [
                        (self.now + self.lag, Over(number, RunVerdict.ABORTED, "ended"))
                        for number in running
                    ]

    def all(self, kind: type[Instruction]) -> Iterable[tuple[int, Instruction]]:
        return [(at, each) for at, each in self.told if isinstance(each, kind)]


def slow_while(start: int, end: int, value: float | None) -> Callable[[int], float | None]:
    return lambda at: value if start <= at < end else 20_000.0


def test_a_system_that_holds_passes_and_every_phase_is_gone_through() -> None:
    system = System(plan(during=all_of("shop.error_rate < 1%")))
    machine = system.play()
    assert machine.verdict is Verdict.PASSED, machine.reason
    phases = [each.phase for _, each in system.told if hasattr(each, "phase")]
    assert phases == ["preflight", "baseline", "inject", "observe", "recover", "verdict"]
    assert {each.part for each in machine.judged} == {"baseline", "during", "recovery"}


def test_times_are_those_of_what_was_seen() -> None:
    # Slow from T+2 s until 6 s after the fault's end at T+10.5 s.
    system = System(plan(), slow_while(2 * S, 16_500_000, 400_000.0))
    machine = system.play()
    assert machine.verdict is Verdict.PASSED
    assert machine.hurt_at
    assert machine.unhurt_at
    assert machine.injected_at
    assert machine.detected_at
    assert machine.recovered_at
    # p99 over 5 s shows one slow request in fifty at once; it is looked at once a second.
    assert 2 * S <= machine.detected_at - machine.injected_at <= 4 * S
    assert abs(machine.recovered_at - machine.injected_at - 16_500_000) <= 300_000


def test_a_system_that_is_not_well_is_not_hurt() -> None:
    system = System(plan(), lambda _: 400_000.0)
    machine = system.play()
    assert machine.verdict is Verdict.REFUSED
    assert "shop.p99 < 100ms (400.0 ms)" in machine.reason
    assert not system.all(Start)


def test_preflight_names_what_is_missing() -> None:
    system = System(plan(preflight=all_of("backup.value < 3600", "shop.error_rate < 1%")))
    machine = system.play()
    assert machine.verdict is Verdict.REFUSED
    assert "preflight: backup.value < 3600 (no data)" in machine.reason
    assert not system.all(Start)


def test_an_abort_condition_that_would_fire_at_once_refuses() -> None:
    system = System(plan(abort_when=all_of("shop.p99 > 10ms")))
    assert system.play().verdict is Verdict.REFUSED
    assert not system.all(Start)


def test_a_breach_ends_every_fault_and_recovery_is_still_watched() -> None:
    hurt = plan(step(1, length="60s"), abort_when=all_of("shop.error_rate > 5% over 2s for 3s"))
    system = System(hurt, slow_while(4 * S, 15 * S, None))
    machine = system.play()
    assert machine.verdict is Verdict.ABORTED
    assert "shop.error_rate > 5%" in machine.reason
    (ended_at, _), *more = system.all(End)
    assert not more
    assert machine.injected_at
    # Bad from 4 s; so for 3 s, looked at once a second; ended long before its 60 s.
    assert 7 * S <= ended_at - machine.injected_at <= 10 * S
    assert machine.recovered_at
    assert machine.recovered_at - machine.injected_at >= 14 * S


def test_a_short_breach_is_none() -> None:
    hurt = plan(abort_when=all_of("shop.error_rate > 50% over 1s for 5s"))
    assert System(hurt, slow_while(4 * S, 6 * S, None)).play().verdict is Verdict.PASSED


def test_what_is_seen_now_and_then_is_a_breach_as_well() -> None:
    """The guard must not start to count anew whenever the system is too sick to answer."""
    guard = Guard(all_of("shop.p99 > 1s over 1s for 5s"), grace=d("5s"))
    series, seen = Series(), []
    for second in range(12):
        slow = second % 2 == 0  # in between every request fails, so that there is no p99
        at = second * S
        series.add(Observation("shop", at, slow, 2.0 * S if slow else None, "" if slow else "gone"))
        seen.append(guard.watch(series, at + S // 2, None))
    assert [breach is not None for breach in seen[:6]] == [False] * 6
    assert seen[6] is not None
    assert "2.00 s" in str(seen[6])


def test_who_cannot_see_ends_it() -> None:
    hurt = plan(step(1, length="60s"), abort_when=all_of("shop.p99 > 1s"))
    system = System(hurt, blind_from=3 * S)
    machine = system.play()
    assert machine.verdict is Verdict.ABORTED
    assert "cannot be evaluated" in machine.reason
    (ended_at, _), *_ = system.all(End)
    assert machine.injected_at
    assert ended_at - machine.injected_at <= 3 * S + 5 * S + 5 * S + 2 * S


def test_health_is_the_share_of_the_steady_state_that_holds() -> None:
    hurt = plan(abort_when=all_of("health < 90"))
    system = System(hurt, slow_while(3 * S, 9 * S, 400_000.0))
    machine = system.play()
    assert machine.verdict is Verdict.ABORTED
    assert min(value for _, value in machine.healths) == 50
    assert max(value for _, value in machine.healths) == 100


def test_what_must_hold_while_it_hurts_is_judged_over_all_of_it() -> None:
    hurt = plan(during=all_of("shop.error_rate < 10%"))
    machine = System(hurt, slow_while(S, 5 * S, None)).play()
    assert machine.verdict is Verdict.FAILED
    assert "while it hurt: shop.error_rate < 10%" in machine.reason


def test_a_system_that_does_not_come_back_in_time_fails() -> None:
    machine = System(plan(), slow_while(2 * S, 100 * S, 400_000.0)).play()
    assert machine.verdict is Verdict.FAILED
    assert "not steady again within 20s" in machine.reason
    assert machine.recovered_at is None


def test_steps_begin_when_they_are_due_and_notes_are_said() -> None:
    hurt = plan(step(1), step(2, "5s"), step(3, "20s"), notes=(Note(d("7s"), "look at n2"),))
    system = System(hurt)
    machine = system.play()
    assert machine.verdict is Verdict.PASSED
    t = machine.injected_at or 0
    begun = [((at - t) // S, each.step.number) for at, each in system.all(Start)]  # type: ignore[union-attr]
    assert begun == [(0, 1), (5, 2), (20, 3)]
    assert [each.text for _, each in system.all(Said) if each.what == "note"] == ["look at n2"]  # type: ignore[union-attr]


def test_a_refused_first_step_hurts_nobody() -> None:
    system = System(plan(), verdicts={1: (RunVerdict.REFUSED, "n1: above the ceiling")})
    machine = system.play()
    assert (machine.verdict, machine.phase) == (Verdict.REFUSED, Phase.VERDICT)
    assert machine.reason == "step 1: n1: above the ceiling"


def test_a_step_that_fails_ends_the_others() -> None:
    hurt = plan(step(1), step(2, "0s", "60s"), step(3, "40s"))
    system = System(hurt, verdicts={1: (RunVerdict.FAILED, "disturbed")})
    machine = system.play()
    assert machine.verdict is Verdict.FAILED
    assert len(list(system.all(End))) == 1
    assert {each.step.number for _, each in system.all(Start)} == {1, 2}  # type: ignore[union-attr]


def test_with_a_step_that_had_no_effect_it_does_not_pass() -> None:
    system = System(plan(step(1)), verdicts={1: (RunVerdict.NO_EFFECT, "n1: hit 0 of 9 packets")})
    machine = system.play()
    assert machine.verdict is Verdict.NO_EFFECT
    assert machine.reason == "step 1: n1: hit 0 of 9 packets"


def test_an_operator_ends_it_at_any_time_without_waiting_for_recovery() -> None:
    for at in (-1, 0, 5 * S, 11 * S):
        system = System(plan(), slow_while(2 * S, 100 * S, 400_000.0))
        machine = system.play((at, Abort("alice: enough")))
        assert (machine.verdict, machine.phase) == (Verdict.ABORTED, Phase.CLEAN)
        assert machine.reason == "alice: enough"
        assert isinstance(system.told[-1][1], Finished)


def test_without_a_steady_state_there_is_no_recovery_to_wait_for() -> None:
    machine = System(plan(steady=())).play()
    assert machine.verdict is Verdict.PASSED
    assert machine.recovered_at is None
    assert machine.healths == []
