"""``chaosctl inject``: start a fault and follow it to its verdict, or show what it would do.

Everything that can be wrong with the request is found here before anything is
sent. Leaving early (Ctrl-C) ends nothing: the run has its own end, and the red
button is ``chaosctl abort``.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from chaos_core.errors import ControllerUnreachable, InvalidInput
from chaosctl import output
from chaosctl.commands.faults import KindArgument
from chaosctl.options import ControllerOption, Output, OutputOption, PkiOption, Target, target

if TYPE_CHECKING:
    from chaos_core.faults import Fault
    from chaos_core.units import Duration
    from chaos_proto.v1.chaos_pb2 import InjectRequest

INTERRUPTED = 130  # as a shell reports a command that Ctrl-C has ended


def inject(
    kind: KindArgument,
    params: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", show_default=False)
    ] = None,
    nodes: Annotated[
        list[str] | None,
        typer.Option("-n", "--node", metavar="NODE", help="A node; may be repeated."),
    ] = None,
    length: Annotated[
        str, typer.Option("--for", metavar="DURATION", help="How long, like 60s. Required.")
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show the exact effects; needs nobody.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask about risky kinds.")] = False,
    profile: Annotated[
        str, typer.Option(help="Whose ceilings a dry run checks (default: production).")
    ] = "",
    reason: Annotated[str, typer.Option(help="Kept with the run and in the audit log.")] = "",
    form: OutputOption = Output.TABLE,
    controller: ControllerOption = "",
    pki: PkiOption = None,
) -> None:
    """Inject a fault on one or more nodes for a while.

    For example: chaosctl inject network.latency -n web1 peers=10.0.0.2 delay=50ms --for 60s
    """
    from chaos_core.faults import from_words, parse

    fault = parse(kind, from_words(params or []))
    duration = read_duration(length)
    if dry_run:
        from chaosctl.commands import plan

        plan.show(fault, duration, nodes or [], profile, as_json=form is Output.JSON)
        return
    if profile:
        raise InvalidInput(
            "--profile goes with --dry-run", hint="a node's profile is in its own agent.toml"
        )
    if not nodes:
        raise InvalidInput("no node is named", hint="-n NODE; `chaosctl nodes` lists them")
    whom = target(controller, pki)
    if fault.risky and not yes:
        confirm(fault, duration, nodes)
    from chaosctl import client

    request = client.chaos_pb2.InjectRequest(
        kind=kind,
        params=canonical(fault),
        nodes=dict.fromkeys(nodes),
        duration_us=duration,
        reason=reason,
    )
    _run(request, whom, as_json=form is Output.JSON)


def read_duration(text: str) -> Duration:
    """The value of ``--for``. Raises InvalidInput; there is no default on purpose."""
    from chaos_core.units import Duration

    if not text:
        raise InvalidInput("--for is required: every fault has an end", hint="--for 60s")
    try:
        return Duration.parse(text)
    except InvalidInput as error:
        raise InvalidInput(f"--for: {error.what}", hint="--for 60s") from None


def canonical(fault: Fault) -> str:
    """The parameters as they travel: JSON, sorted, without those that are not set."""
    data = fault.model_dump(mode="json", exclude_defaults=True)
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def confirm(fault: Fault, duration: Duration, nodes: list[str]) -> None:
    """Ask before a risky fault starts."""
    what = f"{fault.kind} on {', '.join(nodes)} for {duration}"
    nobody = f"{fault.kind} is risky and there is nobody to ask"
    output.confirm(f"{what}: {fault.summary}. Start it?", nobody)


def _run(request: InjectRequest, whom: Target, *, as_json: bool) -> NoReturn:
    """Start the run and follow it; exits by its verdict."""
    from chaosctl import client, timeline

    run = ""
    try:
        with (
            timeline.view(as_json=as_json, duration_us=request.duration_us) as shown,
            client.operator(whom) as stub,
        ):
            for event in stub.Inject(request):
                run = event.run
                shown.show(event)
                if event.verdict:
                    raise typer.Exit(timeline.exit_of(event.verdict))
    except ControllerUnreachable:
        if not run:
            raise
    except KeyboardInterrupt:
        _leave(run)
    raise client.lost(whom, f"the verdict of run {run}" if run else "the run began")


def _leave(run: str) -> NoReturn:
    if run:
        output.note(f"\nRun {run} goes on until its duration is over; this has not ended it.")
        output.note(f"  follow it: chaosctl watch {run}\n  end it:    chaosctl abort")
    else:
        output.note("\nInterrupted before the controller answered; a run may have started.")
        output.note("  look: chaosctl runs\n  end it: chaosctl abort")
    raise typer.Exit(INTERRUPTED)
