"""The campaign over the library: which cases there are, and what readers get of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chaos_core.errors import InvalidInput
from chaos_experiment.record import FaultSpan, Record
from chaos_lab import library
from chaos_lab.library import Played, cases, pages
from chaos_lab.library.cases import FRAGILE, Case

LIBRARY = Path("scenarios")


def fault(verdict: str) -> FaultSpan:
    return FaultSpan(step=1, kind="cpu.stress", params={}, nodes=["n2"], start_us=0,
                     end_us=None, verdict=verdict, reason="")  # fmt: skip


def record(verdict: str, **more: object) -> Record:
    return Record.model_validate(
        {"id": "r-2k7qd", "title": "t", "started": "2026-11-28T16:00:00Z", "verdict": verdict}
        | {"reason": "it held, and is steady again" if verdict == "passed" else "step 1: no"}
        | more
    )


def test_every_scenario_is_played_at_each_of_its_levels() -> None:
    found = cases.find(LIBRARY, "sturdy")
    assert len({case.name for case in found}) == len(found)
    assert {case.file for case in found} == set(LIBRARY.glob("*/*.yaml"))
    assert sum(case.file.parent.name == "levels" for case in found) == 18


def test_what_the_fragile_shop_must_not_pass_is_there() -> None:
    assert {case.name for case in cases.find(LIBRARY, "fragile")} == set(FRAGILE)


def test_a_case_is_played_under_the_strictest_profile_that_allows_it() -> None:
    found = {case.name: case.profile for case in cases.find(LIBRARY, "sturdy")}
    assert {found[name] for name in found if name.startswith("production/")} == {"production"}
    assert found["levels/loss-light"] == "staging"
    assert found["levels/loss-heavy"] == "lab"
    # Refused of both application servers: two of three nodes are no minority.
    assert found["application/partner_unavailable"] == "lab"


def test_only_what_is_asked_for_is_played() -> None:
    found = cases.find(LIBRARY, "both", ["levels/database-*"])
    assert [(case.manner, case.name) for case in found] == [
        ("sturdy", "levels/database-short"),
        ("sturdy", "levels/database-long"),
        ("fragile", "levels/database-short"),
    ]
    with pytest.raises(InvalidInput, match="no case matches levels/nothing"):
        cases.find(LIBRARY, "both", ["levels/nothing"])


def test_what_was_played_stays_played_until_its_scenario_changes(tmp_path: Path) -> None:
    file = tmp_path / "levels" / "cpu.yaml"
    file.parent.mkdir()
    file.write_text("")
    case = Case(file, "heavy", "sturdy", "lab")
    assert library.kept(tmp_path, case) is None
    kept = (tmp_path / case.report).with_suffix(".json")
    kept.parent.mkdir()
    kept.write_text(record("passed").model_dump_json())
    assert library.kept(tmp_path, case) is not None
    os.utime(file, (kept.stat().st_mtime + 1,) * 2)
    assert library.kept(tmp_path, case) is None
    assert library.kept(tmp_path, case, old=True) is not None


@pytest.mark.parametrize(
    ("manner", "verdict", "held"),
    [
        ("sturdy", "passed", True),
        ("sturdy", "failed", False),
        ("sturdy", "refused", False),
        ("fragile", "failed", True),
        ("fragile", "aborted", True),
        ("fragile", "passed", False),
        ("fragile", "refused", False),  # it was not well before: nothing was shown
        ("fragile", "interrupted", False),
    ],
)
def test_the_sturdy_shop_has_to_pass_and_the_fragile_one_to_be_hurt(
    manner: str, verdict: str, held: bool
) -> None:
    case = Case(LIBRARY / "levels/cpu.yaml", "heavy", manner, "lab")  # type: ignore[arg-type]
    assert Played(case, record(verdict, faults=[fault("held")])).held is held


def test_a_fault_that_was_not_in_force_shows_nothing_of_the_fragile_shop() -> None:
    case = Case(LIBRARY / "levels/cpu.yaml", "heavy", "fragile", "lab")
    assert not Played(case, record("failed", faults=[fault("not_in_force")])).held
    assert not Played(case, record("failed")).held


def test_the_index_links_each_report_and_says_what_decided(tmp_path: Path) -> None:
    case = Case(LIBRARY / "levels/database.yaml", "short", "fragile", "staging")
    reason = "while it hurt: shop.error_rate < 10% (74.1 %)"
    pages.write([Played(case, record("failed", reason=reason))], tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "[levels/database-short](fragile/levels-database-short.md)" in text
    assert "74.1 %" in text
    assert (tmp_path / "fragile/levels-database-short.md").is_file()
    assert (tmp_path / "fragile/levels-database-short.html").is_file()
