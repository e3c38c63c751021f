"""Experiments by ``chaosctl run`` on real nodes, with a service that is really hurt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chaos_core.errors import Exit
from chaos_experiment.record import Record, Span
from chaos_lab import provision
from chaos_lab.catalogue.services import PORT
from chaos_lab.drill.context import Drill, Injection

SCENARIO = """
title: The service of one node is hurt
hypothesis: Nobody notices.
targets: {{app: {{names: [n1]}}}}
probes:
  app: {{http: {{url: "http://{ip}:{port}/", rate: 10, timeout: 1s}}}}
baseline: 3s
steady_state: ["app.error_rate < 10% over 3s"]
abort_when: ["app.error_rate > 50% over 2s for 1s"]
recovery: {{within: 20s, stable: 2s}}
timeline:
  - {{for: {length}, fault: {fault}, on: app, with: {{{params}}}}}
"""

FROM_NODES = """
title: The service of one node is hurt, as the nodes see it
hypothesis: Nobody notices.
targets: {{app: {{names: [n1]}}, client: {{names: [{client}]}}}}
probes:
  seen: {{http: {{url: "http://{ip}:{port}/", rate: 10, timeout: 1s, from: client}}}}
  busy: {{host: {{metric: {metric}, from: app}}}}
  up: {{process: {{unit: app, from: app}}}}
baseline: 5s
steady_state:
  - seen.error_rate < 10% over 4s
  - up.value >= 1 over 4s
  - busy.availability > 50% over 4s
{more}
recovery: {{within: 30s, stable: 2s}}
timeline:
  - {{for: {length}, fault: {fault}, on: app, with: {{{params}}}}}
"""


def run(app: Drill, tmp_path: Path, **changes: str) -> tuple[int, Injection, Record]:
    """An experiment to its end: the exit code, what was seen of it, its record."""
    file = tmp_path / "app.yaml"
    file.write_text(SCENARIO.format(ip=app.ip("n1"), port=PORT, **changes))
    argv = provision.operator_argv(app.fleet, ["run", str(file), "--yes", "-o", "json"])
    going = Injection(argv)
    code = going.wait(120)
    assert going.events, going.last_words()
    name = going.events[0][1]["run"]
    return (
        code,
        going,
        Record.model_validate_json(provision.operate(app.fleet, ["report", name, "-o", "json"])),
    )


@pytest.fixture(scope="module")
def lookouts(app: Drill) -> Drill:
    """n2's own file lets its probes talk to the lab's network; n3's lets them do nothing."""
    extra = f'[probes]\nhosts = ["{app.ip("n1").rpartition(".")[0]}.0/24"]\n'
    provision.write_config(app.fleet, "n2", "staging", extra)
    app.fleet.exec("n2", ["systemctl", "restart", provision.KEEPER_UNIT, provision.LINK_UNIT])
    provision.wait_connected(app.fleet)
    return app


def begin(app: Drill, tmp_path: Path, **changes: str) -> Injection:
    """The experiment in which nodes look."""
    file = tmp_path / "nodes.yaml"
    given = {"ip": app.ip("n1"), "port": PORT, "client": "n2", "more": "", "metric": "cpu"}
    given |= changes
    file.write_text(FROM_NODES.format(**given))
    argv = provision.operator_argv(app.fleet, ["run", str(file), "--yes", "-o", "json"])
    return Injection(argv)


def run_from_nodes(app: Drill, tmp_path: Path, **changes: str) -> tuple[int, Injection]:
    going = begin(app, tmp_path, **changes)
    return going.wait(150), going


def record_of(app: Drill, going: Injection) -> Record:
    assert going.events, going.last_words()
    name = going.events[0][1]["run"]
    shown = provision.operate(app.fleet, ["report", name, "-o", "json"])
    return Record.model_validate_json(shown)


def spans(record: Record, probe: str) -> dict[str, Span]:
    """What a probe told, by phase."""
    return {span.phase: span for span in record.spans if span.probe == probe}


def when(record: Record, what: str, text: str) -> int:
    return next(each.at_us for each in record.events if each.what == what and text in each.text)


def test_a_service_that_holds_passes_and_the_record_says_what_was_seen(
    app: Drill, tmp_path: Path
) -> None:
    code, going, record = run(app, tmp_path, fault="cpu.stress", params="percent: 10%", length="3s")
    assert code == Exit.DONE, going.last_words()
    assert (record.verdict, record.faults[0].verdict) == ("passed", "held")
    (seen,) = [span for span in record.spans if span.phase == "fault"]
    assert seen.count >= 20
    assert record.recovery_us is not None
    assert record.score is not None
    page = provision.operate(app.fleet, ["report", record.id, "--html"])
    assert "<svg" in page


def test_a_service_that_is_gone_ends_the_experiment_and_comes_back(
    app: Drill, tmp_path: Path
) -> None:
    code, going, record = run(
        app, tmp_path, fault="unit.stop", params="unit: app.service", length="60s"
    )
    assert code == Exit.ABORTED, going.last_words()
    assert "abort condition: app.error_rate > 50%" in record.reason
    breach, clean = when(record, "guard", "app.error_rate"), when(record, "fault", "clean")
    assert clean - breach < 5_000_000
    assert record.faults[0].reason.startswith("abort condition")
    assert record.recovery_us is not None
    nodes: list[dict[str, Any]] = json.loads(provision.operate(app.fleet, ["nodes", "-o", "json"]))[
        "nodes"
    ]
    assert {node["state"] for node in nodes} == {"connected"}
    assert app.fleet.exec("n1", ["systemctl", "is-active", "app"]).stdout.strip() == "active"


@pytest.mark.parametrize(
    ("metric", "fault", "most"), [("memory_used", "memory.stress", 15), ("cpu", "cpu.stress", 40)]
)
def test_nodes_see_the_load_on_one_of_them_and_its_service_from_another(
    lookouts: Drill, tmp_path: Path, metric: str, fault: str, most: float
) -> None:
    """``most`` is what the figure grows by at most: a node's CPU does much else."""
    code, going = run_from_nodes(
        lookouts, tmp_path, metric=metric, fault=fault, params="percent: 10%", length="12s",
        more='during: ["busy.mean > 8%", "up.min >= 1"]',
    )  # fmt: skip
    assert code == Exit.DONE, going.last_words()
    record = record_of(lookouts, going)
    assert (record.verdict, record.faults[0].verdict) == ("passed", "held"), record.reason
    busy = spans(record, "busy")
    before, hurt = busy["baseline"].mean, busy["fault"].mean
    assert before is not None
    assert hurt is not None
    assert 5 < hurt - before < most
    seen = spans(record, "seen")["fault"]
    assert (seen.count >= 60, seen.failed) == (True, 0)
    assert seen.p50 is not None


def test_a_node_sees_that_a_service_is_gone_and_another_that_it_refuses(
    lookouts: Drill, tmp_path: Path
) -> None:
    code, going = run_from_nodes(
        lookouts, tmp_path, fault="unit.stop", params="unit: app.service", length="60s",
        more='abort_when: ["up.error_rate > 50% over 2s for 1s"]',
    )  # fmt: skip
    assert code == Exit.ABORTED, going.last_words()
    record = record_of(lookouts, going)
    assert "abort condition: up.error_rate > 50%" in record.reason
    breach, clean = when(record, "guard", "up.error_rate"), when(record, "fault", "clean")
    assert clean - breach < 5_000_000
    assert record.recovery_us is not None
    assert spans(record, "up")["fault"].failed >= 2
    assert spans(record, "seen")["fault"].failed >= 10
    texts = {point.text for each in record.probes for point in each.points if point.failed}
    assert {"n1: no process is app.service", "n2: connection refused"} <= texts


def test_a_link_that_is_frozen_ends_what_only_it_could_see(lookouts: Drill, tmp_path: Path) -> None:
    more = 'abort_when: ["seen.p99 > 900ms over 2s"]\ngrace: 2s'
    far = f"peers: {lookouts.ip('n3')}, delay: 20ms"
    going = begin(lookouts, tmp_path, fault="network.latency", params=far, length="60s", more=more)
    kill = ["systemctl", "kill", "--signal"]
    try:
        going.reached("observe", 90)
        lookouts.fleet.exec("n2", [*kill, "STOP", provision.LINK_UNIT])
        code = going.wait(120)
    finally:
        lookouts.fleet.exec("n2", [*kill, "CONT", provision.LINK_UNIT])
    assert code == Exit.ABORTED, going.last_words()
    record = record_of(lookouts, going)
    assert "seen.p99 > 900ms over 2s (cannot be evaluated for 2s" in record.reason
    provision.wait_connected(lookouts.fleet)


def test_a_node_that_does_not_allow_it_is_named_before_anything_is_hurt(
    lookouts: Drill, tmp_path: Path
) -> None:
    code, going = run_from_nodes(
        lookouts, tmp_path, client="n3", fault="cpu.stress", params="percent: 5%", length="5s"
    )
    assert code == Exit.INVALID
    assert not going.events
    said = json.loads(going.last_words())
    assert said["where"].endswith("nodes.yaml:6:probes.seen.http.url")
    assert said["error"].startswith("n3: the node's agent.toml does not allow it")
