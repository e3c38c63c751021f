"""The journal on a disk that becomes full: what has begun can be written to its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chaos_agent.journal import Journal
from chaos_core.envelope import MAX_FAULTS
from chaos_core.errors import Refused

Sh = Callable[..., str]


@pytest.fixture
def state(tmp_path: Path, sh: Sh) -> Iterator[Path]:
    """The state directory, on a disk of its own of two MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    sh("mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "none", str(disk))
    yield disk / "state"
    sh("umount", "--lazy", str(disk))  # journals are open


def fill(disk: Path) -> None:
    """Not one block is left."""
    with (disk / "full").open("ab", buffering=0) as file:
        file.write(bytes(4 << 20))  # as much of it as there is room for
        with pytest.raises(OSError, match="No space left"):
            file.write(b"more")


def begin(journal: Journal, number: int) -> None:
    """An intent that is larger than a block."""
    before = {"links": ["eth0 " * 1000]}
    journal.intent(1, fault=f"{number:08x}", run="r-1", kind="test", to_apply=(), before=before)


def test_on_a_full_disk_nothing_begins_and_whatever_has_begun_is_written_to_its_end(
    state: Path,
) -> None:
    journal = Journal(state)
    for number in range(MAX_FAULTS):
        begin(journal, number)
    fill(state.parent)
    with pytest.raises(Refused, match="No space left"):
        begin(journal, MAX_FAULTS)
    assert len(Journal(state).open_intents()) == MAX_FAULTS
    differs = ["eth0: mtu 1500, not 9000"] * 20
    for number in range(MAX_FAULTS):
        journal.done(2, fault=f"{number:08x}", reason="duration", difference=differs)
    assert Journal(state).open_intents() == []


def test_an_end_that_cannot_be_kept_all_the_same_is_told(state: Path) -> None:
    journal = Journal(state)
    begin(journal, 0)
    fill(state.parent)
    endless = ["something"] * 100_000
    unkept = journal.done(2, fault="00000000", reason="duration", difference=endless)
    assert "No space left" in unkept
    assert [intent.fault for intent in Journal(state).open_intents()] == ["00000000"]
