"""Who may renew. Pure: what is known goes in, names of runs come out.

What it promises: after an abort nobody renews; a run that is being ended, or that
this controller does not know, is never named; a node is only told of runs whose
faults it says it has.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from chaos_controller.store import LatchRow
from chaos_proto.v1 import chaos_pb2 as pb

ACTIVE = frozenset({"applying", "in_force", "reverting"})
_RENEWABLE = frozenset({"applying", "in_force"})


@dataclass(slots=True)
class Authority:
    """What this controller may say. ``ttl`` in µs, moments in µs of CLOCK_BOOTTIME.

    ``settled_at``: until then leases of a former controller may still last.
    """

    epoch: int
    ttl: int
    latch: LatchRow | None = None
    latched_at: int = 0
    settled_at: int = 0


def renewable(
    authority: Authority, faults: Iterable[pb.FaultStatus], holding: Collection[str]
) -> tuple[str, ...]:
    """The runs on a node that may go on. ``holding`` are those there that are not being ended."""
    if authority.latch is not None:
        return ()
    found = {f.run for f in faults if f.state in _RENEWABLE and f.run in holding}
    return tuple(sorted(found))


def active(faults: Iterable[pb.FaultStatus]) -> tuple[pb.FaultStatus, ...]:
    """Those that are on the node now, or may be."""
    return tuple(fault for fault in faults if fault.state in ACTIVE)
