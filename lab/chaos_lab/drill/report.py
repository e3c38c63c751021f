"""The drill's result, for machines (``.lab/drill.json``) and for people (``.lab/drill.md``)."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from chaos_lab.drill.context import Check


@dataclass(frozen=True, slots=True)
class Report:
    """All checks and how long they took together, in seconds."""

    checks: tuple[Check, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def summary(self) -> str:
        """One line: how many held, and how long it took."""
        good = sum(check.passed for check in self.checks)
        return f"{good} of {len(self.checks)} held, in {self.seconds:.0f} s."

    def as_json(self) -> str:
        return json.dumps(
            {
                "passed": self.passed,
                "seconds": round(self.seconds, 1),
                "checks": [dataclasses.asdict(check) for check in self.checks],
            },
            indent=2,
            ensure_ascii=False,
        )

    def as_markdown(self) -> str:
        """A table as the README shows it."""
        rows = [
            f"| `{check.id}` | {check.promise} | {check.expected} | {check.shown} |"
            f" {'✓' if check.passed else '✗'} |"
            for check in self.checks
        ]
        return "\n".join(
            [
                "| check | promise | expected | measured | |",
                "|---|---|---|---|---|",
                *rows,
                "",
                self.summary,
                "",
            ]
        )

    def write(self, directory: Path) -> None:
        """Write both files."""
        (directory / "drill.json").write_text(self.as_json() + "\n")
        (directory / "drill.md").write_text(self.as_markdown())
