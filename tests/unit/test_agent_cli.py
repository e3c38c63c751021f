"""chaos-agent's commands: a mistake is one clear message with the documented exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from chaos_core.errors import Exit

AGENT = str(Path(sys.executable).with_name("chaos-agent"))


def agent(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([AGENT, *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("apply", "cpu.stress", "percent=1%", "--for", "1s"), Exit.INVALID, "--local"),
        (("apply", "cpu.stress", "percent=1%", "--local"), Exit.INVALID, "--for"),
        (("apply", "cpu.stres", "--local", "--for", "1s"), Exit.INVALID, "'cpu.stress'"),
        (("apply", "cpu.stress", "percent=1", "--local", "--for", "1s"), Exit.INVALID, "unit"),
        (("apply", "cpu.stress", "percent=1%", "--local", "--for", "1"), Exit.INVALID, "unit"),
        (("apply", "cpu.stress", "percent=16%", "--for", "1s", "--dry-run"), Exit.REFUSED, "15%"),
        (("faults", "cpu.stres"), Exit.INVALID, "'cpu.stress'"),
        (("run", "--port", "1"), Exit.INVALID, "usage"),
        (("link", "--config", "/nowhere.toml"), Exit.INVALID, "/nowhere.toml: no such file"),
    ],
)
def test_a_mistake_is_one_clear_message(words: tuple[str, ...], code: Exit, said: str) -> None:
    done = agent(*words)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


def test_faults_are_listed_for_people_and_for_programs() -> None:
    assert "network.latency" in agent("faults").stdout
    assert "delay" in agent("faults", "network.latency").stdout
    listed = json.loads(agent("faults", "-o", "json").stdout)
    assert listed["cpu.stress"]["schema"]["required"] == ["percent"]


def test_undo_loads_only_what_it_reverts_with() -> None:
    """A service stays down for as long as its undo takes to start, on a node that is busy."""
    code = (
        "import sys\n"
        "from chaos_agent import main, undo\n"
        "from chaos_agent.effects import ops\n"
        "from chaos_core.effects import Unit\n"
        "ops(Unit('a.service', 'stopped'))\n"
        "print({'pydantic', 'pyroute2', 'iptc', 'typer', 'ctypes'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
