"""``chaosctl abort`` and ``resume``: the red button, and what lifts its latch."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Final

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
    from chaos_proto.v1.chaos_pb2 import AbortEvent, ListNodesResponse, Node
    from chaos_proto.v1.chaos_pb2_grpc import OperatorStub

# A starved node whose lease has run out may be heard again before it has read itself back.
_CATCH_UP_S: Final = 5.0
_POLL_S: Final = 0.2


def abort(
    reason: Annotated[str, typer.Option(help="Kept in the audit log.")] = "",
    form: OutputOption = Output.TABLE,
    controller: ControllerOption = "",
    pki: PkiOption = None,
) -> None:
    """End every fault on every node, now. Nothing starts again until `resume`.

    Asks nothing. Exits with 0 when every node is clean or its lease has certainly
    run out, with 1 when one of them differs from its snapshot or keeps reporting a fault.
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
    except KeyboardInterrupt:
        output.note("\nThe controller goes on with the abort if it was reached: chaosctl nodes")
        raise
    if not ok:
        raise typer.Exit(Exit.FAILED)


def _abort(whom: Target, reason: str, *, as_json: bool) -> bool:
    """Press the button and show each node; whether all of them are clean."""
    from chaosctl import client

    pb = client.chaos_pb2
    carried, total = 0, None
    with client.operator(whom) as stub:
        for event in stub.Abort(pb.AbortRequest(reason=reason)):
            carried += bool(event.node and event.carried_fault)
            if as_json:
                output.line(output.message(event))
            elif event.node:
                _node(event)
            if not event.node:
                total = event
        if total is None:
            raise client.lost(whom, "every node was clean")
        if not as_json:
            _total(total, carried)
        dirty = _not_clean(stub)
    for node in dirty:
        why = "; ".join(node.quarantine) or f"it still reports {', '.join(_carried(node))}"
        output.note(f"{node.name} is NOT clean: {why}")
    return not dirty


def _not_clean(stub: OperatorStub) -> list[Node]:
    """What is not clean, once all that may yet read themselves back had the time for it."""
    from chaosctl import client

    request = client.chaos_pb2.ListNodesRequest()
    until, told = time.monotonic() + _CATCH_UP_S, False
    while True:
        dirty = _dirty(stub.ListNodes(request, timeout=client.ANSWER_S))
        late = [node.name for node in dirty if not node.quarantine]
        if not late or time.monotonic() > until:
            return dirty
        if not told:
            told = True
            output.note(f"Waiting for {', '.join(late)} to be read back …")
        time.sleep(_POLL_S)


def _dirty(answer: ListNodesResponse) -> list[Node]:
    """Nodes that can be heard and are not clean; what is out of reach is ended by its lease."""
    return [
        node
        for node in answer.nodes
        if node.quarantine or (_carried(node) and node.state != "unreachable")
    ]


def _carried(node: Node) -> list[str]:
    return [
        f"{fault.kind} {fault.fault} ({fault.state})"
        for fault in node.faults
        if fault.state not in ("ended", "refused")
    ]


def _node(event: AbortEvent) -> None:
    fault = "" if event.carried_fault else "  (carried no fault)"
    how = event.detail or ("clean, read back" if event.confirmed else "its lease has run out")
    name, took = output.clean(event.node), _s(event.clean_after_us)
    typer.echo(f"{took:>8}  {name:16}  {output.clean(how)}{fault}")


def _total(event: AbortEvent, carried: int) -> None:
    nodes = {0: "No node", 1: "One node"}.get(carried, f"{carried} nodes")
    typer.echo(f"Aborted. {nodes} carried a fault; the slowest took {_s(event.clean_after_us)}.")
    if event.detail:
        typer.echo(output.clean(event.detail))


def _s(micros: int) -> str:
    return f"{micros / 1_000_000:.2f} s"


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
