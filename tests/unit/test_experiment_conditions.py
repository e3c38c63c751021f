"""Conditions on what probes see, and the figures that they are made of."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos_core.errors import InvalidInput
from chaos_core.units import Duration
from chaos_experiment.conditions import Held, parse
from chaos_experiment.series import Observation, Series, percentile

S = 1_000_000


def series(*rows: tuple[int, bool, float | None], probe: str = "shop") -> Series:
    made = Series()
    for at, ok, value in rows:
        made.add(Observation(probe, at, ok, value, "" if ok else "connection refused"))
    return made


@pytest.mark.parametrize(
    ("text", "metric", "op", "numbers", "unit", "over", "hold"),
    [
        ("shop.p99 > 150ms", "p99", ">", (150_000,), "duration", "5s", "0s"),
        ("shop.error_rate>0.5% for 5s", "error_rate", ">", (0.5,), "percent", "5s", "5s"),
        ("shop.value <= 3 over 10s for 2s", "value", "<=", (3,), "", "10s", "2s"),
        ("alerts.value <= P2", "value", "<=", (2,), "", "5s", "0s"),
        ("lag.value between 0 and 4", "value", "between", (0, 4), "", "5s", "0s"),
        ("up.value in [1, 2]", "value", "in", (1, 2), "", "5s", "0s"),
        ("up.value == true", "value", "==", (1,), "", "5s", "0s"),
        ("health < 90", "health", "<", (90,), "", "5s", "0s"),
    ],
)
def test_a_condition_is_read(
    text: str, metric: str, op: str, numbers: tuple[float, ...], unit: str, over: str, hold: str
) -> None:
    read = parse(text)
    assert (read.metric, read.op, read.numbers, read.unit) == (metric, op, numbers, unit)
    assert (read.over, read.hold) == (Duration.parse(over), Duration.parse(hold))


@pytest.mark.parametrize(
    ("value", "held"), [(None, Held.YES), (4.0, Held.YES), (3.0, Held.NO), (0.0, Held.NO)]
)
def test_not_holds_where_there_is_no_value(value: float | None, held: Held) -> None:
    read = parse("not alerts.value <= P3")
    assert read.read(series((S, True, value), probe="alerts"), 2 * S).held is held
    nothing = read.read(series(probe="alerts"), 2 * S)
    assert nothing.held is Held.UNKNOWN  # who cannot see does not know either way


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not a condition"),
        ("p99 > 150ms", "names no probe"),
        ("shop.p98 > 150ms", "unknown metric 'p98'"),
        ("shop.error_rate > 0.5", "is a share"),
        ("shop.p99 > fast", "'fast' is no value"),
        ("shop.p99 > 150ms for ever", "'ever'"),
        ("shop.p99 > 150ms over 5", "has no unit"),
        ("shop.p99 contains x", "is a number"),
        ("shop.text > 3", "for numbers"),
        ("shop.text matches (", "not a regular expression"),
        ("shop.value between 3", "takes two values"),
        ("shop.value between 3 and 1", "nothing is between"),
        ("shop.value in [1s, 2]", "different units"),
        ("shop.error_rate > 100%", "can never tell"),
        ("health > 100", "can never tell"),
        ("shop.p99 < 0ms", "can never tell"),
    ],
)
def test_what_is_no_condition_is_refused_saying_why(text: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        parse(text)


def test_the_window_slides() -> None:
    seen = series((1 * S, False, None), (4 * S, True, 10.0), (8 * S, True, 20.0))
    condition = parse("shop.error_rate > 0% over 5s")
    assert condition.read(seen, 5 * S).held is Held.YES
    assert condition.read(seen, 9 * S).held is Held.NO
    assert condition.read(seen, 20 * S).held is Held.UNKNOWN


def test_without_an_answer_a_figure_is_unknown_and_the_share_of_failures_is_not() -> None:
    seen = series((S, False, None), (2 * S, False, None))
    assert parse("shop.p99 < 1s").read(seen, 3 * S).held is Held.UNKNOWN
    assert "connection refused" in parse("shop.p99 < 1s").read(seen, 3 * S).measured
    assert parse("shop.error_rate > 99%").read(seen, 3 * S).held is Held.YES


def test_nothing_to_see_is_not_the_same_as_nothing_seen() -> None:
    calm = series((S, True, None))
    reading = parse("shop.value <= P2").read(calm, 2 * S)
    assert (reading.held, reading.measured) == (Held.NO, "none")


def test_health_is_given_from_outside() -> None:
    assert parse("health < 90").read(Series(), 0, 80.0).held is Held.YES
    assert parse("health < 90").read(Series(), 0).held is Held.UNKNOWN


@pytest.mark.parametrize(
    ("text", "held"),
    [("contains lead", Held.YES), ("== n1", Held.NO), ("matches ^lea.*n2$", Held.YES)],
)
def test_text_is_compared(text: str, held: Held) -> None:
    seen = Series()
    seen.add(Observation("role", S, True, None, "leader is n2"))
    assert parse(f"role.text {text}").read(seen, 2 * S).held is held


@given(st.lists(st.floats(0, 1e9), min_size=1), st.floats(0.001, 1))
def test_a_percentile_is_a_value_that_enough_are_at_or_below(
    values: list[float], share: float
) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= math.ceil(share * len(values)) - 1e-9
    below = [value for value in values if value < found]
    assert len(below) < max(1, math.ceil(share * len(values)))


@given(st.lists(st.integers(0, 50)))
def test_a_series_is_sorted_however_answers_arrive(times: list[int]) -> None:
    seen = Series()
    for at in times:
        seen.add(Observation("p", at, True))
    assert [row.at for row in seen.between("p", 0, 51)] == sorted(times)
    assert len(seen.between("p", 10, 20)) == sum(10 <= at < 20 for at in times)
