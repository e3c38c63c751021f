"""`chaosctl lab` without a fleet."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from chaos_core.errors import LabError
from chaos_lab.cli import app


@pytest.fixture(autouse=True)
def _own_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAOS_LAB_DIR", str(tmp_path))


def test_status_says_that_no_fleet_is_up() -> None:
    table = CliRunner().invoke(app, ["status"])
    assert (table.exit_code, table.output.startswith("No fleet is up.")) == (0, True)
    body = json.loads(CliRunner().invoke(app, ["status", "-o", "json"]).output)
    assert (body["up"], body["vms"]) == (False, [])


@pytest.mark.parametrize("command", [["exec", "n1", "--", "ls", "-l"], ["ssh", "n1"]])
def test_a_command_for_a_vm_needs_a_fleet(command: list[str]) -> None:
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, LabError)
    assert "chaosctl lab up" in str(result.exception)


def test_importing_the_commands_loads_none_of_the_lab() -> None:
    code = "import sys, chaos_lab.cli; print('chaos_lab.fleet' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
