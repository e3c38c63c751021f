"""``chaosctl inject --dry-run``: the exact effects, and whether a profile would allow them.

Pure: nothing is sent, nothing is changed, and neither root nor a controller is
needed. The node is ``NodeView.example()``, so names of interfaces and marks are
those of an example; everything else is what an agent would do.
"""

from __future__ import annotations

from typing import Any

import typer

from chaos_core import blast, effects, envelope
from chaos_core.envelope import Draw, Envelope
from chaos_core.errors import EnvelopeExceeded, InvalidInput
from chaos_core.faults import Fault, nearest
from chaos_core.node import NodeView
from chaos_core.units import Duration
from chaosctl import output

FAULT_ID = "00000000"
_SHARES = ("latency", "loss", "cpu", "memory")


def show(
    fault: Fault, duration: Duration, nodes: list[str], profile: str, *, as_json: bool
) -> None:
    """Print the plan. Raises EnvelopeExceeded after it when the profile refuses."""
    name = profile or envelope.DEFAULT_PROFILE
    if name not in envelope.PROFILES:
        raise InvalidInput(f"unknown profile {name!r}", hint=nearest(name, envelope.PROFILES))
    limits = envelope.PROFILES[name]
    node = NodeView.example(fault.asks())
    done, draw = fault.compile(node, FAULT_ID), fault.draw().on(node.memory_total)
    refusal = _refusal(limits, draw, duration, nodes)
    if as_json:
        output.document(
            {
                "kind": fault.kind,
                "params": fault.model_dump(mode="json"),
                "nodes": nodes,
                "duration": str(duration),
                "profile": name,
                "allowed": refusal is None,
                "refusal": refusal.what if refusal else "",
                "draw": {
                    row[0]: {"asked": row[1], "ceiling": row[2]}
                    for row in _rows(limits, draw, duration)
                },
                "risky": fault.risky,
                "lease_holder": fault.lease_holder,
                "effects": [effects.to_json(effect) for effect in done],
            }
        )
    else:
        _print(fault, draw, duration, limits, done)
    if refusal:
        raise refusal


def _refusal(
    limits: Envelope, draw: Draw, duration: Duration, nodes: list[str]
) -> EnvelopeExceeded | None:
    try:
        envelope.check(limits, draw, duration)
        if limits.nodes == "one":  # the other rules need the size of the fleet
            blast.check(nodes, (), dict.fromkeys(nodes, limits), fleet=len(set(nodes)))
    except EnvelopeExceeded as error:
        return error
    return None


def _rows(limits: Envelope, draw: Draw, duration: Duration) -> list[tuple[str, str, str]]:
    """What is asked of each ceiling that this fault touches."""
    rows = [
        (what, str(getattr(draw, what)), str(getattr(limits, what)))
        for what in _SHARES
        if getattr(draw, what)
    ]
    longest = getattr(limits, f"duration_{draw.fault_class}", envelope.MAX_DURATION)
    if draw.fault_class == "destructive":
        rows.append(("destructive", "yes", "allowed" if limits.destructive else "refused"))
    return [*rows, ("duration", str(duration), str(longest))]


def _print(
    fault: Fault, draw: Draw, duration: Duration, limits: Envelope, done: tuple[effects.Effect, ...]
) -> None:
    typer.echo(f"Dry run of {fault.kind}, profile {limits.profile}: nothing is sent or changed.\n")
    rows: list[tuple[Any, ...]] = [*_rows(limits, draw, duration)]
    output.table(("DRAWS", ">ASKED", ">CEILING"), [*rows, ("nodes at once", "", limits.nodes)])
    typer.echo("\nEffects, in this order, on a node like the example (eth0, 4 CPUs, 8 GiB):")
    for effect in done:
        for line in effects.describe(effect).splitlines():
            typer.echo(f"  {line}")
    typer.echo(f"\nEnded at the latest by: {fault.lease_holder}")
    if fault.risky:
        typer.echo("Risky: asks before it starts (or --yes).")
