"""Directories as targets: on which file systems a fault may write, and on which never."""

from __future__ import annotations

import re
from abc import ABC
from typing import Annotated

from pydantic import AfterValidator, Field

from chaos_core.envelope import Draw
from chaos_core.errors import InvalidInput, Refused
from chaos_core.faults import Fault
from chaos_core.node import DISKS, Asks, DirectoryFacts, NodeView
from chaos_core.units import ByteSize

_PATH = re.compile(r"/[^\0\n]{0,254}")


def _absolute(value: str) -> str:
    if not _PATH.fullmatch(value) or "/../" in f"{value}/":
        raise ValueError(f"{value[:64]!r} is not an absolute path, like /srv/data")
    return value.rstrip("/") or "/"


Directory = Annotated[str, AfterValidator(_absolute)]
"""A directory's path, from the root on."""


def reserve(total: int) -> int:
    """What is always left free of a file system, in bytes: 5 %, at least 256 MiB.

    It is counted with what only root can use (of ext4 that is 5 % as well): for everybody
    else such a disk is full.
    """
    return max(total // 20, 256 * 2**20)


class DiskFault(Fault, ABC):
    """A fault that keeps a file without a name in ``path``."""

    path: Directory = Field(description="a directory on the file system that is meant")
    system: bool = Field(
        default=False,
        description="even if it is the root file system, or has the agent's own state on it;"
        " in profiles staging and lab only",
    )

    def draw(self) -> Draw:
        return Draw("destructive")

    def asks(self) -> Asks:
        return Asks(directory=self.path)

    def target(self, node: NodeView) -> DirectoryFacts:
        """The directory on ``node``. Raises InvalidInput or Refused when it may not be used."""
        facts = node.directory
        if facts is None:
            raise InvalidInput(f"path: there is no {self.path} on {node.name}", where=self.kind)
        if facts.real != self.path:
            raise InvalidInput(
                f"path: {self.path} is a link, or behind one, to {facts.real}",
                where=self.kind,
                hint="name the directory itself",
            )
        if not facts.directory:
            raise InvalidInput(f"path: {self.path} is not a directory", where=self.kind)
        if facts.type not in DISKS:
            raise Refused(
                f"path: {self.path} is on {facts.type}, which is no disk of this machine's own"
                " that can be used",
                where=self.kind,
                hint=f"one of: {', '.join(DISKS)}",
            )
        if facts.system and not (self.system and node.profile in ("staging", "lab")):
            raise Refused(
                f"path: {self.path} is on the file system of {' and '.join(facts.system)}",
                where=self.kind,
                hint="system=true allows it, in profiles staging and lab",
            )
        if not facts.writable:
            raise Refused(
                f"path: the agent may not write in {self.path}",
                where=self.kind,
                hint="it must be root's, and writable for the agent's unit:"
                f" `systemctl edit chaos-agent`, [Service] ReadWritePaths={facts.mount}",
            )
        return facts

    def check_room(self, facts: DirectoryFacts, size: int) -> None:
        """Raise Refused unless the reserve stays free beside a file of that size."""
        least = reserve(facts.total)
        if facts.free - size < least:
            room = max(0, facts.free - least) // 2**20 * 2**20
            raise Refused(
                f"path: at most {ByteSize(room)} of {self.path} can be taken now;"
                f" {ByteSize(least // 2**20 * 2**20)} always stay free",
                where=self.kind,
            )
