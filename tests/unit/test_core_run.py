"""A run always ends, once, with the verdict that its nodes' reports deserve."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos_core.hits import Hits
from chaos_core.lease import ABORT_BOUND
from chaos_core.run import (
    INJECT_BUDGET,
    RECOVER_BUDGET,
    Abort,
    Apply,
    Down,
    Ended,
    Entered,
    Event,
    Finished,
    InForce,
    Instruction,
    Node,
    NodePhase,
    Phase,
    Refusal,
    Revert,
    Run,
    Silent,
    Start,
    Tick,
    Verdict,
)
from chaos_core.units import Duration

S = 1_000_000
MINUTE = Duration(60 * S)


def make(*names: str) -> Run:
    """A run on these nodes; the fault of node ``a`` is ``fa``."""
    return Run(MINUTE, {f"f{name}": Node(name, f"f{name}") for name in names or ("a",)})


def play(run: Run, *events: tuple[int, Event]) -> list[Instruction]:
    return [step for at, event in events for step in run.step(event, at)]


def phases(steps: list[Instruction]) -> list[str]:
    return [step.phase.value for step in steps if isinstance(step, Entered)]


def ended(fault: str = "fa", reason: str = "duration", clean: bool = True) -> Ended:
    return Ended(fault, reason, clean, "" if clean else "qdisc left on eth0")


IN_FORCE: tuple[tuple[int, Event], ...] = ((0, Start()), (S, InForce("fa")))


def test_a_run_that_goes_well() -> None:
    run = make()
    steps = play(run, *IN_FORCE, (61 * S, ended()))
    assert phases(steps) == ["baseline", "inject", "observe", "recover", "verdict"]
    assert steps.count(Apply("a", "fa")) == 1
    assert isinstance(steps[-1], Finished)
    assert (run.verdict, run.over, run.phase) == (Verdict.HELD, True, Phase.VERDICT)
    assert not any(isinstance(step, Revert) for step in steps)


def test_it_observes_only_when_every_node_has_read_its_fault_back() -> None:
    run = make("a", "b")
    assert phases(play(run, *IN_FORCE)) == ["baseline", "inject"]
    assert phases(play(run, (2 * S, InForce("fb")))) == ["observe"]
    steps = play(run, (60 * S, ended("fa")), (61 * S, ended("fb")))
    assert steps[-1] == Finished(Verdict.HELD, run.reason)


def test_one_refusal_reverts_the_others() -> None:
    run = make("a", "b")
    steps = play(run, *IN_FORCE, (S, Refusal("fb", "envelope", "51ms is above 50ms")))
    assert Revert("a", "fa", "run failed") in steps
    assert not run.may_hold
    steps = play(run, (2 * S, ended("fa", "revert")))
    assert steps[-1] == Finished(Verdict.REFUSED, "b: 51ms is above 50ms")


def test_a_refusal_of_what_is_already_in_force_changes_nothing() -> None:
    run = make()
    play(run, *IN_FORCE, (2 * S, Refusal("fa", "refused", "already started")))
    assert run.phase is Phase.OBSERVE
    assert run.nodes["fa"].phase is NodePhase.IN_FORCE
    play(run, (61 * S, ended()))
    assert run.verdict is Verdict.HELD


@pytest.mark.parametrize("reason", ["lease", "disturbed", "not_in_force", "recover"])
def test_a_fault_that_ends_early_is_a_failure(reason: str) -> None:
    run = make()
    play(run, *IN_FORCE, (10 * S, ended(reason=reason)))
    assert run.verdict is Verdict.FAILED
    assert f"ended early ({reason})" in run.reason


@pytest.mark.parametrize("reason", ["revert", "abort"])
def test_a_fault_that_somebody_else_ended_has_not_held(reason: str) -> None:
    run = make()
    play(run, *IN_FORCE, (10 * S, ended(reason=reason)))
    assert run.verdict is Verdict.FAILED
    assert "ended early" in run.reason


def test_a_fault_that_was_never_read_back_in_force_has_not_held() -> None:
    run = make()
    play(run, (0, Start()), (S, ended()))
    assert run.verdict is Verdict.FAILED
    assert "never in force" in run.reason


def test_residue_is_a_failure_even_after_the_full_duration() -> None:
    run = make()
    play(run, *IN_FORCE, (61 * S, ended(clean=False)))
    assert run.verdict is Verdict.FAILED
    assert "not clean: qdisc left on eth0" in run.reason


def test_a_node_that_never_gets_in_force_fails_the_run_within_the_budget() -> None:
    run = make("a", "b")
    assert phases(play(run, *IN_FORCE, (INJECT_BUDGET, Tick()))) == ["baseline", "inject"]
    steps = play(run, (INJECT_BUDGET + 1, Tick()))
    assert phases(steps) == ["recover"]
    assert {step.node for step in steps if isinstance(step, Revert)} == {"a", "b"}
    play(run, (2 * INJECT_BUDGET, ended("fa", "revert")), (10 * MINUTE, Tick()))
    assert (run.verdict, run.reason) == (Verdict.FAILED, f"b: not in force within {INJECT_BUDGET}")


def test_a_node_that_is_not_heard_past_its_lease_ends_the_run_at_once() -> None:
    run = make("a", "b")
    play(run, *IN_FORCE, (2 * S, InForce("fb")))
    steps = play(run, (10 * S, Silent("fb")))
    assert phases(steps) == ["recover"]
    assert {step.node for step in steps if isinstance(step, Revert)} == {"a", "b"}
    assert play(run, (10 * S, Silent("fb"))) == []
    play(run, (11 * S, ended("fa", "revert")))
    assert not run.over  # it may come back and say how its fault ended
    play(run, (12 * S, ended("fb", "lease")))
    assert run.verdict is Verdict.FAILED
    assert run.reason == "b: not heard since its lease ended, and the fault with it"


def test_silence_of_what_has_ended_says_nothing() -> None:
    run = make("a", "b")
    play(run, *IN_FORCE, (2 * S, InForce("fb")), (61 * S, ended("fa")))
    assert play(run, (61 * S, Silent("fa"))) == []
    play(run, (62 * S, ended("fb")))
    assert run.verdict is Verdict.HELD


def test_a_node_that_falls_silent_is_not_waited_for_beyond_the_budgets() -> None:
    run = make()
    play(run, *IN_FORCE)
    over = S + MINUTE + ABORT_BOUND + 1
    assert phases(play(run, (over, Tick()))) == ["recover"]
    assert play(run, (over + RECOVER_BUDGET, Tick())) == []
    play(run, (over + RECOVER_BUDGET + 1, Tick()))
    assert run.verdict is Verdict.FAILED
    assert "no end reported 5s after the duration" in run.reason


def test_a_fault_that_outstays_its_duration_did_not_hold() -> None:
    run = make()
    play(run, *IN_FORCE)
    over = S + MINUTE + ABORT_BOUND + 1
    play(run, (over, Tick()))
    play(run, (over + 1, Ended("fa", "revert", clean=True)))
    assert run.verdict is Verdict.FAILED


BEFORE: dict[Phase, tuple[tuple[int, Event], ...]] = {
    Phase.PREFLIGHT: (),
    Phase.INJECT: ((0, Start()),),
    Phase.OBSERVE: IN_FORCE,
    Phase.RECOVER: (*IN_FORCE, (80 * S, Tick())),
}


@pytest.mark.parametrize("phase", BEFORE)
def test_an_abort_ends_a_run_from_each_phase(phase: Phase) -> None:
    run = make()
    play(run, *BEFORE[phase])
    assert run.phase is phase
    steps = play(run, (90 * S, Abort("red button")))
    assert phases(steps)[0] == "abort"
    assert not run.may_hold
    if phase is Phase.PREFLIGHT:  # nothing was sent: over at once
        assert steps[-1] == Finished(Verdict.ABORTED, "red button")
        return
    assert Revert("a", "fa", "abort") in steps
    steps = play(run, (91 * S, ended(reason="abort")))
    assert steps == [Entered(Phase.CLEAN, "red button"), Finished(Verdict.ABORTED, "red button")]


@pytest.mark.parametrize("phase", [Phase.INJECT, Phase.OBSERVE])
def test_an_abort_with_silent_nodes_ends_when_their_leases_have(phase: Phase) -> None:
    run = make()
    play(run, *BEFORE[phase], (90 * S, Abort("red button")))
    assert not play(run, (90 * S + ABORT_BOUND, Tick()))
    steps = play(run, (90 * S + ABORT_BOUND + 1, Tick()))
    assert steps[-1] == Finished(Verdict.ABORTED, "red button")


def test_a_second_abort_sends_nothing_twice() -> None:
    run = make()
    play(run, *IN_FORCE, (2 * S, Abort("one")))
    assert play(run, (3 * S, Abort("two"))) == []


def test_residue_after_an_abort_is_kept_with_the_node() -> None:
    run = make()
    play(run, *IN_FORCE, (2 * S, Abort("one")), (3 * S, ended(reason="abort", clean=False)))
    assert run.verdict is Verdict.ABORTED
    assert run.nodes["fa"].clean is False


def test_reports_before_the_start_do_not_start_anything() -> None:
    run = make()
    early: list[Event] = [InForce("fa"), Refusal("fa", "x", "y"), ended(), Tick()]
    assert play(run, *((0, event) for event in early)) == []
    assert run.phase is Phase.PREFLIGHT
    play(run, *IN_FORCE, (61 * S, ended()))
    assert run.verdict is Verdict.HELD


# ── any order ─────────────────────────────────────────────────────────────────────────────

fault = st.sampled_from(["fa", "fb", "fc", "f?"])
event = st.one_of(
    st.just(Start()),
    st.just(Tick()),
    st.just(Tick()),
    st.builds(InForce, fault),
    st.builds(InForce, fault),
    st.builds(Refusal, fault, st.just("envelope"), st.just("too much")),
    st.builds(
        Ended, fault, st.sampled_from(["duration", "lease", "revert", "abort"]), st.booleans()
    ),
    st.just(Abort("red button")),
)
spans = st.sampled_from([0, 1, S, 5 * S, 20 * S, 70 * S])


@given(st.lists(st.tuples(spans, event), max_size=25))
@settings(derandomize=True, deadline=None, database=None, max_examples=200)
def test_in_any_order_it_ends_once_and_never_holds_again_after_an_abort(
    events: list[tuple[int, Event]],
) -> None:
    run, now, aborted = make("a", "b", "c"), 0, False
    steps: list[Instruction] = []
    read_back: set[str] = set()
    tail: list[tuple[int, Event]] = [(1, Start()), *[(MINUTE, Tick())] * 5]
    for span, happening in [*events, *tail]:
        now += span
        if isinstance(happening, InForce) and run.phase is not Phase.PREFLIGHT:
            read_back.add(happening.fault)
        live = not run.over
        step = run.step(happening, now)
        steps += step
        aborted = aborted or (live and isinstance(happening, Abort))
        assert live or not step, "something happened after the end"
        assert not (aborted and run.may_hold), "granted after an abort"
        assert not (aborted and any(isinstance(s, Apply) for s in step)), "applied after an abort"
    assert run.over
    assert [type(s) for s in steps].count(Finished) == 1
    assert isinstance(steps[-1], Finished)
    assert len({s.fault for s in steps if isinstance(s, Apply)}) == sum(
        isinstance(s, Apply) for s in steps
    ), "applied twice"
    if aborted:
        assert run.verdict is Verdict.ABORTED
    if run.verdict is Verdict.HELD:
        assert read_back >= run.nodes.keys()
        assert all(node.clean for node in run.nodes.values())


# ── a fault that takes its node down ──────────────────────────────────────────────────────


def returning(*names: str) -> Run:
    run = make(*names)
    run.returns = True
    return run


BACK = "back after 20.0 s, boot 0a → 0b"


def back(fault: str = "fa", clean: bool = True) -> Ended:
    return Ended(fault, "rebooted", clean, BACK)


@pytest.mark.parametrize("seen", [InForce("fa"), Down("fa")])
def test_a_node_that_goes_away_and_comes_back_has_held(seen: Event) -> None:
    run = returning()
    steps = play(run, (0, Start()), (6 * S, seen), (20 * S, Tick()), (21 * S, back()))
    assert phases(steps) == ["baseline", "inject", "observe", "recover", "verdict"]
    assert steps[-1] == Finished(Verdict.HELD, f"a: {BACK}")
    assert steps.count(Apply("a", "fa")) == 1


def test_a_node_that_does_not_come_back_is_waited_for_as_long_as_was_asked() -> None:
    run = returning()
    play(run, (0, Start()), (S, Down("fa")))
    play(run, (S + MINUTE, Tick()))
    assert run.phase is Phase.OBSERVE
    steps = play(run, (S + MINUTE + ABORT_BOUND + 1, Tick()), (3 * MINUTE, Tick()))
    assert steps[-1] == Finished(Verdict.FAILED, "a: did not come back within 60s")


def test_a_node_that_was_told_to_go_and_stayed_has_not_held() -> None:
    for reason in ("duration", "lease", "disturbed", "lost"):
        run = returning()
        play(run, (0, Start()), (S, InForce("fa")), (61 * S, ended(reason=reason)))
        assert (run.verdict, f"ended early ({reason})" in run.reason) == (Verdict.FAILED, True)


def test_a_node_that_comes_back_unclean_fails_the_run() -> None:
    run = returning()
    play(run, (0, Start()), (S, Down("fa")), (30 * S, back(clean=False)))
    assert (run.verdict, run.reason) == (Verdict.FAILED, f"a: not clean: {BACK}")


def test_an_abort_does_not_wait_for_a_node_that_is_down() -> None:
    run = returning()
    play(run, (0, Start()), (S, Down("fa")))
    steps = play(run, (5 * S, Abort("ann")), (5 * S + ABORT_BOUND + 1, Tick()))
    assert phases(steps) == ["abort", "clean"]
    assert steps[-1] == Finished(Verdict.ABORTED, "ann")
    assert play(run, (30 * S, back())) == []


def test_only_what_takes_its_node_down_may_lose_it() -> None:
    run = make()
    assert play(run, (0, Start()), (S, Down("fa")))[-1] == Apply("a", "fa")
    assert run.nodes["fa"].phase is NodePhase.SENT


# ── what was hit ──────────────────────────────────────────────────────────────────────────

MISSED = Hits(count=0, unit="packets", seen=53)
IDLE = Hits(count=0, unit="packets", seen=0)
HIT = Hits(count=12, unit="packets", seen=53)
SHORT = Hits(count=30, unit="cpu_us", asked=300, note="asked 15% of the CPU, got 3.2%")


def hit(
    hits: Hits | None, fault: str = "fa", reason: str = "duration", clean: bool = True
) -> Ended:
    return Ended(fault, reason, clean, hits=hits)


def test_a_fault_that_hit_nothing_of_what_was_seen_has_had_no_effect() -> None:
    run = make()
    steps = play(run, *IN_FORCE, (61 * S, hit(MISSED)))
    assert steps[-1] == Finished(Verdict.NO_EFFECT, "a: in force, but it hit 0 of 53 packets")


@pytest.mark.parametrize(
    ("hits", "says"),
    [
        (IDLE, "a: no traffic that it could have hit was seen"),
        (HIT, ""),
        (None, ""),
        (SHORT, "a: asked 15% of the CPU, got 3.2%"),
        (Hits(count=0, unit="throttled periods"), ""),
    ],
)
def test_what_was_hit_or_was_not_there_to_be_hit_holds_and_is_told(
    hits: Hits | None, says: str
) -> None:
    run = make()
    steps = play(run, *IN_FORCE, (61 * S, hit(hits)))
    said = "in force as asked, and clean after" + (f"; {says}" if says else "")
    assert steps[-1] == Finished(Verdict.HELD, said)


def test_one_node_without_effect_is_enough() -> None:
    run = make("a", "b")
    play(run, (0, Start()), (S, InForce("fa")), (S, InForce("fb")), (61 * S, hit(HIT)))
    steps = play(run, (61 * S, hit(MISSED, "fb")))
    assert steps[-1] == Finished(Verdict.NO_EFFECT, "b: in force, but it hit 0 of 53 packets")


@pytest.mark.parametrize(
    ("event", "verdict"),
    [
        (hit(MISSED, clean=False), Verdict.FAILED),
        (hit(MISSED, reason="disturbed"), Verdict.FAILED),
        (hit(MISSED, reason="lease"), Verdict.FAILED),
    ],
)
def test_a_failure_comes_before_no_effect(event: Ended, verdict: Verdict) -> None:
    steps = play(make(), *IN_FORCE, (61 * S, event))
    assert [step.verdict for step in steps if isinstance(step, Finished)] == [verdict]


def test_an_abort_says_nothing_of_the_effect() -> None:
    run = make()
    steps = play(run, *IN_FORCE, (2 * S, Abort("enough")), (3 * S, hit(MISSED, reason="abort")))
    assert [step.verdict for step in steps if isinstance(step, Finished)] == [Verdict.ABORTED]
