"""A run beside another one and beside its own history: what counts as worse."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.simulated_runs import history, refused, simulated

from chaos_core.errors import InvalidInput
from chaos_experiment.compare import comparable, compare, limit
from chaos_experiment.record import Record

S = 1_000_000
NOW = simulated(id="x-now")


def took(*recoveries: float | None, **changes: Any) -> list[Record]:
    """Runs that recovered within so many seconds."""
    return [
        NOW.model_copy(
            update={"id": f"x-{n}", "recovery_us": None if s is None else round(s * S)} | changes
        )
        for n, s in enumerate(recoveries)
    ]


@pytest.mark.parametrize(
    ("older", "now", "worse"),
    [
        ([10], 12.0, False),  # 20 % of the median
        ([10], 12.1, True),
        ([2], 3.0, False),  # a second cannot be told apart
        ([2], 3.1, True),
        ([8, 10, 10, 12, 14], 16.0, False),  # median 10, MAD 2: 3 · MAD
        ([8, 10, 10, 12, 14], 16.1, True),
        ([10, 10, 10, 10, 100], 12.1, True),  # one outlier moves nothing
        ([10, 10, 10], None, True),  # never recovered
        ([10, 10, 10], 1.0, False),
    ],
)
def test_the_rule(older: list[float], now: float | None, worse: bool) -> None:
    verdict = "passed" if now is not None else "failed"
    (run,) = took(now, verdict=verdict)
    assert ("recovery time" in compare(run, took(*older)).worse) is worse


def test_less_availability_and_a_lower_score_are_worse() -> None:
    (lower,) = took(6, score=90.0)
    assert compare(lower, took(6, score=95.0)).worse == ("score",)
    assert compare(took(6, score=95.0)[0], [lower]).worse == ()
    bad = simulated(failing=0.04)
    assert {"availability", "error rate"} <= set(compare(bad, history()).worse)


def test_a_run_as_ever_is_no_regression_of_its_history() -> None:
    found = compare(NOW, history())
    assert {"recovery time", "p99 while hurt", "latency added (p99)"}.isdisjoint(found.worse)
    row = found.rows[0]
    assert (row.before, row.now, row.limit) == ("6.00 s (5.00 s – 7.00 s)", "6.00 s", "≤ 9.00 s")


def test_a_slower_recovery_is_found_and_named() -> None:
    slow = simulated(id="x-slow", slow_after_s=20.0)
    found = compare(slow, history())
    assert "recovery time" in found.worse
    assert found.summary.startswith("worse than 6 older runs: recovery time, ")
    assert found.rows[0].change == "+14.00 s (+233 %)"


def test_what_was_not_measured_is_shown_and_is_no_regression() -> None:
    found = compare(refused(), [NOW])
    assert found.worse == ()
    assert {row.now for row in found.rows} == {"not measured"}
    never = took(None, verdict="failed")
    assert compare(NOW, never).rows[0].before == "never"
    assert compare(NOW, [*never, refused()]).rows[0].worse is False


def test_nothing_to_compare_with_is_said() -> None:
    with pytest.raises(InvalidInput, match="nothing to compare run x-now with"):
        compare(NOW, [])


def test_the_history_is_of_earlier_passed_runs_of_the_same_scenario() -> None:
    older = history(3)
    others = [
        NOW,
        simulated(id="x-later", day=30),
        simulated(id="x-failed", day=2, failing=0.3),
        simulated(id="x-elsewhere", day=2, environment="production"),
        simulated(id="x-other", day=2).model_copy(update={"scenario": "scenarios/loss.yaml"}),
        *reversed(older),
    ]
    assert comparable(NOW, others) == older


VALUES = st.lists(st.floats(0, 1e9), min_size=1, max_size=9)


@given(VALUES, st.floats(0, 1e6))
def test_no_median_is_a_regression_of_its_own_history(values: list[float], apart: float) -> None:
    bound = limit(values, apart)
    assert math.isfinite(bound)
    assert bound >= sorted(values)[len(values) // 2] or len(values) % 2 == 0
    assert limit([*values, *values], apart) == pytest.approx(bound)
