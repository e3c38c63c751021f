"""The matrix: what it runs, and how pytest's reports become its rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chaos_core.errors import InvalidInput
from chaos_lab.matrix import cases, releases
from chaos_lab.matrix.report import HostReport, Report, Row
from chaos_lab.matrix.run import Reports

TESTS = Path(__file__).parents[1]


def report(case: str, when: str, outcome: str = "passed", **more: object) -> str:
    return "report " + json.dumps({"nodeid": case, "when": when, "outcome": outcome, **more})


def rows_of(*lines: str) -> list[Row]:
    rows: list[Row] = []
    reports = Reports("debian12", "abc", rows, lambda: None)
    for line in lines:
        reports.take(line)
    return rows


def test_every_kernel_test_is_run_or_left_out_with_a_reason() -> None:
    there = {path.stem for path in (TESTS / "kernel").glob("test_*.py")}
    assert sorted([*cases.KERNEL, *cases.LEFT_OUT]) == sorted(there)
    assert all(cases.LEFT_OUT.values())


def test_every_test_of_the_matrix_is_run() -> None:
    there = {path.stem for path in (TESTS / "matrix").glob("test_*.py")}
    assert set(cases.MATRIX) == there


def test_the_sample_is_of_what_is_there() -> None:
    for case in cases.chosen(sample=True):
        assert (TESTS.parent / case.partition("::")[0]).is_file()


def test_a_row_is_ok_refused_or_failed() -> None:
    crash = {"reprcrash": {"message": "assert 1 == 2"}}
    rows = rows_of(
        *(report("a", when) for when in ("setup", "call", "teardown")),
        report("b", "setup"),
        report("b", "call", user_properties=[["refused", "no way there"]]),
        report("b", "teardown", user_properties=[["refused", "no way there"]]),
        report("c", "setup"),
        report("c", "call", "failed", longrepr=crash),
        report("c", "teardown"),
        report("d", "setup", "skipped", longrepr=["f", 1, "Skipped: no"]),
        report("d", "teardown"),
        *(report("e", when) for when in ("setup", "call")),
        report("e", "teardown", "failed", longrepr="left something"),
        "what a test printed",
    )
    assert [(row.case, row.outcome) for row in rows] == [
        ("a", "ok"),
        ("b", "refused"),
        ("c", "failed"),
        ("d", "failed"),
        ("e", "failed"),
    ]
    assert rows[1].said == "no way there"
    assert rows[2].said == "assert 1 == 2"


def test_what_was_hit_is_a_table_of_hosts() -> None:
    case = "test_kinds.py::test_a_kind[latency-nft]"
    said = [["hits", "9 of 9 packets"]]
    lines = [report(case, "call", user_properties=said), report(case, "teardown")]
    hosts = HostReport("debian12", {}, tuple(rows_of(*lines))), HostReport("debian13", {}, ())
    assert hosts[0].rows[0].hits == "9 of 9 packets"
    text = Report(hosts).as_markdown()
    assert "| latency-nft | 9 of 9 packets | not run |" in text


def test_a_host_that_ran_nothing_or_broke_down_has_not_passed() -> None:
    good = HostReport("debian12", {}, (Row("debian12", "a", "ok"),))
    assert Report((good,)).passed
    for bad in (
        HostReport("debian13", {}, ()),
        HostReport("debian13", {}, good.rows, "it did not boot"),
        HostReport("debian13", {}, (Row("debian13", "a", "failed", "why"),)),
    ):
        whole = Report((good, bad))
        assert not whole.passed
        assert "debian13" in whole.as_markdown()


def test_a_later_run_replaces_the_cases_that_it_has_played() -> None:
    def of(host: str, commit: str, **cases: Any) -> HostReport:
        rows = (Row(host, case, said, commit=commit) for case, said in cases.items())
        return HostReport(host, {"kernel": commit}, tuple(rows))

    first = Report((of("debian11", "aaa", a="failed", b="ok"), of("debian12", "aaa", a="ok")))
    again = Report((of("debian11", "bbb", a="ok", c="refused"),))
    whole = Report.read(again.after(Report.read(first.as_json())).as_json())
    assert [(row.case, row.outcome, row.commit) for row in whole.hosts[0].rows] == [
        ("a", "ok", "bbb"),
        ("b", "ok", "aaa"),
        ("c", "refused", "bbb"),
    ]
    assert whole.hosts[1] == first.hosts[1]
    assert whole.passed
    assert not first.passed


def test_an_unknown_host_is_named_with_those_that_there_are() -> None:
    assert [one.name for one in releases.choose("debian13, debian11")] == ["debian13", "debian11"]
    assert len(releases.choose("")) == 3
    with pytest.raises(InvalidInput, match="debian10"):
        releases.choose("debian10")
