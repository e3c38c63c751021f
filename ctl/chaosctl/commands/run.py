"""``chaosctl run FILE``: an experiment from its scenario to its verdict, and ``end``.

The first Ctrl-C ends the experiment and waits until every node is clean; the second leaves it
to the controller and the lease, and says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chaos_core.errors import ControllerUnreachable, InvalidInput
from chaosctl import output
from chaosctl.commands.inject import INTERRUPTED
from chaosctl.commands.runs import RunArgument
from chaosctl.options import ControllerOption, Output, OutputOption, PkiOption, Target, target

if TYPE_CHECKING:
    from chaos_experiment.load import Loaded
    from chaos_proto.v1.chaos_pb2 import ExperimentRequest
    from chaosctl.timeline import View

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A scenario, YAML.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A parameter of its own.")
]
LevelOption = Annotated[str, typer.Option(help="light, medium, heavy: as the file offers.")]
EnvironmentOption = Annotated[
    str, typer.Option("--env", metavar="NAME", help="An environment of the file's.")
]


def run(
    file: FileArgument,
    settings: SetOption = None,
    level: LevelOption = "",
    environment: EnvironmentOption = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show the exact effects; needs nobody.")
    ] = False,
    profile: Annotated[
        str, typer.Option(help="Whose ceilings a dry run checks (default: production).")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask about risky kinds.")] = False,
    reason: Annotated[str, typer.Option(help="Kept in the audit log.")] = "",
    form: OutputOption = Output.TABLE,
    controller: ControllerOption = "",
    pki: PkiOption = None,
) -> None:
    """Run an experiment: see that all is well, hurt it, watch, recover, judge.

    Exits by the verdict. Ctrl-C ends the experiment and waits until all is clean.
    """
    from chaosctl.commands import scenario

    text, loaded = scenario.read(file, settings or [], level, environment)
    if dry_run:
        scenario.show_plan(loaded, profile, as_json=form is Output.JSON)
        return
    if profile:
        raise InvalidInput(
            "--profile goes with --dry-run", hint="a node's profile is in its own agent.toml"
        )
    whom = target(controller, pki)
    if not yes:
        _confirm(loaded)
    from chaosctl import client

    request = client.chaos_pb2.ExperimentRequest(
        name=file.name,
        text=text,
        settings=dict(word.split("=", 1) for word in settings or []),
        level=level,
        environment=environment,
        reason=reason,
    )
    _follow(request, whom, loaded, as_json=form is Output.JSON)


def end(
    run: RunArgument,
    reason: Annotated[str, typer.Option(help="Kept in the audit log. Required.")],
    form: OutputOption = Output.TABLE,
    controller: ControllerOption = "",
    pki: PkiOption = None,
) -> None:
    """End one run or experiment now; others go on and nothing is latched."""
    from chaosctl import client

    with client.operator(target(controller, pki)) as stub:
        request = client.chaos_pb2.EndRequest(run=run, reason=reason)
        stub.End(request, timeout=client.ANSWER_S)
    if form is Output.JSON:
        output.document({"run": run})
    else:
        typer.echo(f"{run} ends; follow it: chaosctl watch {run}")


def _confirm(loaded: Loaded) -> None:
    """Ask before an experiment with risky faults starts."""
    from chaos_core import faults

    risky = sorted({step.kind for step in loaded.plan.steps if faults.lookup(step.kind).risky})
    if risky:
        what = f"{loaded.plan.title!r} uses risky faults: {', '.join(risky)}. Start it?"
        output.confirm(what, f"it uses risky faults ({', '.join(risky)}), and nobody can be asked")


def _follow(request: ExperimentRequest, whom: Target, loaded: Loaded, *, as_json: bool) -> None:
    """Start it and show what happens; exits by its verdict."""
    from chaosctl import client, timeline

    length = max((step.end for step in loaded.plan.steps), default=0)
    seen = _Seen()
    with timeline.view(as_json=as_json, duration_us=length) as shown:
        try:
            with client.operator(whom) as stub:
                seen.show(stub.Experiment(request), shown)
        except ControllerUnreachable:
            if not seen.run:
                raise
        except KeyboardInterrupt:
            _end_and_wait(seen, whom, shown)
    raise client.lost(whom, f"the verdict of {seen.run}" if seen.run else "it began")


class _Seen:
    """How far the timeline has been shown."""

    def __init__(self) -> None:
        self.run = ""
        self.number = 0

    def show(self, events: Any, shown: View) -> None:
        """Show what is new; exits at the verdict."""
        from chaosctl import timeline

        for event in events:
            self.run = event.run
            if event.number <= self.number:
                continue
            self.number = event.number
            shown.show(event)
            if event.verdict:
                if not isinstance(shown, timeline.JsonLines):
                    output.note(f"report: chaosctl report {self.run}")
                raise typer.Exit(timeline.exit_of(event.verdict))


def _end_and_wait(seen: _Seen, whom: Target, shown: View) -> None:
    """The first Ctrl-C: end the experiment and follow it until it is over."""
    from chaosctl import client

    if not seen.run:
        output.note("\nInterrupted before the controller answered; it may have started.")
        output.note("  look: chaosctl runs\n  end it: chaosctl abort")
        raise typer.Exit(INTERRUPTED)
    output.note(f"\nEnding {seen.run}; once more leaves it to the lease.")
    pb = client.chaos_pb2
    try:
        with client.operator(whom) as stub:
            stub.End(pb.EndRequest(run=seen.run, reason="Ctrl-C"), timeout=client.ANSWER_S)
            seen.show(stub.Watch(pb.WatchRequest(run=seen.run)), shown)
    except KeyboardInterrupt:
        output.note("\nNot waiting. Its faults end by their own duration or lease.")
        output.note(f"  follow it: chaosctl watch {seen.run}\n  end all:   chaosctl abort")
        raise typer.Exit(INTERRUPTED) from None
