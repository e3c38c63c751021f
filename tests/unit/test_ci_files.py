"""What is written for CI: workflows, make's targets and docs/ci.md, beside what they call."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from chaos_core.errors import Exit
from chaos_experiment import suites

ROOT = Path(__file__).parents[2]
SUITES = suites.load((ROOT / "scenarios/suites.yaml").read_text(), "suites.yaml")
STUB = """#!/usr/bin/python3
import os, sys, time
open(os.environ["CALLED"], "w").write(" ".join(sys.argv[1:]))
try:
    while os.path.exists(os.environ["WAIT"]):
        time.sleep(0.02)
except KeyboardInterrupt:
    sys.exit(4)  # as chaosctl, once the experiment is over
sys.exit(int(os.environ["CODE"]))
"""


def workflow(name: str) -> dict[Any, Any]:
    text = (ROOT / f".github/workflows/{name}.yml").read_text()
    found: dict[Any, Any] = yaml.safe_load(text)
    return found


def triggers() -> dict[str, Any]:
    found: dict[str, Any] = workflow("chaos")[True]  # YAML 1.1's word for `on`
    return found


def step(name: str) -> dict[str, Any]:
    steps = workflow("chaos")["jobs"]["experiments"]["steps"]
    found: dict[str, Any] = next(each for each in steps if each.get("name") == name)
    return found


def test_the_workflow_offers_the_suites_that_there_are() -> None:
    assert triggers()["workflow_dispatch"]["inputs"]["group"]["options"] == list(SUITES)
    assert triggers()["schedule"] == [{"cron": "0 2 * * *"}]
    assert "pull_request" in triggers()
    named = re.findall(r"'([a-z_]+)'", step("Run the suite")["env"]["GROUP"])
    assert set(named) - {"schedule"} == {"standard", "smoke"} <= set(SUITES)


def test_workflows_may_only_read_and_the_identity_reaches_no_command_line() -> None:
    for name in ("chaos", "ci"):
        assert workflow(name)["permissions"] == {"contents": "read"}
    jobs = workflow("chaos")["jobs"]
    scripts = [each.get("run", "") for job in jobs.values() for each in job["steps"]]
    assert not any("${{" in script for script in scripts)  # nothing of others' becomes code
    assert "umask 077" in step("Write the operator's identity")["run"]


class Step:
    """The workflow's step that runs a suite, with a chaosctl that ends as it is told."""

    def __init__(self, directory: Path, code: int = 0, **env: str) -> None:
        self.called, self.wait = directory / "called", directory / "wait"
        stub = directory / "chaos/bin/chaosctl"
        stub.parent.mkdir(parents=True)
        stub.write_text(STUB)
        stub.chmod(0o755)
        self._env = {
            "PATH": os.environ["PATH"], "RUNNER_TEMP": str(directory), "GROUP": "smoke",
            "TARGET_URL": "", "FAIL_ON_VIOLATION": "true", "REASON": "a test", "CODE": str(code),
            "CALLED": str(self.called), "WAIT": str(self.wait), **env,
        }  # fmt: skip

    def start(self) -> subprocess.Popen[bytes]:
        argv = ["bash", "-e", "-c", step("Run the suite")["run"]]
        return subprocess.Popen(argv, env=self._env, stdout=subprocess.PIPE)

    def run(self) -> int:
        with self.start() as process:
            process.communicate(timeout=20)
        return process.returncode


@pytest.mark.parametrize(
    ("code", "fail", "expected"),
    [
        (0, "true", 0),
        (1, "true", 1),
        (1, "false", 0),
        *((code, "false", code) for code in Exit if code > Exit.FAILED),
    ],
)
def test_only_a_violation_can_be_let_through(
    tmp_path: Path, code: int, fail: str, expected: int
) -> None:
    assert Step(tmp_path, code, FAIL_ON_VIOLATION=fail).run() == expected


def test_a_target_url_becomes_a_setting_and_nothing_else(tmp_path: Path) -> None:
    made = Step(tmp_path, TARGET_URL="http://x/ --level heavy;touch y")
    assert made.run() == 0
    assert "--set url=http://x/ --level heavy;touch y --reports" in made.called.read_text()


def test_a_cancelled_workflow_interrupts_chaosctl_and_waits_for_it(tmp_path: Path) -> None:
    made = Step(tmp_path)
    made.wait.touch()
    with made.start() as process:
        until = time.monotonic() + 20
        while not made.called.exists() and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(20) == Exit.ABORTED
        finally:
            made.wait.unlink()


def test_make_plays_suites_that_there_are_and_lists_them_as_one_group() -> None:
    text = (ROOT / "Makefile").read_text()
    played = dict(
        re.findall(r"^(chaos-[a-z-]+):.*\n\t@\$\(BIN\)/chaosctl suite run (\w+)", text, re.M)
    )
    assert set(played.values()) <= set(SUITES)
    asked = ["network", "service", "database", "pms", "resource", "all", "resilience", "dry-run"]
    assert set(played) == {f"chaos-{name}" for name in asked}
    told = subprocess.run(
        ["make", "-s", "-C", ROOT, "help"], capture_output=True, text=True, check=True
    )
    _, group = told.stdout.split("On your own fleet")
    assert re.findall(r"^chaos-[a-z-]+", group, re.M) == [*played, "chaos-report"]


def test_the_page_on_ci_has_every_exit_code() -> None:
    rows = re.findall(r"^\| (\d) \|", (ROOT / "docs/ci.md").read_text(), re.M)
    assert [int(row) for row in rows] == sorted(Exit)
