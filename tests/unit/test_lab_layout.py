"""Names, numbers and directories of a lab."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos_core.errors import InvalidInput, MissingPrerequisite
from chaos_lab.layout import MAX_NODES, LabDir, project_root, seats


def test_every_vm_of_the_largest_lab_has_its_own_name_and_addresses() -> None:
    fleet = seats(MAX_NODES)
    for field in (
        *("name", "ip", "ip6", "mac", "tap"),
        *("side_ip", "side_ip6", "side_mac", "side_tap"),
    ):
        assert len({getattr(seat, field) for seat in fleet}) == MAX_NODES + 1
    assert all(len(tap) <= 15 for seat in fleet for tap in (seat.tap, seat.side_tap))
    assert (fleet[0].name, fleet[0].ip) == ("controller", "10.77.0.10")
    assert (fleet[1].name, fleet[1].ip, fleet[1].ip6) == ("n1", "10.77.0.11", "fd77::11")


@pytest.mark.parametrize("nodes", [-1, MAX_NODES + 1])
def test_a_lab_of_an_impossible_size_is_refused(nodes: int) -> None:
    with pytest.raises(InvalidInput, match="0 to 32"):
        seats(nodes)


def test_labs_in_two_directories_share_the_cache_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = LabDir.find()
    monkeypatch.setenv("CHAOS_LAB_DIR", str(tmp_path))
    second = LabDir.find()
    assert second.home == tmp_path
    assert first.cache == second.cache
    assert first.netns != second.netns
    assert first.run != second.run
    assert second.beside("test").netns not in {first.netns, second.netns}


def test_the_project_is_found_from_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "lab/chaos_lab").mkdir(parents=True)
    below = tmp_path / "docs/deep"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert project_root() == tmp_path


def test_without_the_source_a_lab_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chaos_lab.layout.__file__", str(tmp_path / "layout.py"))
    with pytest.raises(MissingPrerequisite, match="clone of the repository"):
        project_root(tmp_path)
