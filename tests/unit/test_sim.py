"""A sample of ``make sim``: the promises hold, and each rule, broken on purpose, is noticed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.sim.hunt import play, tally
from tests.sim.mutants import MUTANTS, Mutant
from tests.sim.outside import Outside, installed
from tests.sim.plan import draw


@pytest.fixture
def outside() -> Iterator[Outside]:
    with installed() as made:
        yield made


def test_no_promise_is_broken_in_a_sample_of_worlds(outside: Outside) -> None:
    found = tally(outside, range(500))
    assert found.broken == []
    assert found.counts["holds"] > 500  # the worlds are not empty ones


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_broken_rule_is_noticed(outside: Outside, mutant: Mutant) -> None:
    with mutant.instead():
        violation = play(outside, draw(mutant.first)).violation
    assert violation is not None
    assert violation.rule in mutant.rules
