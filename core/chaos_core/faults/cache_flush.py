"""Caches that are cold: the page cache, or a cache of the application's."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from chaos_core.effects import Effect, Flush
from chaos_core.envelope import Draw
from chaos_core.faults import Fault
from chaos_core.faults._hooks import OptionalHookName, run_hook
from chaos_core.faults._listed import OptionalListedName, work
from chaos_core.node import Asks, NodeView


class CacheFlush(Fault):
    """A cache is emptied, once. The duration is how long the run goes on watching afterwards.

    Without a name it is the kernel's: it drops what it can read again
    (``/proc/sys/vm/drop_caches``). Nothing is lost: pages that are not written yet stay.
    Reads go to the disks for a while, of every service on the node. It counts as applied
    when the kernel has counted it.

    With ``redis`` or ``memcached`` it is one of those that root has listed in the node's own
    agent.toml, which says that it may be emptied at any time, in every profile. What is in it
    is lost, also on Redis' disk: list none that is anybody's only copy, and mind sessions,
    queues and locks. It counts as applied when the service has counted it, and has said in
    the same transaction that nothing is left.

    With ``hook`` it is whatever cache a command empties that root has listed there.
    """

    kind = "cache.flush"
    summary = "empty the page cache, or one of a service"
    lease_holder = "nobody has to: it is over at once; a systemd timer runs a hook's undo, if any"
    example = "what=pagecache"
    risky = True
    needs: ClassVar[tuple[str, ...]] = ("drop-caches",)

    what: Literal["pagecache", "slab", "both"] = Field(
        default="pagecache", description="of the kernel's; slab: dentries and inodes"
    )
    redis: OptionalListedName = Field(
        default="", description="in its place: this Redis, by its name in agent.toml"
    )
    memcached: OptionalListedName = Field(
        default="", description="in its place: this memcached, by its name in agent.toml"
    )
    hook: OptionalHookName = Field(
        default="", description="in its place: run this hook, by its name in agent.toml"
    )
    scope: Literal["database", "server"] = Field(
        default="database", description="of Redis: FLUSHDB or FLUSHALL"
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        named = bool(self.redis) + bool(self.memcached) + bool(self.hook)
        if (self.what != "pagecache") + named > 1:
            raise ValueError("one cache at a time: what, redis, memcached or hook")
        if self.scope != "database" and not self.redis:
            raise ValueError("scope: says more about redis, which is not given")
        return self

    def draw(self) -> Draw:
        return Draw("hook")

    def asks(self) -> Asks:
        if self.redis:
            return Asks(service=f"redis.{self.redis}")
        if self.memcached:
            return Asks(service=f"memcached.{self.memcached}")
        if self.hook:
            return Asks(hook=self.hook)
        return Asks(flushes=True)

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        if self.hook:
            return run_hook(node, fault_id, self.hook, self.kind)
        service = self.asks().service
        if not service:
            return (Flush(self.what, *node.flushes),)
        what = "redis" if self.redis else "memcached"
        return (work(node, fault_id, self.kind, service, "flush", what=what, scope=self.scope),)
