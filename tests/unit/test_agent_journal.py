"""The journal: what was begun is found again, whatever a crash did to the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos_agent.journal import Journal, StateFile
from chaos_core.effects import Holder, LeasedSet, Pipe
from chaos_core.errors import Refused

EFFECTS = (
    LeasedSet("chs-0a1b2c3d-4", 4, ("192.0.2.1/32",)),
    Pipe("eth0", "chs-0a1b2c3d-0", 0x1000000, 0xF000000, 1, None),
    Holder("chs-0a1b2c3d", "burn", cpu_quota=15_000),
)


def begin(journal: Journal, fault: str = "0a1b2c3d") -> None:
    journal.intent(
        1, fault=fault, run="r-1", kind="test", to_apply=EFFECTS, before={"links": ["eth0"]}
    )


def test_an_intent_is_open_until_it_is_done(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state")
    begin(journal)
    (intent,) = Journal(tmp_path / "state").open_intents()
    assert intent.effects == EFFECTS
    assert intent.before == {"links": ["eth0"]}
    assert journal.done(2, fault="0a1b2c3d", reason="duration", difference=[]) == ""
    assert Journal(tmp_path / "state").open_intents() == []


def test_cut_at_any_byte_the_whole_entries_before_are_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state")
    begin(journal, "00000001")
    first = journal.path.stat().st_size
    begin(journal, "00000002")
    whole = journal.path.read_bytes()
    for length in range(len(whole) + 1):
        journal.path.write_bytes(whole[:length])
        again = Journal(tmp_path / "state")
        found = [intent.fault for intent in again.open_intents()]
        expected = ["00000001"] * (length >= first - 1) + ["00000002"] * (length >= len(whole) - 1)
        assert found == expected, length
        begin(again, "00000003")
        assert [intent.fault for intent in again.open_intents()] == [*expected, "00000003"]
        again.close()


def test_a_flipped_byte_loses_one_entry_and_no_other(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state")
    for fault in ("00000001", "00000002", "00000003"):
        begin(journal, fault)
    whole = bytearray(journal.path.read_bytes())
    whole[len(whole) // 2] ^= 0x01
    journal.path.write_bytes(whole)
    found = [intent.fault for intent in Journal(tmp_path / "state").open_intents()]
    assert found == ["00000001", "00000003"]


def test_something_else_in_the_journals_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state" / "journal").mkdir(parents=True)
    with pytest.raises(Refused, match="Is a directory"):
        Journal(tmp_path / "state")


def test_a_link_in_the_journals_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    target = tmp_path / "elsewhere"
    target.touch()
    (tmp_path / "state" / "journal").symlink_to(target)
    with pytest.raises(Refused):
        Journal(tmp_path / "state")
    assert target.read_bytes() == b""


def test_a_state_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    state = StateFile(tmp_path / "epoch")
    assert state.read(0) == 0
    state.write(7)
    assert state.read(0) == 7
    (tmp_path / "epoch").write_text("{")
    with pytest.raises(Refused, match="cannot be read"):
        state.read(0)


def test_what_cannot_be_read_is_counted_and_a_torn_end_is_not(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state")
    for fault in ("00000001", "00000002", "00000003"):
        begin(journal, fault)
    whole = journal.path.read_bytes()
    for place in (*range(0, len(whole), 17), len(whole) - 1):
        journal.path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        again = Journal(tmp_path / "state")
        lost = 3 - len(again.open_intents())
        torn = place == len(whole) - 1  # the very last end of line
        assert (lost > 0) == (again.damaged > 0) or torn, place
        again.close()
    journal.path.write_bytes(whole[:-9])
    again = Journal(tmp_path / "state")
    assert len(again.open_intents()) == 2
    assert again.damaged == 0


def test_an_intent_of_another_version_counts_only_while_it_is_open(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state")
    journal._write(
        journal._line("intent", 1, {"fault": "00000001", "effects": [{"effect": "Unheard"}]})
    )
    assert (journal.open_intents(), journal.damaged) == ([], 1)
    journal.done(2, fault="00000001", reason="duration", difference=[])
    assert (journal.open_intents(), journal.damaged) == ([], 0)


def test_a_damaged_journal_is_kept_beside_a_new_one(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state")
    begin(journal)
    before = journal.path.read_bytes()
    journal.set_aside()
    begin(journal, "00000002")
    assert [intent.fault for intent in journal.open_intents()] == ["00000002"]
    assert (tmp_path / "state" / "journal.damaged").read_bytes() == before


def test_a_journal_that_is_in_use_for_long_stays_small_and_forgets_nothing_open(
    tmp_path: Path,
) -> None:
    journal = Journal(tmp_path / "state")
    sizes = []
    for number in range(1_500):
        begin(journal, f"{number:08x}")
        if number == 1_400:
            begin(journal, "ffffffff")
        assert journal.done(2, fault=f"{number:08x}", reason="duration", difference=[]) == ""
        sizes.append(sum(path.stat().st_size for path in (tmp_path / "state").iterdir()))
    assert max(sizes) < 1 << 20
    assert min(sizes[700:]) > 100_000, "the last one is kept"
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["journal", "journal.1"]
    assert [intent.fault for intent in journal.open_intents()] == ["ffffffff"]
    journal.close()
