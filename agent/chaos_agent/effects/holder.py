"""Holder: a child process in a capped cgroup that takes CPU or memory until its lease ends.

The child's lease is a kernel timer, armed first of all; then it joins the cgroup,
whose caps are set already; then it works (see ``chaos_agent/holder.py``). ``apply``
does not wait for that: ``verify`` tells how far it is.
"""

from __future__ import annotations

from contextlib import suppress

from chaos_agent.linux import children
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.cgroups import Caps
from chaos_agent.linux.host import Host
from chaos_core.effects import Holder
from chaos_core.envelope import MAX_DURATION
from chaos_core.errors import NotInForce, Unsupported

_MIB = 2**20


class HolderOps:
    def apply(
        self, host: Host, effect: Holder, expires_at_us: int, deadline_us: int | None = None
    ) -> None:
        if host.children.running(effect.name) and self._caps_differ(host, effect) is None:
            return
        self.revert(host, effect)
        now = now_us()
        if deadline_us is None:
            deadline_us = now + MAX_DURATION
        if min(expires_at_us, deadline_us) <= now:
            raise NotInForce("the lease is over", where=effect.name, hint="apply under a new lease")
        count = effect.workers if effect.work == "burn" else effect.memory
        cgroups = host.cgroups.create(effect.name, _caps(effect))
        host.children.start(effect.name, effect.work, count, expires_at_us, deadline_us, cgroups)

    def verify(self, host: Host, effect: Holder) -> str | None:
        differs = self._caps_differ(host, effect)
        if differs:
            return differs
        pid = host.children.running(effect.name)
        if pid is None:
            return f"holder {effect.name} has no process"
        outside = host.cgroups.missing(effect.name, pid)
        if outside:
            return f"holder {effect.name} (process {pid}) is not in {outside[0]}"
        strangers = [other for other in host.cgroups.pids(effect.name) if other != pid]
        if strangers:
            return f"cgroup {effect.name} has processes {strangers} that are not ours"
        if children.stopped(pid):
            return f"holder {effect.name}: process {pid} is stopped"
        if effect.work == "burn":
            busy = children.threads(pid) - 1  # the main thread minds the lease
            return None if busy == effect.workers else f"burning: {busy} of {effect.workers}"
        filled = children.anonymous(pid)
        if effect.memory - filled < _slack(effect.memory):
            return None
        return f"filling: {filled // _MIB} of {effect.memory // _MIB} MiB"

    def renew(self, host: Host, effect: Holder, expires_at_us: int) -> None:
        if not host.children.renew(effect.name, expires_at_us):
            raise NotInForce(
                f"not renewed: holder {effect.name} has ended",
                where=effect.name,
                hint="a lapsed lease takes a new apply",
            )

    def revert(self, host: Host, effect: Holder) -> None:
        host.children.stop(effect.name)
        with suppress(Unsupported):  # no cgroups at all: then none of ours
            host.cgroups.destroy(effect.name)
        host.children.reap(effect.name)
        for pid, name in children.find().items():  # one that never got into its cgroup
            if name == effect.name:
                children.kill(pid)

    def absent(self, host: Host, effect: Holder) -> str | None:
        with suppress(Unsupported):
            if effect.name in host.cgroups.names():
                return f"cgroup {effect.name} is still there"
        pids = [pid for pid, name in children.find().items() if name == effect.name]
        return f"holder {effect.name} still runs as {pids}" if pids else None

    def _caps_differ(self, host: Host, effect: Holder) -> str | None:
        return host.cgroups.difference(effect.name, _caps(effect))


def _caps(effect: Holder) -> Caps:
    return Caps(effect.cpu_quota, effect.cpu_period, effect.memory_max)


def _slack(size: int) -> int:
    """How much may be missing: half a per cent, at least 256 KiB of the interpreter's own ebb."""
    return max(256 * 1024, size // 200)


OPS = HolderOps()
