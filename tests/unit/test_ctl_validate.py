"""chaosctl validate, scenario schema, and what a dry run of a scenario shows."""

from __future__ import annotations

import json
import os
from pathlib import Path

import jsonschema
import pytest
from tests.unit.editor import data
from tests.unit.test_experiment_scenario import KNOWN, SHOP

from chaos_core.errors import EnvelopeExceeded
from chaos_experiment import probes, rehearsal
from chaos_experiment.load import load
from chaos_experiment.schema import json_schema
from chaosctl.commands import scenario
from chaosctl.main import main

TWO_STEPS = (
    SHOP.replace("web: {labels: [role=web], pick: one}", "web: {names: [n1]}")
    + """\
  - {at: 30s, for: 60s, fault: network.latency, on: web, with: {peers: role=db, delay: 20ms},
     note: on top of it}
  - {at: 30s, for: 5s, fault: process.kill, on: web, with: {unit: shop}}
  - {at: 31s, note: "half of it"}
"""
)

PLAIN = """\
title: Faults that overlap
hypothesis: Nobody notices.
targets: {web: {names: [n1]}}
probes: {shop: {http: {url: "http://10.77.0.11/"}}}
steady_state: ["shop.error_rate < 1%"]
timeline:
"""


@pytest.fixture(autouse=True)
def looks(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {**KNOWN, **probes.kinds()}
    monkeypatch.setattr(probes, "kinds", lambda: known)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    file = tmp_path / "shop.yaml"
    file.write_text(SHOP)
    return file


def test_a_good_file_is_summed_up(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(shop), "--profile", "production"]) == 0
    shown = capsys.readouterr().out
    assert "T+1:00" in shown
    assert "1 T+1:00 production" in " ".join(shown.split())
    assert main(["validate", str(shop), "--set", "delay=80ms", "-o", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["steps"], row["ends"], row["risky"]) == (1, "T+1:00", False)
    assert row["allowed_by"] == ["staging", "lab"]


def test_the_list_of_files_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    here = Path(__file__).parents[2] / "scenarios"
    files = [here / "application/database_connection_failure.yaml", here / "levels/cpu.yaml"]
    relative = os.path.relpath(files[1])
    assert main(["validate", str(files[0]), relative]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith(f"FILE IN {os.path.relpath(here)}")
    assert shown[1].startswith("application/database_connection_failure.yaml ")
    assert max(map(len, shown)) <= 80


def test_every_wrong_file_is_said_and_the_others_are_checked(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = shop.with_name("wrong.yaml")
    wrong.write_text(SHOP.replace("delay: 50ms", "delay: 50"))
    missing = shop.with_name("missing.yaml")
    assert main(["validate", str(wrong), str(missing), str(shop)]) == 2
    seen = capsys.readouterr()
    assert f"{wrong}:17:timeline[0].with.delay" in seen.err
    assert f"{missing}: cannot read it: No such file" in seen.err
    assert "1 T+1:00 production" in " ".join(seen.out.split())


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (["--profile", "production", "--set", "delay=80ms"], 3, "latency 80ms"),
        (["--profile", "production", "--set", "delay=80ms"], 3, "ceiling of 50ms"),
        (["--profile", "production", "--set", "delay=80ms"], 3, "step 1, network.latency"),
        (["--profile", "prod"], 2, "did you mean 'production'?"),
        (["--set", "delay"], 2, "'delay' is not a parameter"),
        (["--level", "hevy"], 2, "did you mean 'heavy'?"),
        (["--env", "stagin"], 2, "did you mean 'staging'?"),
    ],
)
def test_what_is_not_allowed_names_step_field_ceiling_and_profile(
    shop: Path, capsys: pytest.CaptureFixture[str], argv: list[str], code: int, says: str
) -> None:
    assert main(["validate", str(shop), *argv]) == code
    shown = capsys.readouterr().err
    assert says in shown
    if code == 3:
        assert "shop.yaml:17" in shown
        assert "in profile production" in shown


def test_a_mistake_weighs_more_than_a_refusal(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = shop.with_name("wrong.yaml")
    wrong.write_text("title: x\n")
    words = ["--profile", "production", "--set", "delay=80ms"]
    shop.write_text(SHOP)
    assert main(["validate", str(wrong), str(shop), *words]) == 2
    assert main(["validate", str(shop), str(wrong), *words]) == 2
    capsys.readouterr()


@pytest.mark.parametrize("data", [b"\xff\xfe", b"title: \x00", b"x" * 300_000])
def test_a_file_that_is_no_scenario_is_refused_in_words(
    shop: Path, capsys: pytest.CaptureFixture[str], data: bytes
) -> None:
    shop.write_bytes(data)
    assert main(["validate", str(shop)]) == 2
    assert str(shop) in capsys.readouterr().err


# ── the dry run ───────────────────────────────────────────────────────────────────────────


def test_a_dry_run_shows_times_effects_draws_and_refusals(
    capsys: pytest.CaptureFixture[str],
) -> None:
    loaded = load(TWO_STEPS, "shop.yaml")
    with pytest.raises(EnvelopeExceeded, match=r"step 2, .*: latency 20ms"):
        scenario.show_plan(loaded, "", as_json=False)
    shown = capsys.readouterr().out
    text = " ".join(shown.split())
    for part in (
        "profile production: nothing is sent or changed",
        "T+0:30 2. network.latency peers=role=db delay=20ms — on top of it",
        "T+0:31 “half of it”",
        "latency 70ms 50ms web 2",
        "destructive yes refused web 3",
        "(192.0.2.1 stands for role=db: only the controller knows)",
        "192.0.2.1",
        "Risky: asks before it starts (or --yes): process.kill.",
        "step 3, process.kill: faults of this kind are refused in profile production",
        "shop.p99 > 150ms for 3s",
        "netem limit 41666, delay 50ms",
    ):
        assert part in text
    head = shown[: shown.index("Step 1,")]  # effects are as long as they are
    assert max(map(len, head.splitlines())) <= 80


def test_a_dry_run_as_json_has_it_all(capsys: pytest.CaptureFixture[str]) -> None:
    scenario.show_plan(load(TWO_STEPS, "shop.yaml"), "lab", as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert shown["allowed"] is True
    assert [step["at"] for step in shown["steps"]] == ["0s", "30s", "30s"]
    assert shown["steps"][1]["params"] == {"peers": ["role=db"], "delay": "20ms"}
    assert all(step["effects"] for step in shown["steps"])
    assert shown["draw"]["latency"] == {
        "asked": "70ms",
        "ceiling": "30s",
        "target": "web",
        "step": 2,
    }


# ── the envelope ──────────────────────────────────────────────────────────────────────────


def refusals(text: str, profile: str = "production") -> list[str]:
    loaded = load(text, "shop.yaml")
    return [each.what for each in rehearsal.rehearse(loaded, rehearsal.profile(profile)).refusals]


def sum_of(at: str, target: str = "web") -> list[str]:
    other = "  other: {labels: [role=db]}\n" if target == "other" else ""
    text = SHOP.replace("  web:", other + "  web:", 1)
    more = f"fault: network.latency, on: {target}, with: {{peers: 10.0.0.8, delay: 10ms}}"
    return refusals(f"{text}  - {{at: {at}, for: 30s, {more}}}\n")


def test_sums_count_where_steps_overlap_on_a_target() -> None:
    assert "latency 10ms (with 50ms in force)" in sum_of("59s")[0]
    assert sum_of("60s") == []
    assert sum_of("0s", "other") == []


def overlapping(peers: str, at: str = "10s") -> list[str]:
    """What is refused of a bandwidth for role=db, and another one that comes later."""
    lines = [
        f"  - {{at: {when}, for: 30s, fault: network.rate, on: web,"
        f" with: {{peers: [{whom}], rate: 1mbit}}}}\n"
        for when, whom in (("0s", "role=db"), (at, peers))
    ]
    return refusals(PLAIN + "".join(lines), "lab")


def test_overlapping_steps_that_do_not_compose_are_refused_by_the_name_of_the_first() -> None:
    (why,) = overlapping("role=db")
    assert why.startswith("step 2, network.rate: step 1 (network.rate) hits packets of this fault")
    assert "both limit the bandwidth" in why
    assert overlapping("role=web") == [], "other peers"
    assert overlapping("role=db", at="30s") == [], "one after the other"
    assert len(overlapping("role=web, role=db")) == 1, "a name stands for the same in each step"


def test_names_by_the_hundred_have_addresses_to_stand_for_them() -> None:
    many = [", ".join(f"node-{step}-{n}" for n in range(60)) for step in range(9)]
    lines = "".join(
        f"  - {{at: {step}m, for: 30s, fault: network.loss, on: web,"
        f" with: {{peers: [{names}], percent: 1%}}}}\n"
        for step, names in enumerate(many)
    )
    assert refusals(PLAIN + lines, "lab") == []


def test_two_targets_that_name_the_same_node_are_one() -> None:
    text = TWO_STEPS.replace("  web: {names", "  two: {names: [n1]}\n  web: {names", 1)
    text = text.replace("on: web, with: {peers: role", "on: two, with: {peers: role")
    assert any("latency 20ms (with 50ms in force)" in each for each in refusals(text))


@pytest.mark.parametrize(
    ("whom", "allowed"),
    [("{names: [n1]}", True), ("{names: [n1, n2]}", False), ("{names: [n1, n2], pick: one}", True),
     ("{all: true, pick: random 2}", False), ("{all: true, pick: least_critical}", True)],
)  # fmt: skip
def test_production_takes_one_node_at_once(whom: str, allowed: bool) -> None:
    text = SHOP.replace("{labels: [role=web], pick: one}", whom)
    assert (refusals(text) == []) == allowed
    assert refusals(text, "lab") == []


def test_a_topology_is_shown_though_its_peers_are_not_known() -> None:
    text = SHOP.replace("network.latency", "network.partition")
    text = text.replace('peers: 10.0.0.7, delay: "${delay}"', "topology: halves")
    text = text.replace("delay: 50ms, ", "").replace(", delay: 10ms", "").replace(
        "levels: {light: {delay: 20ms}, heavy: {delay: 40ms}}\n", "")  # fmt: skip
    done = rehearsal.rehearse(load(text, "shop.yaml"), rehearsal.profile("lab"))
    assert done.refusals == ()
    assert done.steps[0].stand_ins == {"the other side": "192.0.2.1"}


# ── the schema ────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    made = json_schema(KNOWN)
    jsonschema.Draft202012Validator.check_schema(made)
    return jsonschema.Draft202012Validator(made)


def test_the_schema_takes_what_is_good(schema: jsonschema.Draft202012Validator) -> None:
    assert [error.message for error in schema.iter_errors(data(SHOP))] == []
    assert [error.message for error in schema.iter_errors(data(TWO_STEPS))] == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("title:", "titel:"),
        ("fault: network.latency", "fault: network.latenzy"),
        ("peers: 10.0.0.7", "pears: 10.0.0.7"),
        ("peers: 10.0.0.7, ", ""),
        ("for: 60s, ", ""),
        ("{look: {", "{lock: {"),
        ("rate: 20", "rat: 20"),
        ("rate: 20", "rate: fast"),
        ("labels: [", "label: ["),
        ("within: 30s", "wihtin: 30s"),
    ],
)
def test_the_schema_refuses_what_is_wrong(
    schema: jsonschema.Draft202012Validator, old: str, new: str
) -> None:
    assert old in SHOP
    assert not schema.is_valid(data(SHOP.replace(old, new, 1)))


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scenario", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema()


LIBRARY = Path(__file__).parents[2] / "scenarios"


def test_the_example_of_a_site_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--site", str(LIBRARY / "site.yaml"), "-o", "json"]) == 0
    rules = json.loads(capsys.readouterr().out)
    assert {rule["part"] for rule in rules} == {"preflight", "advice", "abort_when"}
    assert all(rule["name"] and rule["why"] for rule in rules)
    example = str(LIBRARY / "site.yaml")
    scenario = str(LIBRARY / "production/latency.yaml")
    assert main(["validate", scenario, "--site", example]) == 0


def test_a_scenario_is_checked_beside_its_site(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(
        "probes: {shop: {tcp: {address: 'shop:80'}}}\n"
        'preflight: [{name: It answers, condition: "shop.error_rate < 1%"}]\n'
    )
    assert main(["validate", str(shop), "--site", str(site)]) == 2
    said = capsys.readouterr().err
    assert "probe 'shop' is also one of this site's" in said
    assert f"{site}:1" in said
    assert main(["validate"]) == 2
