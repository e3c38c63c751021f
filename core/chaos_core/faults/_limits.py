"""Limits of a service's own cgroup: tighter than they are, and put back.

Destructive, though a limit takes nothing from the node: the envelope has no ceiling for
how slow a service may become, and below what it needs to work it is as good as down.
"""

from __future__ import annotations

from abc import ABC
from typing import ClassVar

from chaos_core.effects import CgroupLimit
from chaos_core.errors import InvalidInput, Refused
from chaos_core.faults._timed import LEASE_HOLDER
from chaos_core.faults._units import UnitFault
from chaos_core.node import Asks, CgroupFacts, NodeView

UNLIMITED = "max"
NO_OP = "so this would change nothing"


class LimitFault(UnitFault, ABC):
    """A fault that tightens one ``file`` of the service's top cgroup; groups below feel it too.

    Not to be outlived by the group: a service that is started anew is without the fault,
    which ends as disturbed. So it does when somebody, or systemd on a reload, writes
    another value.
    """

    file: ClassVar[str]
    beside: ClassVar[tuple[str, ...]] = ()  # what else of the group must be known
    lease_holder = LEASE_HOLDER
    risky = True

    def asks(self) -> Asks:
        return Asks(units=(self.unit,), limits=(self.file, *self.beside))

    def group(self, node: NodeView) -> CgroupFacts:
        """The service's cgroup. Raises Refused when it cannot be limited."""
        unit = self.target(node)
        if unit.cgroup is None:
            raise Refused(
                f"unit: {unit.id} has no cgroup of its own on {node.name}",
                where=self.kind,
                hint="this takes cgroup v2",
            )
        if self.file not in unit.cgroup.files:
            controller = self.file.partition(".")[0]
            raise Refused(
                f"unit: the cgroup of {unit.id} is without the {controller} controller",
                where=self.kind,
                hint=f"its slice must hand it out: any {controller} setting of a unit there does",
            )
        return unit.cgroup

    def limited(self, node: NodeView, before: str, value: str, key: str = "") -> CgroupLimit:
        """The effect."""
        group = self.group(node)
        return CgroupLimit(
            unit=self.target(node).id,
            group=group.path,
            inode=group.inode,
            file=self.file,
            key=key,
            before=before,
            value=value,
        )

    def tighter(self, node: NodeView, before: str, value: int, key: str = "") -> CgroupLimit:
        """The effect for a plain number. Raises InvalidInput when it is no tighter than before."""
        if before != UNLIMITED and int(before) <= value:
            what = f"{self.file} {key}".rstrip()
            raise InvalidInput(f"{what} is {before} already, {NO_OP}", where=self.kind)
        return self.limited(node, before, str(int(value)), key)
