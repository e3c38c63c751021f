"""Effects that the kernel cannot time out, and who ends them all the same."""

from __future__ import annotations

from chaos_core.effects import LINK_PREFIX, Effect, UndoTimer, to_text
from chaos_core.errors import Refused
from chaos_core.node import NodeView

LEASE_HOLDER = "a systemd timer that runs out with the lease, armed before anything is done"


def timed(node: NodeView, fault_id: str, *effects: Effect) -> tuple[Effect, ...]:
    """The effects under an UndoTimer.

    Without systemd nobody would end them when the agent is dead: Refused, except in
    profile ``lab``, where they go without.
    """
    if node.systemd:
        undo = tuple(to_text(effect) for effect in effects)
        return (UndoTimer(f"{LINK_PREFIX}{fault_id}", undo), *effects)
    if node.profile == "lab":
        return effects
    raise Refused(
        f"there is no systemd on {node.name}, so nobody would end this if the agent died",
        hint="only profile lab does without",
    )
