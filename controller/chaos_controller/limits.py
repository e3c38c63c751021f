"""How much one peer may send, hold open and make us keep. All of the controller's limits.

Message sizes and timeouts of connections are beside the channels
(``chaos_proto/channel.py``), those of ``keeper.sock`` in ``chaos_core/messages.py``.
An abort is limited by none of these as long as none is in force.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

# ── agents ──────────────────────────────────────────────────────────────────────────────

HELLO_WAIT_S: Final = 5.0
MAX_HELLO: Final = 128 * 1024  # bytes; the schemas of all kinds
MAX_HEARTBEAT: Final = 128 * 1024
MAX_KINDS: Final = 200  # in a hello
MAX_LABELS: Final = 32  # in a hello
MAX_OBSERVED: Final = 256  # in one message; a link sends 200 at most, five times a second
MAX_OFFERED: Final = 64  # hosts, commands or files in a hello
MAX_STATUSES: Final = 64  # in a heartbeat; a keeper tells of 32 at most
# An agent heartbeats each second and at each change; more than this is a flood.
MESSAGES_PER_S: Final = 20.0
MESSAGE_BURST: Final = 100.0
# Sessions of one node: a link dials again half a second after whatever went wrong.
SESSIONS_PER_S: Final = 2.0
SESSION_BURST: Final = 20.0
QUEUE: Final = 64  # messages that wait for one agent; a healthy one takes each at once

# ── operators and viewers ───────────────────────────────────────────────────────────────

MAX_REQUEST: Final = 64 * 1024  # bytes
CALLS_PER_S: Final = 50.0
CALL_BURST: Final = 200.0
CALLS_AT_ONCE: Final = 32  # of one actor, agents included
# Aborts of one actor while an abort is in force already.
ABORTS_PER_S: Final = 1.0
ABORT_BURST: Final = 20.0
MAX_NODES: Final = 1_000  # named by one request
MAX_REASON: Final = 500  # bytes of a free text
MAX_LISTED: Final = 1_000  # runs in one answer
RECORD_PART: Final = 64 * 1024  # signs of a record in one message
AUDIT_PAGE: Final = 500  # entries read at once
MAX_TOKEN_TTL_S: Final = 30 * 86_400
RELEASE_US: Final = 3_000_000  # for a node to look at itself and say so

# ── whoever has a certificate ───────────────────────────────────────────────────────────

RENEWALS_PER_S: Final = 1.0  # of one identity
RENEWAL_BURST: Final = 10.0

# ── what strangers can reach ────────────────────────────────────────────────────────────

MAX_CSR: Final = 8 * 1024
MAX_TOKEN: Final = 200
# Guessing 192 bits is hopeless; these keep one stranger from keeping us, or all others, busy.
ENROLMENTS_PER_S: Final = 10.0
ENROLMENT_BURST: Final = 50.0
ENROLMENTS_PER_S_OF_ONE: Final = 0.5
ENROLMENT_BURST_OF_ONE: Final = 10.0

# ── what is kept ────────────────────────────────────────────────────────────────────────

MAX_AUDITED: Final = 2_000  # bytes of a request or an outcome
REFUSALS_PER_S: Final = 1.0  # of one actor, in the audit log
REFUSAL_BURST: Final = 60.0
MAX_PEERS: Final = 4_096  # whose rates are remembered


@dataclass(slots=True)
class Bucket:
    """A token bucket without a clock: ``burst`` at once and ``rate`` a second in the long run."""

    rate: float
    burst: float
    level: float = 0.0  # how full it is: 0 lets a whole burst through
    last: int = 0

    def take(self, now: int) -> bool:
        """Whether one more may pass at ``now`` (µs)."""
        self.level = max(0.0, self.level - (now - self.last) * self.rate / 1_000_000)
        self.last = now
        if self.level + 1 > self.burst:
            return False
        self.level += 1
        return True


class Buckets:
    """One bucket for each peer; of the peers beyond ``most`` the longest silent is forgotten."""

    def __init__(self, rate: float, burst: float, most: int = MAX_PEERS) -> None:
        self._rate = rate
        self._burst = burst
        self._most = most
        self._of: OrderedDict[Hashable, Bucket] = OrderedDict()

    def take(self, peer: Hashable, now: int) -> bool:
        """Whether this peer may do one more at ``now`` (µs)."""
        bucket = self._of.setdefault(peer, Bucket(self._rate, self._burst))
        self._of.move_to_end(peer)
        if len(self._of) > self._most:
            self._of.popitem(last=False)
        return bucket.take(now)
