"""Figures, SLO table and score of a run."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.simulated_runs import refused, simulated

from chaos_core.units import Duration
from chaos_experiment import verdict
from chaos_experiment.plan import Slo
from chaos_experiment.record import Check, PhaseSpan, ProbeRecord, Record, SloRow, Span
from chaos_experiment.series import Observation, Series
from chaos_experiment.verdict import Figures

S = 1_000_000
STAGING = verdict.TARGETS["staging"]


def record(**changes: Any) -> Record:
    """A run of one probe: 100 looks a phase, by default none of them bad."""
    given: dict[str, Any] = {
        "failed": 0, "after": 0, "p99": 20_000.0, "recovery": 5 * S, "verdict": "passed", "held": 4,
        "rows": 5,
    } | changes  # fmt: skip

    def phase(name: Any, failed: int, p99: float | None) -> Span:
        return Span(probe="shop", phase=name, count=100, failed=failed, p99=p99)

    return Record(
        id="x-1", title="t", started="2026-11-21T02:00:00Z", injected_us=30 * S,
        probes=[ProbeRecord(name="shop", kind="http", unit="duration", points=[])],
        spans=[phase("baseline", 0, 20_000.0), phase("fault", given["failed"], given["p99"]),
               phase("recovery", given["after"], 20_000.0)],
        checks=[Check(phase="during", condition="shop.p99 < 1s", measured="",
                      held="yes" if n < given["held"] else "no") for n in range(4)],
        slo=[SloRow(name="", target="", measured="", held=n < given["rows"]) for n in range(5)],
        recovery_us=given["recovery"], verdict=given["verdict"],
    )  # fmt: skip


# ── SLO table ─────────────────────────────────────────────────────────────────────────────


def test_each_environment_has_the_targets_of_the_requirements() -> None:
    table = {
        name: (str(slo.mttr), slo.error_rate, slo.availability, str(slo.latency_added),
               str(slo.recovery))
        for name, slo in verdict.TARGETS.items()
    }  # fmt: skip
    assert table == {
        "development": ("60s", 10, 90, "500ms", "10s"),
        "staging": ("45s", 5, 95, "500ms", "10s"),
        "production": ("30s", 1, 99, "500ms", "10s"),
    }


def test_what_a_scenario_asks_for_is_before_what_its_environment_does() -> None:
    asked = Slo(error_rate=0.0, recovery=Duration.parse("30s"))
    slo = verdict.targets(asked, "production")
    assert (slo.error_rate, str(slo.recovery), slo.availability) == (0.0, "30s", 99)
    assert verdict.targets(asked, "somewhere") == asked


def test_each_target_is_held_at_its_bound_and_not_beyond() -> None:
    at = Figures(mttr=45 * S, error_rate=5, availability=95, latency_added=500_000, recovery=10 * S)
    assert [row.held for row in verdict.slo_rows(STAGING, at)] == [True] * 5
    beyond = Figures(
        mttr=45 * S + 1, error_rate=5.1, availability=94.9, latency_added=500_001,
        recovery=10 * S + 1,
    )  # fmt: skip
    rows = verdict.slo_rows(STAGING, beyond)
    assert [row.held for row in rows] == [False] * 5
    assert [(row.target, row.measured) for row in rows] == [
        ("≤ 45 s", "45.00 s"), ("≤ 5 %", "5.1 %"), ("≥ 95 %", "94.9 %"),
        ("≤ 500 ms", "500.0 ms"), ("≤ 10 s", "10.00 s"),
    ]  # fmt: skip


def test_what_was_asked_for_and_not_measured_is_not_held() -> None:
    rows = verdict.slo_rows(STAGING, Figures())
    assert not any(row.held for row in rows)
    assert verdict.slo_rows(Slo(), Figures()) == []


@pytest.mark.parametrize(
    ("found", "held", "measured"),
    [
        (Figures(recovery=0), True, "nothing to repair"),
        (Figures(recovery=40 * S), False, "40.00 s"),  # felt only after the faults' end
        (Figures(detection=3 * S), False, "never repaired"),
        (Figures(detection=3 * S, mttr=29 * S, recovery=1 * S), True, "29.00 s"),
        (Figures(), False, "never repaired"),
    ],
)
def test_time_to_repair(found: Figures, held: bool, measured: str) -> None:
    (row,) = verdict.slo_rows(Slo(mttr=Duration.parse("30s")), found)
    assert (row.held, row.measured) == (held, measured)


def test_no_answer_at_all_is_no_latency() -> None:
    found = verdict.figures(record(p99=None, failed=100))
    assert found.lost
    (row,) = verdict.slo_rows(Slo(latency_added=Duration.parse("1s")), found)
    assert (row.held, row.measured) == (False, "no answer at all")


def test_the_worst_probe_that_the_steady_state_names_is_judged() -> None:
    spans = [
        Span(probe=probe, phase=phase, count=100, failed=failed if phase == "fault" else 0)
        for probe, failed in (("shop", 2), ("search", 7), ("victim", 100))
        for phase in ("baseline", "fault")
    ]
    steady = [
        Check(phase="baseline", condition=text, held="yes", measured="")
        for text in ("shop.p99 < 1s", "search.p99 < 1s", "not a condition", "health > 90")
    ]
    run = record().model_copy(update={"spans": spans, "checks": steady})
    assert verdict.figures(run).error_rate == 7
    assert verdict.figures(run.model_copy(update={"checks": []})).error_rate == 100


# ── score ─────────────────────────────────────────────────────────────────────────────────


def test_a_run_without_probes_scores_nothing_and_never_100() -> None:
    blind = record().model_copy(update={"probes": [], "spans": []})
    assert verdict.score(blind) is None
    unseen = record().model_copy(update={"spans": record().spans[:1]})
    assert verdict.score(unseen) is None, "no look during the fault"


@pytest.mark.parametrize("word", ["refused", "interrupted", None])
def test_a_run_that_proves_nothing_scores_nothing(word: Any) -> None:
    assert verdict.score(record(verdict=word)) is None
    assert verdict.score(refused()) is None
    assert verdict.score(record().model_copy(update={"injected_us": None})) is None


def test_a_run_that_nothing_troubled_scores_100() -> None:
    assert verdict.score(record()) == 100.0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"failed": 20}, 60.0),  # half of the looks after T are at 80 %: availability 90 %
        ({"recovery": None}, 70.0),
        ({"recovery": 300 * S}, 70.0),
        ({"recovery": 55 * S}, 85.0),  # the middle between 10 and 300 s, by logarithm
        ({"p99": 270_000.0}, 95.0),
        ({"held": 0, "rows": 0}, 80.0),
        ({"verdict": "failed"}, 70.0),
        ({"verdict": "aborted"}, 40.0),
        ({"failed": 100, "p99": None, "recovery": None, "held": 0, "rows": 0}, 0.0),
    ],
)
def test_the_formula(changes: dict[str, Any], expected: float) -> None:
    assert verdict.score(record(**changes)) == pytest.approx(expected, abs=0.1)


LOOKS = st.integers(0, 100)
TIMES = st.one_of(st.none(), st.integers(0, 400 * S))
P99S = st.one_of(st.none(), st.floats(0, 2_000_000))
WORDS = st.sampled_from(["passed", "failed", "aborted"])


def _worst_last(value: float | None) -> float:
    return float("inf") if value is None else value


@settings(max_examples=200)
@given(
    st.tuples(LOOKS, LOOKS), st.tuples(LOOKS, LOOKS), st.tuples(P99S, P99S),
    st.tuples(TIMES, TIMES), st.tuples(*[st.integers(0, 4)] * 2),
    st.tuples(*[st.integers(0, 5)] * 2), WORDS,
)  # fmt: skip
def test_worse_figures_never_raise_the_score_which_stays_within_0_and_100(
    failed: Any, after: Any, p99: Any, recovery: Any, held: Any, rows: Any, word: str
) -> None:
    better = verdict.score(
        record(
            failed=min(failed), after=min(after), p99=min(p99, key=_worst_last),
            recovery=min(recovery, key=_worst_last), held=max(held), rows=max(rows), verdict=word,
        )
    )  # fmt: skip
    worse = verdict.score(
        record(
            failed=max(failed), after=max(after), p99=max(p99, key=_worst_last),
            recovery=max(recovery, key=_worst_last), held=min(held), rows=min(rows), verdict=word,
        )
    )  # fmt: skip
    assert better is not None
    assert worse is not None
    assert 0 <= worse <= better <= 100


# ── spans and points ──────────────────────────────────────────────────────────────────────

PHASES = [
    PhaseSpan(phase="baseline", start_us=0, end_us=10 * S),
    PhaseSpan(phase="inject", start_us=10 * S, end_us=11 * S),
    PhaseSpan(phase="observe", start_us=11 * S, end_us=20 * S),
    PhaseSpan(phase="recover", start_us=20 * S, end_us=30 * S),
]


def test_spans_are_of_the_phases_whatever_the_clock_shows() -> None:
    series, began = Series(), 777 * S
    for second in range(40):
        ok = second not in (10, 11)
        series.add(Observation("shop", began + second * S, ok, float(second) if ok else None))
    baseline, fault, recovery = verdict.spans(series, PHASES, began=began)
    assert (baseline.phase, baseline.count, baseline.failed, baseline.max) == ("baseline", 10, 0, 9)
    assert (fault.phase, fault.count, fault.failed, fault.p50) == ("fault", 10, 2, 15)
    assert (recovery.phase, recovery.count, recovery.mean) == ("recovery", 10, 24.5)


def test_a_phase_in_which_nothing_was_seen_has_no_span() -> None:
    series = Series()
    series.add(Observation("shop", 0, True, 1.0))
    assert [span.phase for span in verdict.spans(series, PHASES)] == ["baseline"]


def test_points_are_the_seconds_in_which_a_probe_looked() -> None:
    series = Series()
    for at, ok in ((5.0, True), (5.2, True), (5.9, False), (8.0, False)):
        value = at if ok else None
        series.add(Observation("shop", round(at * S), ok, value, "" if ok else f"lost at {at}"))
    first, second = verdict.points(series, "shop", 2 * S, 20 * S)
    assert (first.at_us, first.count, first.failed, first.last) == (3 * S, 3, 1, 5.2)
    assert (first.p50, first.p99, first.max, first.text) == (5.0, 5.2, 5.2, "lost at 5.9")
    assert (second.at_us, second.failed, second.p50, second.last) == (6 * S, 1, None, None)
    assert verdict.points(series, "nothing", 0, 20 * S) == []


def test_a_simulated_run_is_judged_as_it_was() -> None:
    run = simulated()
    assert run.verdict == "passed"
    assert run.score is not None
    assert 90 < run.score <= 100
    slow = simulated(slow_after_s=25.0, failing=0.03)
    assert slow.verdict == "failed"
    assert slow.score is not None
    assert slow.score <= 70
