"""``chaosctl run``, ``end`` and ``suite`` against a scripted controller."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.simulated_runs import simulated

from chaos_core.errors import Exit
from chaosctl.main import main

from .test_ctl_online import Capture, Scripted, controller, identity, story

__all__ = ["controller", "identity"]

SCENARIO = """
title: The database answers late
hypothesis: Nobody notices.
targets: {web: {labels: [role=web]}}
timeline:
  - {for: 10s, fault: network.latency, on: web, with: {peers: [10.0.0.9], delay: 20ms}}
"""
RISKY = SCENARIO.replace("network.latency", "unit.stop").replace(
    "{peers: [10.0.0.9], delay: 20ms}", "{unit: nginx.service}"
)


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "late.yaml"
    path.write_text(SCENARIO)
    return path


@pytest.mark.parametrize(
    ("verdict", "code"),
    [("passed", Exit.DONE), ("failed", Exit.FAILED), ("aborted", Exit.ABORTED),
     ("refused", Exit.REFUSED), ("interrupted", Exit.FAILED)],
)  # fmt: skip
def test_the_exit_code_is_the_verdict(
    verdict: str, code: Exit, controller: Scripted, scenario: Path, capsys: Capture
) -> None:
    controller.events = story(verdict)
    assert main(["run", str(scenario), "--level", ""]) == code
    shown = capsys.readouterr()
    assert f"run r-1: {verdict}" in shown.out
    assert "chaosctl report r-1" in shown.err
    (asked,) = controller.asked
    assert (asked.name, asked.text) == ("late.yaml", SCENARIO)


def test_what_is_wrong_with_the_file_is_said_before_anybody_is_asked(
    controller: Scripted, scenario: Path, capsys: Capture
) -> None:
    scenario.write_text(SCENARIO.replace("20ms", "20"))
    assert main(["run", str(scenario)]) == Exit.INVALID
    assert "late.yaml:6" in capsys.readouterr().err
    assert controller.asked == []


def test_risky_faults_are_asked_about(
    controller: Scripted, scenario: Path, capsys: Capture
) -> None:
    scenario.write_text(RISKY)
    controller.events = story("passed")
    assert main(["run", str(scenario)]) == Exit.INVALID
    assert "unit.stop" in capsys.readouterr().err
    assert main(["run", str(scenario), "--yes"]) == Exit.DONE


def test_the_first_ctrl_c_ends_the_experiment_and_waits(
    controller: Scripted, scenario: Path
) -> None:
    controller.events = story("")
    controller.watched = story("aborted")
    controller.hang.clear()
    client = subprocess.Popen(
        [sys.executable, "-u", "-c", "from chaosctl.main import run; run()", "run", scenario],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    assert client.stdout is not None
    for line in client.stdout:
        if "observe" in line:
            break
    client.send_signal(signal.SIGINT)
    out, said = client.communicate(timeout=10)
    assert client.returncode == Exit.ABORTED, said
    assert "Ending r-1" in said
    assert "run r-1: aborted" in out
    assert out.count("inject ") <= 1
    assert [type(asked).__name__ for asked in controller.asked] == [
        "ExperimentRequest", "EndRequest", "WatchRequest",
    ]  # fmt: skip


def test_end_ends_one(controller: Scripted, capsys: Capture) -> None:
    assert main(["end", "r-1", "--reason", "enough"]) == Exit.DONE
    assert "chaosctl watch r-1" in capsys.readouterr().out
    assert controller.asked[0].reason == "enough"


SUITES = """
two:
  title: Two of them
  cooldown: 0s
  scenarios: [{file: late.yaml}, {file: second.yaml}]
"""


@pytest.fixture
def suites(scenario: Path) -> Path:
    scenario.with_name("second.yaml").write_text(SCENARIO.replace("answers late", "answers later"))
    path = scenario.with_name("suites.yaml")
    path.write_text(SUITES)
    return path


def test_a_suite_writes_a_report_on_each_and_on_all(
    controller: Scripted, suites: Path, capsys: Capture, tmp_path: Path
) -> None:
    controller.events = story("passed")
    controller.record = simulated().model_copy(update={"id": "r-1"}).model_dump_json()
    out = tmp_path / "reports"
    assert main(["suite", "run", "two", "--file", str(suites), "--reports", str(out)]) == 0
    assert {path.name for path in out.iterdir()} >= {
        "suite.html", "suite.md", "suite.json", "suite.xml", "r-1.html",
    }  # fmt: skip
    shown = capsys.readouterr()
    assert "2 of 2" in shown.err
    assert "passed" in shown.out


def test_a_suite_that_fails_fast_ends_there(
    controller: Scripted, suites: Path, capsys: Capture
) -> None:
    controller.events = story("failed")
    controller.record = (
        simulated().model_copy(update={"id": "r-1", "verdict": "failed"}).model_dump_json()
    )
    words = ["suite", "run", "two", "--file", str(suites)]
    assert main([*words, "--fail-fast"]) == Exit.FAILED
    assert len([each for each in controller.asked if hasattr(each, "text")]) == 1
    assert "1 not run" in capsys.readouterr().err
    controller.asked.clear()
    assert main([*words, "-o", "json"]) == Exit.FAILED
    assert len([each for each in controller.asked if hasattr(each, "text")]) == 2
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["verdict"] == "failed"


def test_every_scenario_of_a_suite_is_checked_before_the_first_begins(
    controller: Scripted, suites: Path, capsys: Capture
) -> None:
    suites.with_name("second.yaml").write_text("title: nothing else")
    assert main(["suite", "run", "two", "--file", str(suites)]) == Exit.INVALID
    assert "second.yaml" in capsys.readouterr().err
    assert controller.asked == []


def test_a_suite_that_does_not_exist_names_the_nearest(suites: Path, capsys: Capture) -> None:
    assert main(["suite", "run", "tow", "--file", str(suites)]) == Exit.INVALID
    assert "two" in capsys.readouterr().err
    assert main(["suite", "list", "--file", str(suites.with_name("none.yaml"))]) == Exit.INVALID
