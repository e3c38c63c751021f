"""CgroupLimit: a limit of a service's own cgroup, tightened and put back.

What somebody else has written meanwhile is theirs: it is told as not being in force, and
it stays. So does everything in a group that the service got by a new start.
"""

from __future__ import annotations

from chaos_agent.linux import limits
from chaos_agent.linux.host import Host
from chaos_core.effects import CgroupLimit
from chaos_core.errors import Unsupported


class CgroupLimitOps:
    def apply(
        self,
        host: Host,  # noqa: ARG002
        effect: CgroupLimit,
        expires_at_us: int,  # noqa: ARG002 - its UndoTimer's
        deadline_us: int | None = None,  # noqa: ARG002
    ) -> None:
        found = limits.read(effect)
        if found not in (effect.before, effect.value):
            raise Unsupported(f"{_name(effect)} has just become {found or 'another group'}")
        limits.write(effect, effect.value)

    def verify(self, host: Host, effect: CgroupLimit) -> str | None:  # noqa: ARG002
        found = limits.read(effect)
        if found is None:
            return f"{effect.unit} has been started anew, or has ended"
        return None if found == effect.value else f"{_name(effect)} is {found}"

    def renew(self, host: Host, effect: CgroupLimit, expires_at_us: int) -> None:
        """Nothing to do: the UndoTimer before it is renewed."""

    def revert(self, host: Host, effect: CgroupLimit) -> None:  # noqa: ARG002
        if limits.read(effect) == effect.value:
            limits.write(effect, effect.before)

    def absent(self, host: Host, effect: CgroupLimit) -> str | None:  # noqa: ARG002
        found = limits.read(effect)
        return f"{_name(effect)} is still {found}" if found == effect.value else None


def _name(effect: CgroupLimit) -> str:
    return f"{effect.unit}'s {effect.file} {effect.key}".rstrip()


OPS = CgroupLimitOps()
