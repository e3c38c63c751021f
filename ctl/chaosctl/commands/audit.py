"""``chaosctl audit``: who did what, and whether the log is whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from chaos_core.errors import Exit, InvalidInput
from chaosctl import output
from chaosctl.options import ControllerOption, Output, OutputOption, PkiOption, Target, target

if TYPE_CHECKING:
    from collections.abc import Iterator

app = typer.Typer(no_args_is_help=True, help="Show the audit log, or check that it is whole.")


@app.command("list")
def show(
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest ones.")] = 20,
    form: OutputOption = Output.TABLE,
    controller: ControllerOption = "",
    pki: PkiOption = None,
) -> None:
    """Show the newest entries, oldest first."""
    entries = list(_entries(target(controller, pki)))[-limit:]
    if form is Output.JSON:
        output.document({"entries": entries})
        return
    rows = [(e["time"], e["actor"], e["action"], e["decision"], e["outcome"]) for e in entries]
    output.table(("TIME", "ACTOR", "ACTION", "DECISION", "OUTCOME"), rows)


@app.command()
def verify(
    head: Annotated[
        str, typer.Option(help="NUMBER:HASH noted earlier, which must still be in the log.")
    ] = "",
    form: OutputOption = Output.TABLE,
    controller: ControllerOption = "",
    pki: PkiOption = None,
) -> None:
    """Check every entry against the one before; exit 1 at the first that does not follow.

    Note the number and hash that it prints somewhere else, and pass them as --head
    the next time: then a log whose end was cut off is found out as well.
    """
    from chaos_core.audit import FIRST
    from chaos_core.audit import verify as first_broken

    noted = _noted(head) if head else None
    entries = list(_entries(target(controller, pki)))
    broken = first_broken(entries)
    problem = f"entry {broken} was edited, removed or reordered" if broken else ""
    if not problem and noted and noted not in [(e["number"], e["hash"]) for e in entries]:
        problem = f"entry {noted[0]} is no longer what was noted: the log was cut off or rewritten"
    last = entries[-1]["hash"] if entries else FIRST
    if form is Output.JSON:
        output.document(
            {"intact": not problem, "entries": len(entries), "head": last, "problem": problem}
        )
    else:
        typer.echo(problem or f"{len(entries)} entries, intact. Head: {len(entries)}:{last}")
    if problem:
        raise typer.Exit(Exit.FAILED)


def _entries(whom: Target) -> Iterator[dict[str, Any]]:
    from chaosctl import client

    names = [field.name for field in client.chaos_pb2.AuditEntry.DESCRIPTOR.fields]
    with client.operator(whom) as stub:
        for entry in stub.ListAudit(client.chaos_pb2.ListAuditRequest(), timeout=client.ANSWER_S):
            yield {name: getattr(entry, name) for name in names}


def _noted(text: str) -> tuple[int, str]:
    number, _, digest = text.partition(":")
    if not number.isdigit() or len(digest) != 64:
        raise InvalidInput(
            f"--head: {text!r} is not NUMBER:HASH", hint="as `audit verify` printed it"
        )
    return int(number), digest
