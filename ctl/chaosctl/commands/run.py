"""``chaosctl run FILE``: an experiment from its scenario to its verdict, and ``end``.

The first Ctrl-C ends the experiment and waits until every node is clean; the second leaves it
to the controller and the lease, and says so. SIGTERM, with which CI ends a job, counts as one.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chaos_core.errors import ControllerUnreachable, InvalidInput
from chaosctl import output
from chaosctl.commands.inject import INTERRUPTED
from chaosctl.commands.runs import RunArgument
from chaosctl.options import ControllerOption, Output, OutputOption, PkiOption, Target, target

if TYPE_CHECKING:
    from chaos_experiment.load import Loaded
    from chaos_proto.v1.chaos_pb2 import ExperimentRequest, RunEvent
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
        confirm(loaded.plan.title, (step.kind for step in loaded.plan.steps))
    from chaos_core.faults import from_words
    from chaosctl import timeline

    terminate_as_ctrl_c()
    request = request_of(file, text, from_words(settings or []), level, environment, reason)
    as_json = form is Output.JSON
    with timeline.view(as_json=as_json, duration_us=length_of(loaded)) as shown:
        following = Following(whom, shown)
        following.follow(request)
    if not as_json:
        output.note(f"report: chaosctl report {following.run}")
    raise typer.Exit(timeline.exit_of(following.verdict))


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


def terminate_as_ctrl_c() -> None:
    """From now on, so that whoever ends this process ends its experiment too."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def confirm(title: str, kinds: Iterable[str]) -> None:
    """Ask before risky faults are used."""
    from chaos_core import faults

    risky = ", ".join(sorted({kind for kind in kinds if faults.lookup(kind).risky}))
    if risky:
        output.confirm(
            f"{title!r} uses risky faults: {risky}. Start it?",
            f"it uses risky faults ({risky}), and nobody can be asked",
        )


@dataclass(slots=True)
class Following:
    """An experiment as it goes on: started and followed to its verdict."""

    whom: Target
    shown: View
    run: str = ""
    verdict: str = ""
    _number: int = 0

    def follow(self, request: ExperimentRequest) -> None:
        """Start it, and come back with its verdict."""
        from chaosctl import client

        try:
            with client.operator(self.whom) as stub:
                self._show(stub.Experiment(request))
        except ControllerUnreachable:
            if not self.run:
                raise
        except KeyboardInterrupt:
            self._end_and_wait()
        if not self.verdict:
            what = f"the verdict of {self.run}" if self.run else "it began"
            raise client.lost(self.whom, what)

    def _show(self, events: Iterable[RunEvent]) -> None:
        for event in events:
            self.run = event.run
            if event.number > self._number:
                self._number, self.verdict = event.number, event.verdict
                self.shown.show(event)

    def _end_and_wait(self) -> None:
        """The first Ctrl-C: end the experiment and follow it until it is over."""
        from chaosctl import client

        if not self.run:
            output.note("\nInterrupted before the controller answered; it may have started.")
            output.note("  look: chaosctl runs\n  end it: chaosctl abort")
            raise typer.Exit(INTERRUPTED)
        pb = client.chaos_pb2
        try:
            output.note(f"\nEnding {self.run}; once more leaves it to the lease.")
            with client.operator(self.whom) as stub:
                stub.End(pb.EndRequest(run=self.run, reason="Ctrl-C"), timeout=client.ANSWER_S)
                self._show(stub.Watch(pb.WatchRequest(run=self.run)))
        except KeyboardInterrupt:
            output.note("\nNot waiting. Its faults end by their own duration or lease.")
            output.note(f"  follow it: chaosctl watch {self.run}\n  end all:   chaosctl abort")
            raise typer.Exit(INTERRUPTED) from None


def request_of(
    file: Path, text: str, settings: Mapping[str, str], level: str, environment: str, reason: str
) -> ExperimentRequest:
    """What the controller is asked for."""
    from chaosctl import client

    return client.chaos_pb2.ExperimentRequest(
        name=file.name, text=text, settings=settings, level=level, environment=environment,
        reason=reason,
    )  # fmt: skip


def length_of(loaded: Loaded) -> int:
    """From T to the end of the last fault, in µs."""
    return max((step.end for step in loaded.plan.steps), default=0)
