"""``chaosctl nodes``: who is there, what they carry, and why one is quarantined."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from chaosctl import output
from chaosctl.options import ControllerOption, Output, OutputOption, PkiOption, target

if TYPE_CHECKING:
    from chaos_proto.v1.chaos_pb2 import FaultStatus, ListNodesResponse, Node


def nodes(
    form: OutputOption = Output.TABLE, controller: ControllerOption = "", pki: PkiOption = None
) -> None:
    """List the nodes: state, profile, age of the last heartbeat, faults."""
    from chaosctl import client

    with client.operator(target(controller, pki)) as stub:
        answer = stub.ListNodes(client.chaos_pb2.ListNodesRequest(), timeout=client.ANSWER_S)
    if form is Output.JSON:
        output.document(output.message(answer))
    else:
        _show(answer)


app = typer.Typer(no_args_is_help=True, help="Act on one node.")


@app.command()
def release(
    node: Annotated[str, typer.Argument(metavar="NODE", help="The quarantined node.")],
    reason: Annotated[str, typer.Option(help="Why it is fine again. Required.")],
    form: OutputOption = Output.TABLE,
    controller: ControllerOption = "",
    pki: PkiOption = None,
) -> None:
    """Lift a node's quarantine. The node first checks that nothing of ours is on it."""
    from chaosctl import client

    request = client.chaos_pb2.ReleaseNodeRequest(node=node, reason=reason)
    with client.operator(target(controller, pki)) as stub:
        was = stub.ReleaseNode(request, timeout=client.ANSWER_S).was
    if form is Output.JSON:
        output.document({"node": node, "was": list(was)})
    elif was:
        typer.echo(f"{node} is released. It was quarantined for:")
        for difference in was:
            typer.echo(f"  {output.clean(difference)}")
    else:
        typer.echo(f"{node} was not quarantined; nothing changed.")


def _show(answer: ListNodesResponse) -> None:
    if answer.nodes:
        output.table(
            ("NODE", "STATE", "PROFILE", ">HEARTBEAT", "FAULTS"),
            [
                (node.name, node.state, node.profile, _age(node), _faults(node.faults))
                for node in answer.nodes
            ],
        )
    else:
        typer.echo("No node has ever connected. Make a token: chaosctl pki token agent/NAME")
    for node in answer.nodes:
        if node.quarantine:
            typer.echo(f"\n{output.clean(node.name)} is quarantined: it differs from its snapshot")
            for difference in node.quarantine:
                typer.echo(f"  {output.clean(difference)}")
            typer.echo("Looked at it? chaosctl node release NODE --reason TEXT")
    if answer.latch.set:
        latch = answer.latch
        said = f": {output.clean(latch.reason)}" if latch.reason else ""
        typer.echo(f"\nAborted by {output.clean(latch.actor)} at {latch.since}{said}")
        typer.echo("Nothing starts until: chaosctl resume --reason TEXT")


def _age(node: Node) -> str:
    return f"{node.heartbeat_age_s:.1f} s" if node.heartbeat_age_s >= 0 else "–"


def _faults(faults: Iterable[FaultStatus]) -> str:
    live = [fault for fault in faults if fault.state not in ("ended", "refused")]
    return ", ".join(f"{fault.kind} ({fault.state})" for fault in live) or "–"
