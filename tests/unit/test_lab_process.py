"""The lab ends what it started and nothing else, and finds it again."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos_core.errors import LabError, MissingPrerequisite
from chaos_lab.layout import LabDir
from chaos_lab.process import Process, run
from chaos_lab.state import State, exclusive


@pytest.fixture
def lab(tmp_path: Path) -> LabDir:
    return LabDir(tmp_path, tmp_path / "home", tmp_path / "cache")


@pytest.fixture
def family() -> Iterator[subprocess.Popen[str]]:
    """A shell that leads its own group and prints the pid of its child in it."""
    script = "sleep 60 & echo $!; wait"
    with subprocess.Popen(
        ["sh", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        yield child
        child.kill()


def test_a_kill_ends_the_whole_group(family: subprocess.Popen[str]) -> None:
    assert family.stdout is not None
    grandchild = Process.of(int(family.stdout.readline()))
    process = Process.of(family.pid)
    assert process.alive
    process.kill_group()
    assert not process.alive
    assert not grandchild.alive
    process.kill_group()


def test_a_recycled_pid_is_left_alone(family: subprocess.Popen[str]) -> None:
    actual = Process.of(family.pid)
    recorded = Process(actual.pid, actual.started - 1)
    assert not recorded.alive
    recorded.kill_group()
    assert actual.alive


def test_a_failed_host_command_is_one_clear_error() -> None:
    with pytest.raises(LabError, match=r"(?s)ended with 3.*first.*second"):
        run(["sh", "-c", "echo first >&2; echo second >&2; exit 3"])
    with pytest.raises(MissingPrerequisite, match=r"tools/bootstrap\.sh"):
        run(["no-such-program-here"])


def test_the_state_survives_the_command_that_wrote_it(lab: LabDir) -> None:
    lab.home.mkdir()
    assert State.load(lab) is None
    state = State(Path("/image"), 3, {"n1": Process(11, 22)})
    state.save(lab)
    assert State.load(lab) == state


def test_the_state_of_an_earlier_boot_is_forgotten(lab: LabDir) -> None:
    lab.home.mkdir()
    State(Path("/image"), 3, {"n1": Process(1, 1)}).save(lab)
    body = json.loads(lab.state.read_text())
    lab.state.write_text(json.dumps(body | {"boot_id": "another"}))
    assert State.load(lab) is None


@pytest.mark.parametrize("text", ["{", "[]", "{}", ""])
def test_a_broken_state_file_is_named(lab: LabDir, text: str) -> None:
    lab.home.mkdir()
    lab.state.write_text(text)
    with pytest.raises(LabError, match=str(lab.state)):
        State.load(lab)


def test_two_commands_do_not_change_a_fleet_at_once(lab: LabDir) -> None:
    with (
        exclusive(lab),
        pytest.raises(LabError, match="another lab command"),
        exclusive(lab, timeout=0),
    ):
        pass
    with exclusive(lab, timeout=0):
        pass
