"""``chaosctl runs`` and ``watch``: what has been done, and what goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from chaos_core.errors import InvalidInput
from chaosctl import output
from chaosctl.options import ControllerOption, Output, OutputOption, PkiOption, target

if TYPE_CHECKING:
    from chaos_proto.v1.chaos_pb2 import Run

app = typer.Typer(help="List runs, or show one with its timeline.", rich_markup_mode=None)
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="For example r-2k7qd.")]
LimitOption = Annotated[int, typer.Option(min=1, max=1000, help="The newest so many.")]


@app.callback(invoke_without_command=True)
def runs(
    context: typer.Context,
    limit: LimitOption = 20,
    form: OutputOption = Output.TABLE,
    controller: ControllerOption = "",
    pki: PkiOption = None,
) -> None:
    """List the latest runs, or show one with its timeline."""
    if context.invoked_subcommand is None:
        list_runs(limit, form, controller, pki)
        return
    for name in context.params:  # they belong to the plain list; here they would do nothing
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise InvalidInput(
                f"options go after `runs {context.invoked_subcommand}`, not before it"
            )


@app.command("list")
def list_runs(
    limit: LimitOption = 20,
    form: OutputOption = Output.TABLE,
    controller: ControllerOption = "",
    pki: PkiOption = None,
) -> None:
    """List the latest runs, newest first."""
    from chaosctl import client

    with client.operator(target(controller, pki)) as stub:
        request = client.chaos_pb2.ListRunsRequest(limit=limit)
        answer = stub.ListRuns(request, timeout=client.ANSWER_S)
    if form is Output.JSON:
        output.document(output.message(answer))
    elif not answer.runs:
        typer.echo("There has been no run yet.")
    else:
        output.table(
            ("RUN", "STARTED", "KIND", "NODES", "VERDICT", "BY"),
            [
                (run.id, run.started[:19], run.kind, ",".join(run.nodes), _state(run), run.actor)
                for run in answer.runs
            ],
        )


@app.command("show")
def show_run(
    run: RunArgument,
    form: OutputOption = Output.TABLE,
    controller: ControllerOption = "",
    pki: PkiOption = None,
) -> None:
    """Show one run and its timeline."""
    from chaos_core.units import Duration
    from chaosctl import client, timeline

    with client.operator(target(controller, pki)) as stub:
        request = client.chaos_pb2.GetRunRequest(id=run)
        answer = stub.GetRun(request, timeout=client.ANSWER_S)
    if form is Output.JSON:
        output.document(output.message(answer))
        return
    found = answer.run
    output.fields(
        [
            ("run", found.id),
            ("fault", f"{found.kind} {found.params}"),
            ("nodes", ", ".join(found.nodes)),
            ("duration", Duration(found.duration_us)),
            ("by", found.actor),
            ("started", found.started),
            ("finished", found.finished or "–"),
            ("verdict", _state(found)),
            ("reason", found.reason or "–"),
        ]
    )
    typer.echo("")
    lines = timeline.Lines(verdicts=False)
    for event in answer.events:
        lines.show(event)


def watch(
    run: Annotated[str, typer.Argument(metavar="[RUN]", help="One run; else all of them.")] = "",
    form: OutputOption = Output.TABLE,
    controller: ControllerOption = "",
    pki: PkiOption = None,
) -> None:
    """Follow a run from its beginning to its verdict, or all runs from now on.

    With a run, exits by its verdict as `inject` does.
    """
    from chaosctl import client, timeline

    whom = target(controller, pki)
    shown = timeline.JsonLines() if form is Output.JSON else timeline.Lines(several=not run)
    with client.operator(whom) as stub:
        for event in stub.Watch(client.chaos_pb2.WatchRequest(run=run)):
            shown.show(event)
            if run and event.verdict:
                raise typer.Exit(timeline.exit_of(event.verdict))
    raise client.lost(whom, f"the verdict of run {run}" if run else "the watch ended")


def _state(run: Run) -> str:
    return run.verdict or run.phase
