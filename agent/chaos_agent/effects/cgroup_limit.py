"""CgroupLimit: a limit of a service's own cgroup, tightened and put back.

What somebody else has written meanwhile is theirs: it is told as not being in force, and
it stays. So does everything in a group that the service got by a new start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chaos_agent.linux import limits
from chaos_agent.linux.host import Host
from chaos_core.effects import CgroupLimit
from chaos_core.errors import Unsupported

if TYPE_CHECKING:  # an undo loads no more than it needs
    from chaos_core.hits import Hits, Unit

# Where the kernel counts how often a limit held something up. Of io.max it counts nothing.
_EVENTS: dict[str, tuple[str, str, Unit]] = {
    "cpu.max": ("cpu.stat", "nr_throttled", "throttled periods"),
    "memory.high": ("memory.events", "high", "reclaims"),
    "memory.max": ("memory.events", "max", "reclaims"),
    "pids.max": ("pids.events", "max", "refused forks"),
}


class CgroupLimitOps:
    def apply(
        self,
        host: Host,
        effect: CgroupLimit,
        expires_at_us: int,  # noqa: ARG002 - its UndoTimer's
        deadline_us: int | None = None,  # noqa: ARG002
    ) -> None:
        found = limits.read(effect)
        if found not in (effect.before, effect.value):
            raise Unsupported(f"{_name(effect)} has just become {found or 'another group'}")
        host.limits.write(effect, effect.value)

    def verify(self, host: Host, effect: CgroupLimit) -> str | None:
        host.limits.look(effect)
        found = limits.read(effect)
        if found is None:
            return f"{effect.unit} has been started anew, or has ended"
        return None if found == effect.value else f"{_name(effect)} is {found}"

    def renew(self, host: Host, effect: CgroupLimit, expires_at_us: int) -> None:
        """Nothing to do: the UndoTimer before it is renewed."""

    def revert(self, host: Host, effect: CgroupLimit) -> None:
        host.limits.stop(effect)
        if limits.read(effect) == effect.value:
            host.limits.write(effect, effect.before)

    def absent(self, host: Host, effect: CgroupLimit) -> str | None:  # noqa: ARG002
        found = limits.read(effect)
        return f"{_name(effect)} is still {found}" if found == effect.value else None

    def events(self, host: Host, effect: CgroupLimit) -> Hits | None:  # noqa: ARG002
        from chaos_core.hits import Hits

        if effect.file not in _EVENTS:
            return None
        file, key, unit = _EVENTS[effect.file]
        count = limits.event(effect, file, key)
        return None if count is None else Hits(count=count, unit=unit)


def _name(effect: CgroupLimit) -> str:
    return f"{effect.unit}'s {effect.file} {effect.key}".rstrip()


OPS = CgroupLimitOps()
