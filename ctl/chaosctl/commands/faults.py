"""``chaosctl faults``: what there is to inject, from the faults' own definitions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from chaosctl import output
from chaosctl.options import Output, OutputOption

if TYPE_CHECKING:
    from chaos_core.faults import Fault


def complete(incomplete: str) -> list[str]:
    """Kinds that begin like this, for the shell."""
    from chaos_core import faults as known

    return [kind for kind in known.kinds() if kind.startswith(incomplete)]


KindArgument = Annotated[str, typer.Argument(metavar="KIND", autocompletion=complete)]


def faults(
    kind: Annotated[str, typer.Argument(metavar="[KIND]", autocompletion=complete)] = "",
    schema: Annotated[
        bool, typer.Option("--schema", help="The JSON Schema of the parameters, for editors.")
    ] = False,
    form: OutputOption = Output.TABLE,
) -> None:
    """List the kinds of faults, or everything about one of them."""
    from chaos_core import catalogue
    from chaos_core import faults as known

    for problem in known.problems():
        output.note(problem)
    if schema:
        output.document(known.lookup(kind).model_json_schema() if kind else known.json_schema())
    elif kind:
        cls = known.lookup(kind)
        output.document(catalogue.describe(cls)) if form is Output.JSON else _show(cls)
    elif form is Output.JSON:
        output.document([catalogue.describe(cls) for cls in known.kinds().values()])
    else:
        output.table(
            ("KIND", "", "WHAT IT DOES"),
            [(c.kind, "risky" if c.risky else "", c.summary) for c in known.kinds().values()],
        )


def _show(cls: type[Fault]) -> None:
    from chaos_core import catalogue

    risky = "  (risky: asks first)" if cls.risky else ""
    typer.echo(f"{cls.kind}: {cls.summary}{risky}\n")
    output.table(
        ("PARAMETER", "TYPE", "DEFAULT", "MEANING"),
        [
            (one["name"], one["type"], catalogue.default(one), one["description"])
            for one in catalogue.parameters(cls)
        ],
    )
    typer.echo("")
    head, rows = catalogue.ceiling_table(cls)
    output.table([name.upper() for name in head], rows)
    typer.echo(f"\nended at the latest by: {cls.lease_holder}")
    for way, places in catalogue.hooks(cls).items():
        typer.echo(f"packets meet it{f' ({way})' * bool(way)} at: {', '.join(places)}")
    typer.echo(f"doctor must find: {', '.join(cls.needs) or 'nothing'}")
    typer.echo(f"example: {catalogue.example(cls)}")
