"""``chaosctl lab``: the staging fleet from the command line.

Cheap to import: everything but typer is imported when a command runs. Errors
are raised as ``ChaosError`` for chaosctl to print.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chaos_core.errors import Exit

if TYPE_CHECKING:
    from chaos_lab.drill.context import Check
    from chaos_lab.drill.report import Report
    from chaos_lab.fleet import Fleet
    from chaos_lab.matrix.report import Row
    from chaos_lab.torture.report import Report as RoundsReport
    from chaos_lab.torture.report import Result

app = typer.Typer(
    name="lab",
    help="A staging fleet of VMs on this machine: one controller and some nodes.",
    no_args_is_help=True,
)


class Output(StrEnum):
    """How data is printed."""

    TABLE = "table"
    JSON = "json"


class Shop(StrEnum):
    """How the lab's shop is built."""

    STURDY = "sturdy"
    FRAGILE = "fragile"
    BOTH = "both"


OutputOption = Annotated[Output, typer.Option("-o", "--output", help="How to print the result.")]
NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="controller, n1, n2, …")]


@contextmanager
def progress(title: str) -> Iterator[Callable[[str], None]]:
    """A spinner on stderr; what is said is kept as a line with the seconds since the start."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    start = time.monotonic()

    def say(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - start:6.1f} s[/dim]  {text}", soft_wrap=True)

    with console.status(title):
        yield say


@contextmanager
def fresh_fleet(
    name: str, title: str, *, keep: bool
) -> Iterator[tuple[Fleet, Callable[[str], None]]]:
    """A fleet of its own, booted from the image, and ``progress``; its logs are kept."""
    from chaos_lab import drill as drills
    from chaos_lab.fleet import Fleet
    from chaos_lab.layout import LabDir

    lab = LabDir.find().beside(name)
    with progress(title) as say:
        fleet = Fleet(lab, say=say)
        fleet.down()
        shutil.rmtree(lab.home / "logs", ignore_errors=True)
        try:
            fleet.up()
            yield fleet, say
        finally:
            if fleet.is_up:
                drills.keep_logs(fleet, lab.home / "logs")
            if not keep:
                fleet.down()


@app.command()
def up(
    nodes: Annotated[int, typer.Option(help="Node VMs beside the controller, 0 to 32.")] = 3,
    output: OutputOption = Output.TABLE,
) -> None:
    """Build the image from this source and boot the fleet; idempotent."""
    from chaos_lab.fleet import Fleet

    with progress("bringing up the lab") as say:
        fleet = Fleet(say=say)
        fleet.up(nodes)
    _show(fleet, output)


@app.command()
def down() -> None:
    """End the fleet and delete its disks; idempotent."""
    from chaos_lab.fleet import Fleet

    Fleet().down()


@app.command()
def status(output: OutputOption = Output.TABLE) -> None:
    """Show the VMs, their addresses and their consoles."""
    from chaos_lab.fleet import Fleet

    _show(Fleet(), output)


@app.command(name="exec", context_settings={"ignore_unknown_options": True})
def execute(
    node: NodeArgument,
    argv: Annotated[list[str], typer.Argument(metavar="-- ARGV…", help="The command.")],
) -> None:
    """Run a command on a VM as root; its streams and its exit code are passed on."""
    from chaos_lab.fleet import Fleet
    from chaos_lab.remote import interactive

    raise typer.Exit(interactive(Fleet().shell_command(node, argv)))


@app.command()
def ssh(node: NodeArgument) -> None:
    """Open a shell on a VM as root."""
    from chaos_lab.fleet import Fleet
    from chaos_lab.remote import interactive

    raise typer.Exit(interactive(Fleet().shell_command(node, ["bash", "-l"], "-t")))


@app.command()
def drill(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the fleet up afterwards.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Install the system on a fleet of its own and measure every promise from outside.

    Writes drill.json, drill.md and the VMs' logs to the lab's directory. Ends with 0
    only if every check held.
    """
    from chaos_lab import drill as drills
    from chaos_lab.layout import LabDir

    with fresh_fleet("drill", "drilling", keep=keep) as (fleet, say):
        report = drills.run(fleet, say=say, tell=lambda check: say(f"  {_line(check)}"))
        report.write(LabDir.find().home)
    if output is Output.JSON:
        typer.echo(report.as_json())
    else:
        _show_report(report)
    raise typer.Exit(Exit.DONE if report.passed else Exit.FAILED)


def _line(check: Check) -> str:
    return _mark(check.passed, f"{check.id:18} {check.shown}")


def _show_report(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", "check", "expected", "measured", box=None, padding=(0, 1))
    for check in report.checks:
        mark = "[green]✓[/green]" if check.passed else "[red]✗[/red]"
        table.add_row(mark, check.id, check.expected, check.shown)
    console = Console()
    console.print(table)
    console.print(report.summary)


@app.command()
def torture(
    rounds: Annotated[int, typer.Option(min=1, help="How many cases to draw.")] = 300,
    seed: Annotated[int, typer.Option(help="What the cases are drawn from.")] = 1,
    only: Annotated[
        str, typer.Option(help="Play only these of them: #17, or a part of their name.")
    ] = "",
    keep: Annotated[bool, typer.Option("--keep", help="Leave the fleet up afterwards.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Kill everything of ours at every step of every fault, and prove that nothing is left.

    Plays on a fleet of its own. Writes report.json, report.md and the VMs' logs to the
    directory torture of the lab's. Ends with 0 only if every round held.
    """
    from chaos_lab.provision import provision
    from chaos_lab.torture import campaign

    with fresh_fleet("torture", "torturing", keep=keep) as (fleet, say):
        provision(fleet, profile="lab", say=say)
        report = campaign.run(
            fleet, seed=seed, drawn=rounds, only=only, say=say, tell=lambda r: say(_round(r))
        )
        report.write(fleet.lab.home)
    if output is Output.JSON:
        typer.echo(report.as_json())
    else:
        _show_rounds(report)
    raise typer.Exit(Exit.DONE if report.passed else Exit.FAILED)


@app.command()
def catalogue(
    only: Annotated[
        list[str] | None, typer.Option(help="Measure only this kind; may be repeated.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="Write catalogue.json and faults.md to this directory.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the fleet up afterwards.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Measure every kind of fault from outside, and how soon it is gone.

    Ends with 0 only if every kind did what was asked and left nothing.
    """
    from chaos_core import catalogue as definitions
    from chaos_core.faults import lookup
    from chaos_lab import catalogue as measuring
    from chaos_lab.drill.context import Drill
    from chaos_lab.provision import provision

    kinds = {lookup(kind).kind for kind in only or ()}
    chosen = [one for one in measuring.MEASURES if not kinds or one.kind in kinds]
    with fresh_fleet("catalogue", "measuring the catalogue", keep=keep) as (fleet, say):
        provision(fleet, profile="lab", say=say)
        rows = measuring.run(Drill(fleet, say), chosen, lambda row: say(_mark(row.held, row.line)))
    found = [row.as_json() for row in rows]
    if to:
        kept = to / "catalogue.json"
        others = json.loads(kept.read_text()) if kinds and kept.exists() else []
        found = sorted(
            [*found, *(row for row in others if row["kind"] not in kinds)],
            key=lambda row: (row["kind"], row["params"]),
        )
        kept.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        (to / "faults.md").write_text(definitions.page(found))
    if output is Output.JSON:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    raise typer.Exit(Exit.DONE if all(row.held for row in rows) else Exit.FAILED)


@app.command()
def library(
    scenarios: Annotated[
        Path, typer.Argument(metavar="DIR", help="The library: groups of scenarios.")
    ] = Path("scenarios"),
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Of levels/cpu-heavy and the like; may be repeated."),
    ] = None,
    shop: Annotated[Shop, typer.Option(help="On which shop.")] = Shop.BOTH,
    again: Annotated[bool, typer.Option("--again", help="Also what was played before.")] = False,
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write README.md and the reports there.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the fleet up afterwards.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Play the library of scenarios, each by `chaosctl run`, on a shop of the lab's.

    What was played stays played until its scenario changes: records are in the directory
    library/records of the lab's. Ends with 0 only if the sturdy shop passed all and the fragile
    shop none.
    """
    from chaos_lab import library as playing
    from chaos_lab.layout import LabDir
    from chaos_lab.library import cases, pages
    from chaos_lab.provision import provision

    found = cases.find(scenarios, shop.value, only or ())
    records = LabDir.find().beside("library").home / "records"
    left = [one for one in found if again or playing.kept(records, one) is None]
    if left:
        with fresh_fleet("library", "playing the library", keep=keep) as (fleet, say):
            provision(fleet, say=say)
            playing.play(
                fleet, left, records, say=say, tell=lambda one: say(_mark(one.held, one.line))
            )
    played = [one for case in found if (one := playing.kept(records, case))]
    if to:
        every = cases.find(scenarios, "both")  # also what others have played, at other times
        shown = (playing.kept(records, one) or playing.kept(to, one, old=True) for one in every)
        pages.write([one for one in shown if one], to)
    if output is Output.JSON:
        typer.echo(json.dumps([one.as_json() for one in played], indent=2, ensure_ascii=False))
    good = len(played) == len(found) and all(one.held for one in played)
    raise typer.Exit(Exit.DONE if good else Exit.FAILED)


@app.command()
def matrix(
    only: Annotated[
        str, typer.Option(help="Only these hosts: debian11, debian12, debian13, by commas.")
    ] = "",
    sample: Annotated[bool, typer.Option("--sample", help="The cases of a few minutes.")] = False,
    kernel: Annotated[
        bool, typer.Option("--kernel", help="The kernel tests instead, which takes hours.")
    ] = False,
    case: Annotated[
        list[str] | None,
        typer.Option("--case", help="Only this file or test of tests/; may be repeated."),
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=1, max=3, metavar="N", help="So many hosts at a time.")
    ] = 2,
    to: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Add the cases to matrix.json and matrix.md there."),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Prove the product on the real kernels and systemds of Debian 11, 12 and 13.

    The nodes are emulated in software, which takes two hours. What they said is kept in
    the directory matrix/logs of the lab's. Ends with 0 only if no case failed.
    """
    from chaos_lab.fleet import require_root
    from chaos_lab.layout import LabDir
    from chaos_lab.matrix import cases, releases, run
    from chaos_lab.matrix.report import HostReport, Report

    require_root()
    chosen = releases.choose(only)
    files = case or cases.chosen(sample=sample, kernel=kernel)
    kept = to / "matrix.json" if to else None
    whole = Report.read(kept.read_text()) if kept and kept.exists() else Report(())
    writing = threading.Lock()

    def keep(host: HostReport) -> None:
        nonlocal whole
        with writing:
            whole = Report((host,)).after(whole)
            if kept:
                kept.write_text(whole.as_json())
                page = f"{_MATRIX_HEAD}\n{whole.as_markdown()}"
                kept.with_suffix(".md").write_text(page)

    with progress("running the matrix") as say:

        def tell(host: HostReport) -> None:
            say(_case(host.rows[-1]))
            keep(host)

        report = run.run(
            LabDir.find(), chosen, files, neighbours=not (sample or kernel), jobs=jobs, say=say,
            tell=tell,
        )  # fmt: skip
    for host in report.hosts:
        keep(host)
    typer.echo(report.as_json() if output is Output.JSON else report.as_markdown())
    raise typer.Exit(Exit.DONE if report.passed else Exit.FAILED)


_MATRIX_HEAD = """\
# On the kernels of Debian 11, 12 and 13

Written by `chaosctl lab matrix --to docs`; [coexistence.md](coexistence.md) says what it is.
"""


def _case(row: Row) -> str:
    colour = {"ok": "green", "refused": "yellow", "failed": "red"}[row.outcome]
    text = f"{row.host}  {row.case}" + (f"\n{'':10}{row.said}" if row.said else "")
    return f"[{colour}]{row.outcome:8}[/{colour}] {text.replace('[', chr(92) + '[')}"


def _mark(good: bool, line: str) -> str:
    return f"{'[green]held  [/green]' if good else '[red]FAILED[/red]'} {line}"


def _round(result: Result) -> str:
    return _mark(result.passed, result.line + ("" if result.passed else f"\n{'':10}{result.why}"))


def _show_rounds(report: RoundsReport) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("hit", box=None, padding=(0, 1))
    for title in ("rounds", "seen", "worst gone", "back", "residue", "failed"):
        table.add_column(title, justify="right")
    for group in report.groups:
        table.add_row(
            group.name,
            str(group.rounds),
            str(group.seen),
            "–" if group.worst_gone is None else f"{group.worst_gone:.2f} s",
            "–" if group.worst_recovered is None else f"{group.worst_recovered:.1f} s",
            str(group.residue),
            str(group.failed),
        )
    console = Console()
    console.print(table)
    console.print(report.summary)
    for result in report.failures:
        console.print(f"[red]✗[/red] {result.case.name}: {result.why}", highlight=False)
        console.print(f"  again: {report.rerun(result)}", highlight=False, soft_wrap=True)


def _show(fleet: Fleet, output: Output) -> None:
    from dataclasses import asdict

    vms = fleet.status()
    if output is Output.JSON:
        body = {"up": fleet.is_up, "netns": fleet.lab.netns, "vms": [asdict(vm) for vm in vms]}
        typer.echo(json.dumps(body, indent=2))
        return
    if not vms:
        typer.echo("No fleet is up. `chaosctl lab up` brings one up.")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("VM", "state", "IPv4", "IPv6", "memory", "pid", box=None)
    table.caption = f"consoles: {fleet.lab.vms}/*/console.log"
    for vm in vms:
        state = "[green]running[/green]" if vm.running else "[red]no power[/red]"
        pid = str(vm.pid or "–")
        table.add_row(vm.name, state, vm.ip, vm.ip6, f"{vm.memory_mib} MiB", pid)
    Console().print(table)
