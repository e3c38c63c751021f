"""A sample of ``make sim``: the promises hold, and a rule broken on purpose is noticed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.sim.hunt import play, tally
from tests.sim.mutants import MUTANTS, Mutant
from tests.sim.outside import Outside, installed
from tests.sim.plan import draw

# Those that few worlds suffice for. The rest: ``python -m tests.sim --mutant NAME``.
_SOON = [mutant for mutant in MUTANTS if mutant.first < 30]
_WORLDS = 400


@pytest.fixture
def outside() -> Iterator[Outside]:
    with installed() as made:
        yield made


def test_no_promise_is_broken_in_a_sample_of_worlds(outside: Outside) -> None:
    found = tally(outside, range(500))
    assert found.broken == []
    assert found.counts["holds"] > 500  # the worlds are not empty ones


@pytest.mark.parametrize("mutant", _SOON, ids=lambda mutant: mutant.name)
def test_a_broken_rule_is_noticed(outside: Outside, mutant: Mutant) -> None:
    with mutant.instead():
        found = (play(outside, draw(seed)).violation for seed in range(_WORLDS))
        violation = next((v for v in found if v and v.rule in mutant.rules), None)
    assert violation is not None
