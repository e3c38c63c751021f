"""Flush: the kernel drops caches, which it counts."""

from __future__ import annotations

from chaos_agent.effects._at_once import AtOnce
from chaos_agent.effects.counters import Counters
from chaos_agent.linux import caches
from chaos_agent.linux.host import Host
from chaos_core.effects import Flush
from chaos_core.hits import Hits

_BITS = {"pagecache": 1, "slab": 2, "both": 3}


class FlushOps(AtOnce):
    def apply(
        self,
        host: Host,  # noqa: ARG002
        effect: Flush,
        expires_at_us: int,  # noqa: ARG002
        deadline_us: int | None = None,  # noqa: ARG002
    ) -> None:
        caches.drop(_BITS[effect.what])

    def verify(self, host: Host, effect: Flush) -> str | None:  # noqa: ARG002
        pages, slab = caches.flushes()
        bits = _BITS[effect.what]
        if (bits & 1 and pages == effect.pages) or (bits & 2 and slab == effect.slab):
            return "the kernel has not dropped its caches yet"
        return None

    def count(self, host: Host, effect: Flush, counters: Counters) -> Hits:  # noqa: ARG002
        return Hits(count=1, unit="flushes")


OPS = FlushOps()
