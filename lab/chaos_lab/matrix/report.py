"""What came out of the matrix: JSON, and a table for people."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Literal

Outcome = Literal["ok", "refused", "failed"]


@dataclass(frozen=True)
class Row:
    """One case on one host. ``said`` is the product's refusal, or why the case failed.

    ``hits`` is how much a fault hit there, in words, where the case says so. ``commit`` is what
    was run, and ``date`` the day in UTC.
    """

    host: str
    case: str
    outcome: Outcome
    said: str = ""
    hits: str = ""
    commit: str = ""
    date: str = ""

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
    """A matrix, of one run or of several: the latest of each case counts."""

    hosts: tuple[HostReport, ...]

    @classmethod
    def read(cls, text: str) -> Report:
        """What ``as_json`` wrote."""
        return cls(
            tuple(
                HostReport(
                    host["name"],
                    host["versions"],
                    tuple(Row(**row) for row in host["rows"]),
                    host["broken"],
                )
                for host in json.loads(text)["hosts"]
            )
        )

    def after(self, earlier: Report) -> Report:
        """This report, with what only an earlier one knows."""
        were, known = {host.name: host for host in earlier.hosts}, []
        for host in self.hosts:
            was = were.pop(host.name, HostReport(host.name, {}, ()))
            rows = {row.case: row for row in (*was.rows, *host.rows)}
            known.append(replace(host, rows=tuple(rows.values())))
        return Report(tuple(sorted([*known, *were.values()], key=lambda host: host.name)))

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
        runs = Counter((row.date, row.commit) for host in self.hosts for row in host.rows)
        said = (f"{n} cases on {date} at commit `{of}`" for (date, of), n in sorted(runs.items()))
        lines = [f"{', '.join(said)}.".capitalize(), ""]
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
