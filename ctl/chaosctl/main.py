"""``chaosctl``: the operator's hand.

Starts fast: whatever is heavy is imported by the command that needs it. An error
of ours ends in one or two clear lines and a documented exit code; a traceback is
a defect.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import Annotated

import typer
from typer.exceptions import TyperException

from chaos_core.errors import ChaosError, Exit, InvalidInput
from chaosctl import output
from chaosctl.commands import (
    audit,
    control,
    faults,
    importing,
    inject,
    nodes,
    pki,
    report,
    runs,
    scenario,
    suite,
)
from chaosctl.commands import run as experiment

_MEANINGS = {
    Exit.DONE: "done; the fault held",
    Exit.FAILED: "the run's verdict is a failure",
    Exit.INVALID: "invalid input; nothing was done",
    Exit.REFUSED: "refused: envelope, latch, preflight or role",
    Exit.ABORTED: "the run was aborted",
    Exit.CONTROLLER_UNREACHABLE: "the controller does not answer",
    Exit.NODE_UNREACHABLE: "a node is unreachable or quarantined",
    Exit.NO_EFFECT: "the fault was in force, and hit nothing of what there was",
}
# \b keeps the lines as they are.
EPILOG = "\b\nExit codes:\n" + "\n".join(f"  {code}  {text}" for code, text in _MEANINGS.items())

app = typer.Typer(
    help="Chaos engineering that cannot get stuck.",
    epilog=EPILOG,
    rich_markup_mode=None,  # plain help: rich would double the time to start
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(nodes.nodes)
app.command()(faults.faults)
app.command()(inject.inject)
app.command()(experiment.run)
app.command()(experiment.end)
app.command()(scenario.validate)
app.command("import")(importing.import_)
app.command()(runs.watch)
app.command()(report.report)
app.command()(control.abort)
app.command()(control.resume)
app.add_typer(nodes.app, name="node")
app.add_typer(scenario.app, name="scenario")
app.add_typer(suite.app, name="suite")
app.add_typer(runs.app, name="runs")
app.add_typer(audit.app, name="audit")
app.add_typer(pki.app, name="pki")


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Chaos engineering that cannot get stuck."""
    if version:
        from importlib.metadata import version as of

        typer.echo(f"chaosctl {of('chaosctl')}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
        "help_option_names": [],
    }
)
def lab(context: typer.Context) -> None:
    """A staging fleet of VMs on this machine."""
    from chaos_lab.cli import app as fleet

    code = fleet(args=context.args or ["--help"], prog_name="chaosctl lab", standalone_mode=False)
    raise typer.Exit(code if isinstance(code, int) else Exit.DONE)


def run() -> None:
    """The console script."""
    sys.exit(main(sys.argv[1:]))


def main(argv: list[str]) -> int:
    """Run one command line and return its exit code; what goes wrong is printed."""
    as_json = wants_json(argv)
    try:
        code = app(args=argv, prog_name="chaosctl", standalone_mode=False)
    except ChaosError as error:
        output.error(error, as_json=as_json)
        return error.exit
    except TyperException as error:
        problem = InvalidInput(error.format_message(), hint=_see_help(error))
        output.error(problem, as_json=as_json)
        return problem.exit
    except typer.Abort:  # Ctrl-C at a question
        return inject.INTERRUPTED
    return code if isinstance(code, int) else Exit.DONE


def wants_json(argv: list[str]) -> bool:
    """Whether errors are to be JSON: known even when the rest cannot be parsed."""
    words = argv[: argv.index("--")] if "--" in argv else argv
    return any(word in ("-ojson", "--output=json") for word in words) or any(
        word in ("-o", "--output") and value == "json" for word, value in pairwise(words)
    )


def _see_help(error: TyperException) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path} --help" if context else "chaosctl --help"
