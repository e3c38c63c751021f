"""Databases and caches as targets: those that root has listed on the node, by name."""

from __future__ import annotations

import json
import re
from typing import Annotated

from pydantic import AfterValidator

from chaos_core.effects import LINK_PREFIX, Worker
from chaos_core.errors import Refused
from chaos_core.node import NodeView

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(f"{value!r} is not a name of the node's list, like shop or sessions")
    return value


ListedName = Annotated[str, AfterValidator(_name)]
"""The name of an entry in the node's agent.toml."""

OptionalListedName = Annotated[str, AfterValidator(lambda value: value and _name(value))]
"""The same where another parameter may stand in its place: empty is none given."""


def work(
    node: NodeView, fault_id: str, kind: str, service: str, program: str, **arguments: object
) -> Worker:
    """The worker of that program on a listed service. Raises Refused when it is not listed."""
    if service not in node.services:
        raise Refused(
            f"{service} is not on the list of {node.name}",
            where=kind,
            hint=f"root adds [{service}] to /etc/chaos/agent.toml there",
        )
    text = json.dumps({**arguments, "fault": fault_id}, sort_keys=True)
    return Worker(f"{LINK_PREFIX}{fault_id}-w", program, text, service)
