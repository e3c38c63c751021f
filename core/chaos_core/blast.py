"""The blast radius: how many nodes may carry faults at once. The controller's rule.

A single agent cannot know about the others, so this is decided from the
controller's store, by the strictest envelope among all nodes involved.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from chaos_core.envelope import DEFAULT_PROFILE, PROFILES, Envelope
from chaos_core.errors import EnvelopeExceeded


def allowed_nodes(envelope: Envelope, fleet: int) -> int:
    """How many of ``fleet`` nodes may be faulted at once under this envelope.

    A minority is strictly less than half: 1 of 3, 2 of 5, 3 of 7; none of 1 or 2.
    """
    return {"one": 1, "minority": (fleet - 1) // 2, "all": fleet}[envelope.nodes]


def check(
    wanted: Collection[str],
    occupied: Collection[str],
    envelopes: Mapping[str, Envelope],
    fleet: int,
) -> None:
    """Raise EnvelopeExceeded if ``wanted`` and ``occupied`` together are too many nodes.

    ``occupied`` are nodes that carry a fault or might (a run whose end has not
    been confirmed). ``fleet`` counts the nodes that the controller knows. A node
    without an envelope has not said yet what it allows: it counts as production.
    """
    nodes = {*wanted, *occupied}
    for name in sorted(nodes):
        envelope = envelopes.get(name, PROFILES[DEFAULT_PROFILE])
        limit = allowed_nodes(envelope, fleet)
        if len(nodes) > limit:
            busy = f" ({', '.join(sorted(occupied))} already)" if occupied else ""
            raise EnvelopeExceeded(
                f"{len(nodes)} nodes at once{busy}; profile {envelope.profile}"
                f" on {name} allows {limit} of {fleet}",
                hint="wait for the running one to end, or abort it",
            )
