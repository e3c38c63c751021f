"""Suites, and the library that they are made of: every file, at every level."""

from __future__ import annotations

import json
import re
from functools import cache
from itertools import product
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from tests.unit.editor import data

from chaos_core.errors import InvalidInput
from chaos_core.units import Duration
from chaos_experiment import rehearsal, suites
from chaos_experiment.load import Loaded, load
from chaos_experiment.scenario import SloTargets
from chaos_experiment.schema import json_schema

LIBRARY = Path(__file__).parents[2] / "scenarios"
FILES = sorted(path.relative_to(LIBRARY).as_posix() for path in LIBRARY.glob("*/*.yaml"))
SUITES = suites.load((LIBRARY / "suites.yaml").read_text(), "suites.yaml")
TWO = """\
first: {title: One, scenarios: [{file: a.yaml, level: light, set: {delay: 5ms}}, {file: b.yaml}]}
second:
  title: Two
  cooldown: 3s
  fail_fast: true
  include: [first]
  scenarios: [{file: b.yaml}, {file: c.yaml, environment: staging}]
"""


@cache
def loaded(file: str, level: str = "", environment: str = "") -> Loaded:
    return load((LIBRARY / file).read_text(), file, level=level, environment=environment)


def levels(file: str) -> list[str]:
    return ["", *loaded(file).scenario.levels]


# ── the library ───────────────────────────────────────────────────────────────────────────


def test_the_library_has_the_six_the_eighteen_and_the_twenty_seven() -> None:
    by_folder = {
        folder: [file for file in FILES if file.startswith(f"{folder}/")]
        for folder in ("production", "levels", "application")
    }
    assert len(by_folder["production"]) == 6
    assert sum(max(1, len(levels(file)) - 1) for file in by_folder["levels"]) == 18
    assert len(by_folder["application"]) == 27
    assert sum(map(len, by_folder.values())) == len(FILES)


@pytest.mark.parametrize("file", FILES)
def test_every_scenario_is_allowed_in_the_lab_at_every_level(file: str) -> None:
    for level in levels(file):
        one = loaded(file, level)
        assert rehearsal.rehearse(one, rehearsal.profile("lab")).refusals == ()
        scenario = one.scenario
        for text in ("hypothesis", "needs", "expect", "failure_means"):
            assert getattr(scenario, text), f"{file} does not say {text}"
        assert one.plan.steady_state
        assert one.plan.during
        assert one.plan.abort_when
        if not isinstance(scenario.slo, SloTargets):
            for environment in scenario.slo:
                assert loaded(file, level, environment).plan.slo != one.plan.slo or (
                    environment == scenario.environment
                )


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("production/")])
def test_the_six_are_allowed_in_production(file: str) -> None:
    assert rehearsal.rehearse(loaded(file), rehearsal.profile("production")).refusals == ()
    assert loaded(file).plan.preflight


@pytest.mark.parametrize("name", SUITES)
def test_every_entry_of_the_suites_is_in_the_library(name: str) -> None:
    for entry in SUITES[name].entries:
        assert entry.file in FILES
        assert entry.level in levels(entry.file)


def test_no_scenario_is_forgotten() -> None:
    named = {(entry.file, entry.level) for one in SUITES.values() for entry in one.entries}
    for file in FILES:
        offered = levels(file)[1:] or [""]
        assert {pair for pair in product([file], offered) if pair not in named} == set()
    groups = {"smoke", "standard", "stress", "infrastructure", "production_readiness"}
    assert groups <= set(SUITES)
    assert len(SUITES["all"].entries) == 27


def test_the_library_has_the_schema_of_today_for_editors() -> None:
    """`chaosctl scenario schema > scenarios/schema.json` after a change of a kind."""
    assert json.loads((LIBRARY / "schema.json").read_text()) == json_schema()
    for file in FILES:
        first = (LIBRARY / file).read_text().splitlines()[0]
        assert first == "# yaml-language-server: $schema=../schema.json"


def test_the_schema_takes_the_whole_library() -> None:
    schema = Draft202012Validator(json_schema())
    for file in FILES:
        assert [
            error.message for error in schema.iter_errors(data((LIBRARY / file).read_text()))
        ] == [], file


def test_the_examples_of_the_reference_are_good() -> None:
    text = (LIBRARY.parent / "docs/scenarios.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.S)
    first = next(block for block in blocks if "title: One web" in block)
    for block in blocks:
        if block.startswith("timeline:"):
            unused = first.replace('"${delay}"', "50ms").replace("{delay: 50ms, url", "{url")
            unused = re.sub(r"^levels:.*\n", "", unused, flags=re.M)
            assert len(load(unused[: unused.index("timeline:")] + block).plan.steps) > 9
        if block.startswith("slo:"):
            block = re.sub(r"^slo:.*\n", block, first, flags=re.M)
        if block.startswith("# yaml") or "title: One web" in block:
            assert load(block).plan.slo.mttr
    (suite,) = [block for block in blocks if block.startswith("smoke:")]
    assert suites.load(suite.replace("include: [other]", "include: []"))["smoke"].fail_fast


# ── suites ────────────────────────────────────────────────────────────────────────────────


def test_a_suite_has_what_it_includes_once() -> None:
    found = suites.load(TWO)
    second = suites.suite(found, "second")
    assert (second.title, second.cooldown, second.fail_fast) == ("Two", Duration.parse("3s"), True)
    assert [entry.file for entry in second.entries] == ["a.yaml", "b.yaml", "c.yaml"]
    assert (second.entries[0].level, second.entries[0].settings) == ("light", {"delay": "5ms"})
    assert second.entries[2].environment == "staging"
    assert found["first"].cooldown == Duration.parse("10s")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("include: [first]", "include: [third]", "suites.yaml:6:second.include[0]: there is no"),
        ("include: [first]", "include: [second]", "'second' includes itself"),
        ("cooldown: 3s", "cooldown: 3", "suites.yaml:4:second.cooldown: '3' has no unit"),
        ("fail_fast", "failfast", "unknown field 'failfast'\n  → did you mean 'fail_fast'?"),
        ("{file: b.yaml}]}", "{name: b.yaml}]}", "first.scenarios[1]"),
        ("title: Two", "note: Two", "suites.yaml:2:second.title: is required"),
        ("second:", "Second:", "'Second' is not a name"),
        ("scenarios: [{file: a", "scenario: [{file: a", "suites.yaml:1:first"),
    ],
)  # fmt: skip
def test_mistakes_in_suites_are_named_with_their_place(old: str, new: str, says: str) -> None:
    assert old in TWO
    with pytest.raises(InvalidInput) as caught:
        suites.load(TWO.replace(old, new, 1))
    assert says in str(caught.value)


def test_an_unknown_suite_gets_a_hint() -> None:
    with pytest.raises(InvalidInput, match="there is no suite 'smok'") as caught:
        suites.suite(SUITES, "smok")
    assert caught.value.hint == "did you mean 'smoke'?"
