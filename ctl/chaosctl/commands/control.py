"""``chaosctl abort`` and ``resume``: the red button, and what lifts its latch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from chaos_core.errors import ControllerUnreachable, Exit
from chaosctl import output
from chaosctl.options import (
    ControllerOption,
    Output,
    OutputOption,
    PkiOption,
    Target,
    target,
)

if TYPE_CHECKING:
    from chaos_proto.v1.chaos_pb2 import AbortEvent


def abort(
    reason: Annotated[str, typer.Option(help="Kept in the audit log.")] = "",
    form: OutputOption = Output.TABLE,
    controller: ControllerOption = "",
    pki: PkiOption = None,
) -> None:
    """End every fault on every node, now. Nothing starts again until `resume`.

    Asks nothing. Exits with 0 when every node is clean or its lease has certainly
    run out, with 1 when one of them differs from its snapshot.
    """
    whom = target(controller, pki)
    try:
        ok = _abort(whom, reason, as_json=form is Output.JSON)
    except ControllerUnreachable as error:
        raise ControllerUnreachable(
            error.what,
            where=error.where,
            hint="if it is down, every fault ends by its lease within 5 s; if only you cannot"
            " reach it, stop chaos-controller on its host: that ends them as well",
        ) from error
    if not ok:
        raise typer.Exit(Exit.FAILED)


def _abort(whom: Target, reason: str, *, as_json: bool) -> bool:
    """Press the button and show each node; whether all of them are clean."""
    from chaosctl import client

    pb = client.chaos_pb2
    carried = total = 0
    complete = False
    with client.operator(whom) as stub:
        for event in stub.Abort(pb.AbortRequest(reason=reason)):
            carried += bool(event.node and event.carried_fault)
            if as_json:
                output.line(output.message(event))
            elif event.node:
                _node(event)
            if not event.node:
                total, complete = event.clean_after_us, True
        if not complete:
            raise client.lost(whom, "every node was clean")
        answer = stub.ListNodes(pb.ListNodesRequest(), timeout=client.ANSWER_S)
    dirty = [node for node in answer.nodes if node.quarantine or node.state == "quarantined"]
    if not as_json:
        typer.echo(f"Aborted: {_count(carried)} carried faults; all ended within {_s(total)}.")
        typer.echo("Nothing starts until: chaosctl resume --reason TEXT")
    for node in dirty:
        output.note(f"{node.name} is quarantined: {'; '.join(node.quarantine)}")
    return not dirty


def _node(event: AbortEvent) -> None:
    how = "clean, read back" if event.confirmed else "out of reach, its lease has run out"
    if not event.carried_fault:
        how = "carried nothing" if event.confirmed else f"carried nothing we know of; {how}"
    detail = f" ({output.clean(event.detail)})" if event.detail else ""
    typer.echo(f"{_s(event.clean_after_us):>8}  {output.clean(event.node):16}  {how}{detail}")


def _s(micros: int) -> str:
    return f"{micros / 1_000_000:.2f} s"


def _count(number: int) -> str:
    return {0: "no node", 1: "one node"}.get(number, f"{number} nodes")


def resume(
    reason: Annotated[str, typer.Option(help="Why it is safe again. Required.")],
    form: OutputOption = Output.TABLE,
    controller: ControllerOption = "",
    pki: PkiOption = None,
) -> None:
    """Lift the latch of an abort, so that faults can start again."""
    from chaosctl import client

    with client.operator(target(controller, pki)) as stub:
        request = client.chaos_pb2.ResumeRequest(reason=reason)
        was = stub.Resume(request, timeout=client.ANSWER_S).was
    if form is Output.JSON:
        output.document({"was": output.message(was)})
    elif was.set:
        said = f": {output.clean(was.reason)}" if was.reason else ""
        typer.echo(f"Resumed. Aborted by {output.clean(was.actor)} at {was.since}{said}")
    else:
        typer.echo("Nothing was aborted; nothing changed.")
