"""Experiments by ``chaosctl run`` on real nodes, with a service that is really hurt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chaos_core.errors import Exit
from chaos_experiment.record import Record
from chaos_lab import provision
from chaos_lab.catalogue.services import PORT, give
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


@pytest.fixture(scope="module")
def app(system: Drill) -> Drill:
    """A web server on n1."""
    give(system)
    return system


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
