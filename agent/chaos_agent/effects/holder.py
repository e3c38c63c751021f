"""Holder: a child process in a capped cgroup that takes a resource until its lease ends.

The child's lease is a kernel timer, armed first of all; then it joins the cgroup,
whose caps are set already; then it works (see ``chaos_agent/holder.py``). ``apply``
does not wait for that: ``verify`` tells how far it is.
"""

from __future__ import annotations

import os
from contextlib import suppress

from chaos_agent.effects.counters import Counters
from chaos_agent.holder import FIRST_QUOTA_US
from chaos_agent.linux import children
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.cgroups import Caps
from chaos_agent.linux.host import Host
from chaos_core.effects import Holder
from chaos_core.envelope import MAX_DURATION
from chaos_core.errors import NotInForce, Unsupported
from chaos_core.hits import Hits

_MIB = 2**20
_LAG_US = 3_000_000  # how far behind its schedule a holder may be; a fifth of a long ramp
_CLEARLY_LESS = 0.8  # of the CPU time asked for; the start and the kernel's grain take a few %
_LEAST_OF_RATE = 0.5  # a device that gives less of the rate is too slow for it


class HolderOps:
    def apply(
        self, host: Host, effect: Holder, expires_at_us: int, deadline_us: int | None = None
    ) -> None:
        if host.children.running(effect.name) and self._caps_differ(host, effect) is None:
            return
        self.revert(host, effect)
        deadline_us = deadline(effect.name, expires_at_us, deadline_us)
        cgroups = host.cgroups.create(effect.name, _caps(effect))
        host.children.start(effect.name, _words(effect), expires_at_us, deadline_us, cgroups)

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
        return _shortfall(host, effect, pid)

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
        for pid in host.children.pids(effect.name):  # one that never got into its cgroup
            children.kill(pid)

    def absent(self, host: Host, effect: Holder) -> str | None:
        with suppress(Unsupported):
            if effect.name in host.cgroups.names():
                return f"cgroup {effect.name} is still there"
        pids = host.children.pids(effect.name)
        return f"holder {effect.name} still runs as {pids}" if pids else None

    def count(self, host: Host, effect: Holder, counters: Counters) -> Hits | None:  # noqa: ARG002
        pid = host.children.running(effect.name)
        return _taken(host, effect, pid) if pid is not None else None

    def _caps_differ(self, host: Host, effect: Holder) -> str | None:
        if not _raises_quota(effect):
            return host.cgroups.difference(effect.name, _caps(effect))
        quota = host.cgroups.quota(effect.name)
        if 0 < quota <= effect.cpu_quota:
            return None
        return f"the quota of cgroup {effect.name} is {quota or 'missing'}, not {effect.cpu_quota}"


def _shortfall(host: Host, effect: Holder, pid: int) -> str | None:
    """What the process has not yet taken, as read back from the kernel; None when all is there.

    While a ramp lasts, all is what is due by now, less a lag.
    """
    age = children.age_us(pid)
    match effect.work:
        case "burn":
            busy = children.threads(pid) - 1  # the main thread minds the lease
            if busy != effect.workers:
                return f"burning: {busy} of {effect.workers}"
            quota, due = host.cgroups.quota(effect.name), _due(effect, effect.cpu_quota, age)
            return None if quota >= due else f"quota: {quota} of {due} µs"
        case "hold":
            filled, due = children.anonymous(pid), _due(effect, effect.memory, age)
            if due - filled < _slack(effect.memory):
                return None
            return f"filling: {filled // _MIB} of {due // _MIB} MiB"
        case "cache":
            filled = children.nameless_bytes(pid) + children.anonymous(pid)
            due = _due(effect, effect.memory, age)
            if due - filled < _slack(effect.memory):
                return None
            return f"filling: {filled // _MIB} of {due // _MIB} MiB of page cache"
        case "churn":
            churned, due = children.touched_bytes(pid), effect.rate * age // 1_000_000
            if churned >= due * _LEAST_OF_RATE:
                return None
            return f"churned {churned} of {due} bytes: its share of the CPU is too small for more"
        case "fill":
            filled = children.nameless_bytes(pid)
            if filled >= effect.size:
                return None
            return f"filling: {filled // _MIB} of {effect.size // _MIB} MiB of disk"
        case "io":
            moved, due = children.moved_bytes(pid), effect.rate * age // 1_000_000
            if children.threads(pid) - 1 == effect.workers and moved >= due * _LEAST_OF_RATE:
                return None
            return f"moved {moved} of {due} bytes: the device is slower than the rate"
        case "files":
            opened = children.open_files(pid)
            return None if opened >= effect.count else f"opened: {opened} of {effect.count}"


def _taken(host: Host, effect: Holder, pid: int) -> Hits:
    """What the process has taken by now, and what it was to take."""
    age = children.age_us(pid)
    match effect.work:
        case "burn":
            return burnt(effect, host.cgroups.cpu_us(effect.name) or children.cpu_us(pid), age)
        case "hold":
            taken, asked = children.anonymous(pid), effect.memory
        case "cache":
            taken = children.nameless_bytes(pid) + children.anonymous(pid)
            asked = effect.memory
        case "churn":
            taken, asked = children.touched_bytes(pid), effect.rate * age // 1_000_000
        case "fill":
            taken, asked = children.nameless_bytes(pid), effect.size
        case "io":
            taken, asked = children.moved_bytes(pid), effect.rate * age // 1_000_000
        case "files":
            return Hits(count=children.open_files(pid), unit="files", asked=effect.count)
    return Hits(count=taken, unit="bytes", asked=asked)


def burnt(effect: Holder, got: int, age_us: int) -> Hits:
    """The CPU time got, and asked for in that time. Clearly less is told, as shares of the node."""
    ramp = min(age_us, effect.ramp)
    full = age_us - ramp + (ramp * ramp // (2 * effect.ramp) if effect.ramp else 0)
    asked = effect.cpu_quota * full // effect.cpu_period
    note = ""
    if age_us >= _LAG_US and got < asked * _CLEARLY_LESS:
        cpus = os.cpu_count() or 1
        shares = (100 * part / (age_us * cpus) for part in (asked, got))
        note = "asked {:.3g}% of the CPU, got {:.3g}%".format(*shares)
    return Hits(count=got, unit="cpu_us", asked=asked, note=note)


def _due(effect: Holder, whole: int, age_us: int) -> int:
    lag = max(_LAG_US, effect.ramp // 5)
    if not effect.ramp or age_us >= effect.ramp + lag:
        return whole
    return whole * max(0, age_us - lag) // effect.ramp


def _raises_quota(effect: Holder) -> bool:
    """Whether the holder itself raises its quota to what was asked, and never above."""
    return effect.work == "burn" and effect.ramp > 0


def _caps(effect: Holder) -> Caps:
    first = min(FIRST_QUOTA_US, effect.cpu_quota)
    return Caps(
        first if _raises_quota(effect) else effect.cpu_quota, effect.cpu_period, effect.memory_max
    )


def _words(effect: Holder) -> tuple[str | int, ...]:
    """What the holder is told to do; see ``chaos_agent/holder.py``."""
    place = (effect.directory, effect.device)
    match effect.work:
        case "burn":
            return ("burn", effect.workers, effect.ramp, effect.cpu_quota, effect.cpu_period)
        case "hold" | "cache":
            return (effect.work, effect.memory, effect.ramp)
        case "churn":
            return ("churn", effect.rate)
        case "fill":
            return ("fill", *place, effect.size, effect.reserve)
        case "io":
            return ("io", *place, effect.mode, effect.rate, effect.workers, effect.size)
        case "files":
            return ("files", effect.count, effect.reserve)


def _slack(size: int) -> int:
    """How much may be missing: half a per cent, at least 256 KiB of the interpreter's own ebb."""
    return max(256 * 1024, size // 200)


def deadline(name: str, expires_at_us: int, deadline_us: int | None) -> int:
    """When a process that is started now ends, whatever is granted to it.

    Raises NotInForce when its lease is over before it is started.
    """
    now = now_us()
    end = now + MAX_DURATION if deadline_us is None else deadline_us
    if min(expires_at_us, end) <= now:
        raise NotInForce("the lease is over", where=name, hint="apply under a new lease")
    return end


OPS = HolderOps()
