"""The library of scenarios, each played for real on the lab's shop.

Every record is kept in the lab's own directory, so a campaign that was interrupted goes on
where it was; a record that is older than its scenario is played again. What is for readers,
``docs/examples``, is written from the records.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos_core.errors import LabError
from chaos_experiment.load import load
from chaos_experiment.record import Record
from chaos_lab import provision, shop
from chaos_lab.drill.context import Injection
from chaos_lab.fleet import Fleet
from chaos_lab.library.cases import Case

_LONGEST_S = 900.0
# What the VMs carry on a machine that has other work too: requests a second, and a tail in
# which the machine's pauses are (hundreds of milliseconds, also where nothing is hurt).
_SETTINGS = {"load": "6", "p99": "500ms"}
_IN_FORCE = {"held", "aborted"}  # verdicts of faults that were, until their end or the guard's


@dataclass(frozen=True, slots=True)
class Played:
    """A case and what came of it."""

    case: Case
    record: Record

    @property
    def held(self) -> bool:
        """Whether the verdict is the one that this shop should have.

        A fragile shop has to be hurt: a fault that was not in force shows nothing of it.
        """
        if self.case.manner == "sturdy":
            return self.record.verdict == "passed"
        hurt = {fault.verdict for fault in self.record.faults}
        return self.record.verdict in ("failed", "aborted") and bool(hurt) and hurt <= _IN_FORCE

    @property
    def line(self) -> str:
        """In one line, for people."""
        return f"{self.case.manner} {self.case.name}: {self.record.verdict}: {self.record.reason}"

    def as_json(self) -> dict[str, Any]:
        """Which case, whether it ended as it should, and the verdict."""
        record = self.record
        return {
            "case": self.case.name,
            "shop": self.case.manner,
            "profile": self.case.profile,
            "held": self.held,
            **record.model_dump(mode="json", include={"id", "verdict", "reason", "score"}),
        }


def kept(records: Path, case: Case, *, old: bool = False) -> Played | None:
    """What came of it before, unless the scenario is newer (and that matters: not ``old``)."""
    file = (records / case.report).with_suffix(".json")
    if not file.exists() or (not old and file.stat().st_mtime < case.file.stat().st_mtime):
        return None
    return Played(case, Record.model_validate_json(file.read_text(encoding="utf-8")))


def play(
    fleet: Fleet,
    cases: Sequence[Case],
    records: Path,
    *,
    say: Callable[[str], None],
    tell: Callable[[Played], None],
) -> None:
    """Play the cases on a fleet that is up and provisioned; ``tell`` hears each.

    One that could not be begun is said, and has no record.
    """
    stands = ("", "")
    for case in cases:
        if stands != (case.manner, case.profile):
            shop.open_up(fleet, case.manner, profile=case.profile, say=say)
            stands = (case.manner, case.profile)
        elif case.manner == "fragile":
            shop.restart(fleet)  # what one has broken is not to be the next one's
        try:
            played = Played(case, _play(fleet, case))
        except LabError as error:
            say(str(error))
            continue
        file = (records / case.report).with_suffix(".json")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(played.record.model_dump_json(), encoding="utf-8")
        tell(played)


def _play(fleet: Fleet, case: Case) -> Record:
    """One experiment by ``chaosctl run``, from its scenario to its record."""
    level = ["--level", case.level] if case.level else []
    declared = load(case.file.read_text(encoding="utf-8"), str(case.file)).params
    chosen = [f"{name}={value}" for name, value in _SETTINGS.items() if name in declared]
    settings = [word for each in chosen for word in ("--set", each)]
    words = ["run", str(case.file), *level, *settings, "--yes", "-o", "json"]
    going = Injection(provision.operator_argv(fleet, words))
    going.wait(_LONGEST_S)
    if not going.events:
        raise LabError(f"it was not begun: {going.last_words()}", where=case.name)
    run = going.events[0][1]["run"]
    text = provision.operate(fleet, ["report", run, "-o", "json"])
    return Record.model_validate(json.loads(text))
