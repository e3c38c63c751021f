"""A sample of the simulation, and proof that it would notice: see tests/sim."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.sim.hunt import play, readable, shrink, tally
from tests.sim.mutants import MUTANTS, Mutant
from tests.sim.outside import Outside, installed
from tests.sim.plan import Action, S, draw
from tests.sim.world import Result

SEEDS = 800
_TRIES = 4_000  # from a mutant's first seed on: schedules move when the code changes


@pytest.fixture
def outside() -> Iterator[Outside]:
    with installed() as made:
        yield made


def test_no_rule_is_broken_in_any_world_of_the_sample(outside: Outside) -> None:
    found = tally(outside, range(SEEDS))
    assert found.broken == []
    # Something happened in these worlds: silence proves nothing.
    assert found.counts["runs"] > SEEDS
    assert found.counts["holds"] > 2 * SEEDS
    assert found.counts["aborts"] > SEEDS // 5


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_broken_rule_is_noticed(outside: Outside, mutant: Mutant) -> None:
    with mutant.instead():
        for seed in range(mutant.first, mutant.first + _TRIES):
            violation = play(outside, draw(seed)).violation
            if violation and violation.rule in mutant.rules:
                return
    pytest.fail(f"{_TRIES} worlds did not show that {mutant.name}")


def test_a_seed_is_the_same_world_each_time(outside: Outside) -> None:
    for seed in range(20):
        first, second = (play(outside, draw(seed), tracing=True) for _ in range(2))
        assert first.events == second.events
        assert first.trace == second.trace


def test_wall_clocks_that_jump_by_an_hour_change_nothing_but_what_people_read(
    outside: Outside,
) -> None:
    jumps = tuple(Action(at, "wall", (3_600 * S * way,)) for at, way in ((S, 1), (2 * S, -1)))
    for seed in range(20):
        plan = draw(seed)
        plan = replace(plan, actions=tuple(a for a in plan.actions if a.name != "wall"))
        still = play(outside, plan, tracing=True)
        jumped = play(outside, replace(plan, actions=plan.actions + jumps), tracing=True)
        assert jumped.events == still.events + len(jumps)
        assert _decisions(jumped) == _decisions(still)


def _decisions(result: Result) -> list[tuple[int, str, str]]:
    return [
        line
        for line in result.trace
        if not line[2].startswith("wall") and "aborted everything at" not in line[2]
    ]


def test_a_broken_world_shrinks_to_what_breaks_it(outside: Outside) -> None:
    mutant = next(mutant for mutant in MUTANTS if "revert is not obeyed" in mutant.name)
    with mutant.instead():
        whole = draw(mutant.first)
        small = shrink(outside, whole)
        result = play(outside, small, tracing=True)
    assert len(small.actions) < len(whole.actions)
    assert result.violation
    assert str(result.violation) in list(readable(result))[-1]
