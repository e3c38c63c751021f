"""``chaosctl import FILE``: an experiment of Chaos Toolkit's as a scenario. Needs nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chaos_core.errors import InvalidInput
from chaosctl import output
from chaosctl.options import Output, OutputOption


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Chaos Toolkit's, JSON or YAML.")],
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FILE", help="Write it there; never over a file.")
    ] = None,
    form: OutputOption = Output.TABLE,
) -> None:
    """Make a scenario of an experiment of Chaos Toolkit's, as far as it maps.

    Prints the scenario, and tells line by line what is not in it and why.
    """
    from chaos_experiment.toolkit_import import convert

    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read it: {error}", where=str(file)) from None
    made = convert(text, str(file))
    if form is Output.TABLE:
        for each in made.left_out:
            output.note(f"not mapped: {each}")
    if made.nothing:
        raise InvalidInput(
            "nothing of it maps to a scenario",
            where=str(file),
            hint="docs/chaos-toolkit.md says what does",
        )
    if to is not None:
        _write(to, made.text())
    if form is Output.JSON:
        left_out = [
            {"where": each.where, "what": each.what, "why": each.why} for each in made.left_out
        ]
        output.document({"scenario": made.data, "not_mapped": left_out})
    elif to is None:
        typer.echo(made.text(), nl=False)
    else:
        output.note(f"{to} is written; check it: chaosctl validate {to}")


def _write(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InvalidInput(f"cannot write it: {error}", where=str(path)) from None
