"""What came out of the matrix: JSON, and a table for people."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Literal

Outcome = Literal["ok", "refused", "failed"]


@dataclass(frozen=True)
class Row:
    """One case on one host. ``said`` is the product's refusal, or why the case failed.

    ``hits`` is how much a fault hit there, in words, where the case says so.
    """

    host: str
    case: str
    outcome: Outcome
    said: str = ""
    hits: str = ""

    @property
    def group(self) -> str:
        """The file that the case is in."""
        return self.case.partition("::")[0].removeprefix("tests/").removesuffix(".py")


@dataclass(frozen=True)
class HostReport:
    """One release: what it said of itself, and its rows. ``broken`` says why it ended early."""

    name: str
    versions: dict[str, str]
    rows: tuple[Row, ...]
    broken: str = ""


@dataclass(frozen=True)
class Report:
    """A whole matrix. ``date`` is the day in UTC, ``commit`` what was run."""

    date: str
    commit: str
    hosts: tuple[HostReport, ...]

    @property
    def passed(self) -> bool:
        """Whether every host ran to its end and no case failed."""
        return all(
            not host.broken and host.rows and all(row.outcome != "failed" for row in host.rows)
            for host in self.hosts
        )

    def as_json(self) -> str:
        """All of it."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    def as_markdown(self) -> str:
        """The hosts, a table of groups of cases, and every refusal and failure by name."""
        lines = [f"Run on {self.date} at commit `{self.commit}`.", ""]
        lines += [
            "| host | kernel | systemd | iptables | nft | Python |",
            "|---|---|---|---|---|---|",
        ]
        for host in self.hosts:
            words = ("kernel", "systemd", "iptables", "nft", "python")
            versions = " | ".join(host.versions.get(word, "?") for word in words)
            lines.append(f"| {host.name} | {versions} |")
        groups = list(dict.fromkeys(row.group for host in self.hosts for row in host.rows))
        lines += ["", "| cases | " + " | ".join(host.name for host in self.hosts) + " |"]
        lines.append("|---" * (len(self.hosts) + 1) + "|")
        for group in groups:
            cells = " | ".join(_cell(host, group) for host in self.hosts)
            lines.append(f"| `{group}` | {cells} |")
        lines += self._hits()
        for outcome in ("refused", "failed"):
            found = [row for host in self.hosts for row in host.rows if row.outcome == outcome]
            if found:
                lines += ["", f"{outcome.capitalize()}:", ""]
                lines += [f"- {row.host}, `{row.case}`: {_short(row.said)}" for row in found]
        for host in self.hosts:
            if host.broken:
                lines += ["", f"{host.name} ended early: {host.broken}"]
        return "\n".join(lines) + "\n"

    def _hits(self) -> list[str]:
        """A table of what each fault hit on each host, by the kernel's counters."""
        found = {(row.case, row.host): row for host in self.hosts for row in host.rows}
        cases = list(dict.fromkeys(case for (case, _), row in found.items() if row.hits))
        if not cases:
            return []
        lines = ["", "| hits of | " + " | ".join(host.name for host in self.hosts) + " |"]
        lines.append("|---" * (len(self.hosts) + 1) + "|")
        for case in cases:
            rows = [found.get((case, host.name)) for host in self.hosts]
            cells = " | ".join((row.hits or row.outcome) if row else "not run" for row in rows)
            lines.append(f"| {case.partition('[')[2].removesuffix(']')} | {cells} |")
        return lines


def _cell(host: HostReport, group: str) -> str:
    counts = Counter(row.outcome for row in host.rows if row.group == group)
    shown = (f"{counts[outcome]} {outcome}" for outcome in ("ok", "refused", "failed"))
    return ", ".join(one for one in shown if not one.startswith("0 ")) or "not run"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:299]}…"
