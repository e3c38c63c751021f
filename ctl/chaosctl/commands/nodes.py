"""``chaosctl nodes``: who is there, what they carry, and why one is quarantined."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from chaosctl import output
from chaosctl.options import (
    ControllerOption,
    Output,
    OutputOption,
    PkiOption,
    YesOption,
    target,
)

if TYPE_CHECKING:
    from chaos_proto.v1.chaos_pb2 import FaultStatus, ListNodesResponse, Node


def nodes(
    form: OutputOption = Output.TABLE, controller: ControllerOption = "", pki: PkiOption = None
) -> None:
    """List the nodes: state, profile, age of the last heartbeat, faults, old certificates."""
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


@app.command()
def forget(
    node: Annotated[str, typer.Argument(metavar="NODE", help="A node that has been retired.")],
    reason: Annotated[str, typer.Option(help="Kept in the audit log. Required.")],
    yes: YesOption = False,
    form: OutputOption = Output.TABLE,
    controller: ControllerOption = "",
    pki: PkiOption = None,
) -> None:
    """Forget a node that is gone for good, and revoke its certificates.

    It no longer counts in the fleet. It can come back by enrolling with a new token.
    """
    from chaosctl import client

    whom = target(controller, pki)
    if not yes:
        output.confirm(f"Forget {node} and revoke its certificates?")
    request = client.chaos_pb2.ForgetNodeRequest(node=node, reason=reason)
    with client.operator(whom) as stub:
        seen = stub.ForgetNode(request, timeout=client.ANSWER_S).seen
    if form is Output.JSON:
        output.document({"node": node, "seen": seen})
    else:
        typer.echo(f"{node} is forgotten; it last connected at {seen}.")


def remaining(expires: str) -> str:
    """``26 days`` until a moment in RFC 3339; hours, minutes when it is near."""
    import datetime as dt

    seconds = (dt.datetime.fromisoformat(expires) - dt.datetime.now(dt.UTC)).total_seconds()
    for size, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0, seconds):.0f} seconds"


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
    for line in _hits(answer.nodes):
        typer.echo(line)
    for node in answer.nodes:
        if node.quarantine:
            typer.echo(f"\n{output.clean(node.name)} is quarantined: it differs from its snapshot")
            for difference in node.quarantine:
                typer.echo(f"  {output.clean(difference)}")
            typer.echo("Looked at it? chaosctl node release NODE --reason TEXT")
    for node in answer.nodes:
        if node.certificate_old:
            typer.echo(f"\n{output.clean(node.name)} {_certificate(node)}")
    if answer.renew_before:
        left = remaining(answer.renew_before)
        output.note(f"\nYour own certificate expires in {left}: chaosctl pki renew")
    if answer.latch.set:
        latch = answer.latch
        said = f": {output.clean(latch.reason)}" if latch.reason else ""
        typer.echo(f"\nAborted by {output.clean(latch.actor)} at {latch.since}{said}")
        typer.echo("Nothing starts until: chaosctl resume --reason TEXT")


def _certificate(node: Node) -> str:
    if not node.certificate_expires:
        return (
            "has no certificate that holds: it has expired or was revoked.\n"
            f"Shall it come back? chaosctl pki token agent/{output.clean(node.name)}"
        )
    left = remaining(node.certificate_expires)
    return (
        f"has not renewed its certificate, which expires in {left}.\n"
        "Why? On the node: journalctl -u chaos-link"
    )


def _age(node: Node) -> str:
    return f"{node.heartbeat_age_s:.1f} s" if node.heartbeat_age_s >= 0 else "–"


def _hits(nodes: Iterable[Node]) -> list[str]:
    """What live faults have hit so far, two lines each, after an empty one."""
    from chaosctl import hitting

    lines = [
        f"{output.clean(node.name)}: {output.clean(fault.kind)}\n  {hitting.said(fault)}"
        for node in nodes
        for fault in _live(node.faults)
    ]
    return ["", *lines] if lines else []


def _live(faults: Iterable[FaultStatus]) -> list[FaultStatus]:
    return [fault for fault in faults if fault.state not in ("ended", "refused")]


def _faults(faults: Iterable[FaultStatus]) -> str:
    return ", ".join(f"{fault.kind} ({fault.state})" for fault in _live(faults)) or "–"
