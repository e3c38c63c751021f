"""Something foreign where a file of ours should be: refused, named, and left as it was."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from chaos_agent import config
from chaos_agent.journal import Journal, StateFile, epoch_file, read_quarantine
from chaos_agent.keeper import Listener
from chaos_agent.privilege import LOCK, sole_keeper
from chaos_core.errors import ChaosError, InvalidInput, Refused


def _link(path: Path) -> None:
    path.with_name("target").write_text("precious")
    path.symlink_to(path.with_name("target"))


def _second_name(path: Path) -> None:
    path.with_name("target").write_text("precious")
    path.hardlink_to(path.with_name("target"))


def _of_another(path: Path) -> None:
    path.write_text("precious")
    os.chown(path, 65534, 65534)


FOREIGN: dict[str, Callable[[Path], None]] = {
    "link": _link,
    "dangling link": lambda path: path.symlink_to("/nowhere"),
    "directory": lambda path: path.mkdir(),
    "pipe": lambda path: os.mkfifo(path),
    "second name": _second_name,
    "file of another": _of_another,
}


def _lock(state: Path) -> None:
    with sole_keeper(state):
        pass


USERS: dict[str, Callable[[Path], object]] = {
    "journal": Journal,
    "epoch": lambda state: epoch_file(state).read(0),
    LOCK: _lock,
}


@pytest.mark.parametrize("foreign", FOREIGN.values(), ids=list(FOREIGN))
@pytest.mark.parametrize("name", USERS)
def test_what_is_not_ours_is_refused_and_left_alone(
    tmp_path: Path, name: str, foreign: Callable[[Path], None]
) -> None:
    foreign(tmp_path / name)
    before = sorted((path.name, path.lstat()) for path in tmp_path.iterdir())
    with pytest.raises(Refused) as caught:
        USERS[name](tmp_path)
    assert str(tmp_path / name) in str(caught.value)
    after = sorted((path.name, path.lstat()) for path in tmp_path.iterdir())
    assert [(n, s.st_mode, s.st_uid, s.st_size) for n, s in after] == [
        (n, s.st_mode, s.st_uid, s.st_size) for n, s in before
    ]


@pytest.mark.parametrize("name", ["keeper.sock", "keeper.new"])
def test_what_is_in_the_sockets_way_is_not_removed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(Refused, match="in the way"):
        Listener(tmp_path / "keeper.sock")
    assert (tmp_path / name).read_text() == "precious"


def test_a_socket_that_a_dead_keeper_left_is_replaced(tmp_path: Path) -> None:
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    dead.bind(str(tmp_path / "keeper.sock"))
    dead.close()
    Listener(tmp_path / "keeper.sock").close()


@pytest.mark.parametrize("use", [Journal, _lock])
def test_a_directory_that_others_can_write_is_not_used(
    tmp_path: Path, use: Callable[[Path], object]
) -> None:
    place = tmp_path / "state"
    place.mkdir()
    place.chmod(0o777)
    with pytest.raises(Refused, match="others than this process's user can write"):
        use(place)
    place.chmod(0o755)
    os.chown(place, 65534, 0)
    with pytest.raises(Refused, match="others"):
        use(place)
    assert list(place.iterdir()) == []


def test_a_state_file_is_never_written_through_what_is_in_its_drafts_place(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    (tmp_path / "epoch.new").symlink_to(tmp_path / "target")
    StateFile(tmp_path / "epoch").write(7)
    assert epoch_file(tmp_path).read(0) == 7
    assert (tmp_path / "target").read_text() == "precious"


@pytest.mark.parametrize("text", ["{}", "[1]", '"x"', "null", "", "\xff", "[" * 9_000])
def test_a_quarantine_that_cannot_be_read_is_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "quarantine").write_text(text, encoding="latin-1")
    (line,) = read_quarantine(tmp_path)
    assert "quarantine" in line
    assert "cannot be read" in line


@pytest.mark.parametrize("text", ["-1", "true", "1.5", '"7"', str(2**63), "[]", "null"])
def test_an_epoch_that_is_none_is_not_taken_for_zero(tmp_path: Path, text: str) -> None:
    (tmp_path / "epoch").write_text(text)
    with pytest.raises(Refused, match="cannot be read"):
        epoch_file(tmp_path).read(0)


@pytest.mark.parametrize("foreign", ["directory", "pipe"])
def test_a_configuration_that_is_no_file_is_refused(tmp_path: Path, foreign: str) -> None:
    path = tmp_path / "agent.toml"
    FOREIGN[foreign](path)
    with pytest.raises(ChaosError, match=r"regular file|writable"):
        config.load(path)


@pytest.mark.parametrize("data", [b"\xff\xfe", b"x = " + b"[" * 9_000, b"\0"])
def test_a_configuration_of_nonsense_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "agent.toml"
    path.write_bytes(data)
    path.chmod(0o644)
    with pytest.raises(InvalidInput, match=r"agent\.toml"):
        config.load(path)
