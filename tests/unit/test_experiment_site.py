"""What a site asks of every experiment: read, joined with a scenario, said and kept."""

from __future__ import annotations

import pytest

from chaos_core.errors import InvalidInput
from chaos_experiment import load, site
from chaos_experiment.load import Loaded
from chaos_experiment.machine import Begin, Experiment, Said, Tick, Verdict
from chaos_experiment.series import Observation

SITE = """\
probes:
  backup: {file: {path: /var/backups/age, interval: 1s}}
  traffic: {file: {path: /run/traffic, interval: 1s}}
  incidents: {alertmanager: {url: "http://alerts:9093"}}
preflight:
  - name: The backup is recent
    condition: backup.value < 24
    why: what is broken for good is as old as the backup
advice:
  - {name: Traffic is low, condition: traffic.value < 80}
abort_when:
  - {name: A new incident, condition: incidents.value <= P2}
"""
SCENARIO = """\
title: The shop answers late
targets: {web: {names: [n1]}}
probes:
  shop: {http: {url: "http://shop/", rate: 10}}
baseline: 5s
steady_state: ["shop.error_rate < 1%"]
timeline:
  - {for: 10s, fault: cpu.stress, with: {percent: 5%}}
"""


def joined(text: str = SCENARIO) -> Loaded:
    return site.load(SITE, "site.yaml").joined(load.load(text, "web.yaml"))


def test_a_scenario_keeps_what_the_site_asks() -> None:
    loaded = joined()
    assert [each.text for each in loaded.plan.preflight] == ["backup.value < 24"]
    assert [each.text for each in loaded.plan.abort_when] == ["incidents.value <= P2"]
    assert set(loaded.all_probes) == {"backup", "traffic", "incidents", "shop"}
    assert loaded.place("backup", "file") == "site.yaml:2:probes.backup.file"
    assert loaded.place("shop", "http") == "web.yaml:4:probes.shop.http"


def test_a_probe_of_the_sites_name_is_refused_with_both_places() -> None:
    text = SCENARIO.replace("shop:", "backup:").replace("shop.error", "backup.error")
    with pytest.raises(InvalidInput) as refused:
        joined(text)
    assert "web.yaml:4:probes.backup: " in str(refused.value)
    assert "site.yaml:2" in str(refused.value)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("backup.value < 24", "backup.value < soon", r"s.yaml:7:preflight\[0\].condition: .*soon"),
        ("backup.value < 24", "bakup.value < 24", "no probe 'bakup'.*'backup'"),
        ("  - {name: Traffic is low, condition: traffic.value < 80}", "  - x", r"s.yaml:10:advice"),
        ("abort_when:", "abort_if:", "s.yaml:11:abort_if: unknown field.*\n.*'abort_when'"),
        ("name: A new incident, ", "", r"s.yaml:12:abort_when\[0\].name"),
        ("/run/traffic, interval", "/run/traffic, mode: end, interval", "sees nothing then"),
        ("condition: traffic.value < 80", "condition: backup.value < 80", "no condition asks"),
        ('"http://alerts:9093"', '"http://alerts:9093", interval: 9s', "looks every 9s"),
        ("path: /run/traffic", "pfad: /run/traffic", "s.yaml:3:probes.traffic.file"),
        (
            "backup: {file: {path: /var/backups/age, interval: 1s}}",
            "backup: {file: {path: /var/backups/age, from: web}}",
            "s.yaml:2:probes.backup.file: a site's probe looks from the controller",
        ),
    ],
)
def test_mistakes_are_named_with_their_place(old: str, new: str, says: str) -> None:
    assert old in SITE
    with pytest.raises(InvalidInput, match=says):
        site.load(SITE.replace(old, new), "s.yaml")


def played(**seen: float | None) -> tuple[Experiment, list[Said]]:
    """Until it refuses or injects, with these figures of the site's probes."""
    machine, said, now = Experiment(joined().plan), [], 1_000_000
    machine.step(Begin(), now)
    while not machine.over and machine.injected_at is None:
        now += 200_000
        for name, value in {"shop": 20_000.0, **seen}.items():
            machine.series.add(Observation(name, now, True, value))
        said += [each for each in machine.step(Tick(), now) if isinstance(each, Said)]
    return machine, said


def test_each_prerequisite_is_said_with_its_value() -> None:
    machine, said = played(backup=3.0, traffic=85.0, incidents=None)
    assert machine.injected_at is not None  # advice refuses nothing
    why = "what is broken for good is as old as the backup"
    assert [(each.what, each.text) for each in said] == [
        ("preflight", f"✓ The backup is recent: backup.value < 24 (3): {why}"),
        ("advice", "✗ Traffic is low: traffic.value < 80 (85)"),
    ]
    assert [(each.part, each.condition.name) for each in machine.judged][:2] == [
        ("preflight", "The backup is recent"),
        ("advice", "Traffic is low"),
    ]


def test_what_is_not_so_refuses_with_its_reason() -> None:
    machine, said = played(backup=31.0, traffic=10.0, incidents=None)
    assert machine.verdict is Verdict.REFUSED
    assert machine.reason == (
        "preflight: The backup is recent: backup.value < 24 (31): "
        "what is broken for good is as old as the backup"
    )
    assert said[0].text.startswith("✗ The backup is recent")


def test_an_incident_that_is_going_on_begins_nothing() -> None:
    machine, _ = played(backup=3.0, traffic=10.0, incidents=1.0)
    assert machine.verdict is Verdict.REFUSED
    assert "A new incident: incidents.value <= P2 (1)" in machine.reason
