"""What readers get of the library's runs: an index, a report of each, and a few with charts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from chaos_experiment.record import Record
from chaos_experiment.reports import _content as content
from chaos_experiment.reports import html, markdown
from chaos_experiment.verdict import figures
from chaos_lab.library import Played
from chaos_lab.shop import Manner

# Those of which the page with charts is kept too; of all it would be megabytes.
WHOLE: Final = (
    "production/latency",
    "application/service_circuit_breaker",
    "levels/database-short",
)

_HEAD: Final = """\
# The library, played for real

Each scenario of [scenarios/](../../scenarios/README.md) at each of its levels, by `chaosctl run`
on the lab's VMs ({date}; `make library` plays them again). The shop there is nginx, two
application servers, PostgreSQL and Redis:

- **sturdy**: time-outs, a retry on the other server, a pool, breakers, what was last known for
  when the database is away, and a 503 for whom it cannot serve in time. What the library
  claims, it must hold.
- **fragile**: none of these, which is how such things are often written. What is played on it
  must not pass, or the scenario tests nothing.

Beside each report lies its record, to compare a run of yours with (`--against`) or to draw the
page with charts: `chaosctl report docs/examples/sturdy/levels-crash.json --html --open`. What
the columns mean: [docs/reports.md](../reports.md). The profile is the one of the nodes,
the strictest that allows the scenario. p99 is that of customers' requests, six a second. The VMs
share two cores with whatever else the machine does, and its pauses are in every tail, also
where nothing is hurt; so the bound of 150 ms that production's scenarios have for p99 is
500 ms here (`--set p99=500ms`; each report lists its parameters).
"""

_TITLES: Final[dict[Manner, str]] = {"sturdy": "The sturdy shop", "fragile": "The fragile shop"}
_COLUMNS: Final = (
    "scenario", "profile", "verdict", "why", "score", "p99 before", "p99 hurt", "errors hurt",
    "detected", "recovered",
)  # fmt: skip


def write(played: Sequence[Played], to: Path) -> None:
    """README.md, and of each its record and report, in ``to``; replaces those that are there."""
    for one in played:
        path = to / one.case.report
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(markdown.SUFFIX).write_text(markdown.render(one.record), "utf-8")
        path.with_suffix(".json").write_text(one.record.model_dump_json(), "utf-8")
        if one.case.name in WHOLE:
            path.with_suffix(html.SUFFIX).write_text(html.render(one.record), "utf-8")
    to.joinpath("README.md").write_text(index(played), encoding="utf-8")


def index(played: Sequence[Played]) -> str:
    """The table of all, by shop."""
    days = sorted(one.record.started[:10] for one in played)
    date = " to ".join(dict.fromkeys((days[0], days[-1])))
    lines = [_HEAD.format(date=date)]
    for manner, title in _TITLES.items():
        mine = sorted(
            (one for one in played if one.case.manner == manner), key=lambda one: one.case.name
        )
        if mine:
            held = sum(one.held for one in mine)
            lines += [f"## {title}", "", f"{held} of {len(mine)} ended as they should.", ""]
            lines += [_row(_COLUMNS), "|---" * len(_COLUMNS) + "|", *map(_line, mine), ""]
    return "\n".join(lines)


def _line(one: Played) -> str:
    case, record = one.case, one.record
    links = [f"[{case.name}]({case.report}{markdown.SUFFIX})"]
    if case.name in WHOLE:
        links.append(f"[charts]({case.report}{html.SUFFIX})")
    found = figures(record)
    cells = (
        " · ".join(links),
        case.profile,
        content.verdict(record) if one.held else f"**{content.verdict(record)}**",
        _why(record),
        content.NONE if record.score is None else f"{record.score:.1f}",
        _p99(record, "baseline"),
        _p99(record, "fault"),
        content.number(found.error_rate, "percent"),
        content.seconds(record.detection_us),
        content.seconds(record.recovery_us),
    )
    return _row(cells)


def _why(record: Record) -> str:
    """What decided, with its sample; of what passed, how bad it was."""
    passed = record.verdict == "passed"
    return markdown.text(content.decisive(record) if passed else record.reason)


def _p99(record: Record, phase: str) -> str:
    """Of the slowest probe that takes time."""
    timed = {probe.name for probe in record.probes if probe.unit == "duration"}
    spans = [span for span in record.spans if span.phase == phase and span.probe in timed]
    worst = max((span.p99 for span in spans if span.p99 is not None), default=None)
    return content.seconds(worst)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
