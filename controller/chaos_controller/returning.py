"""What a node says of a fault that takes it down: by coming back, or by not having gone.

A node is believed to have come through the reboot that it was told to do, and not through
somebody else's, when its boot is another one and its journal names the fault as what was on
it in the boot in which it was told.
"""

from __future__ import annotations

from chaos_controller.fleet import NodeSession
from chaos_core import run as core
from chaos_proto.v1 import chaos_pb2 as pb


def events(
    part: core.Node, status: pb.FaultStatus | None, session: NodeSession, boot: str, waited: int
) -> list[core.Event]:
    """What follows beside what follows for any fault; nothing: treat it as any.

    It was sent ``waited`` µs ago to the node in ``boot``.
    """
    now = session.hello.boot_id
    if now != boot:
        journaled = any((s.fault, s.boot) == (part.fault, boot) for s in session.hello.survived)
        told = f"boot {boot[:8]} → {now[:8]}"
        if not journaled:
            text = f"{told}, but its journal does not say that it was rebooted by this run"
            return [core.Ended(part.fault, "lost", not session.quarantine, text)]
        text = f"back after {waited / 1e6:.1f} s, {told}"
        detail = "; ".join([text, *session.quarantine])
        ended = core.Ended(part.fault, core.REBOOTED, not session.quarantine, detail)
        return [core.InForce(part.fault), ended]
    if status and status.state == "refused" and part.phase is core.NodePhase.IN_FORCE:
        # It was out of reach for another reason, and its refusal with it.
        return [core.Ended(part.fault, "refused", clean=True, detail=status.detail)]
    return []
