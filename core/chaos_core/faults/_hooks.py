"""Commands of the operator's own, by the name that root has given them on the node."""

from __future__ import annotations

import re
from abc import ABC
from typing import Annotated, ClassVar

from pydantic import AfterValidator

from chaos_core.effects import LINK_PREFIX, Effect, Run
from chaos_core.envelope import Draw
from chaos_core.errors import Refused
from chaos_core.faults import Fault
from chaos_core.faults._timed import timed
from chaos_core.node import Asks, NodeView

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


def hook_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(f"{value!r} is not a hook's name, like gc or drain-queue")
    return value


def _optional(value: str) -> str:
    return hook_name(value) if value else ""


HookName = Annotated[str, AfterValidator(hook_name)]
OptionalHookName = Annotated[str, AfterValidator(_optional)]
"""The same where something else may stand in its place: empty is none given."""


def run_hook(node: NodeView, fault_id: str, name: str, kind: str) -> tuple[Effect, ...]:
    """The effects of a hook of the node, for a fault of that kind.

    Raises Refused when root has not listed it.
    """
    hook = node.hook
    if hook is None:
        raise Refused(
            f"hook: {name} is not on the list of {node.name}",
            where=kind,
            hint=f"root adds [hooks.{name}] to /etc/chaos/agent.toml there",
        )
    run = Run(
        name=f"{LINK_PREFIX}{fault_id}-hook",
        hook=hook.name,
        argv=hook.run,
        undo=hook.undo,
        user=hook.user,
        timeout=hook.timeout,
        boot=node.boot,
    )
    return timed(node, fault_id, run) if hook.undo else (run,)


class HookFault(Fault, ABC):
    """A fault that is a hook of the node; see ``hook_run.py`` for what it promises."""

    needs: ClassVar[tuple[str, ...]] = ("systemd", "hook")
    lease_holder = "nobody has to if it has no undo; else a systemd timer that runs it"
    risky = True
    hook: str

    def draw(self) -> Draw:
        return Draw("hook")

    def asks(self) -> Asks:
        return Asks(hook=self.hook)

    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        return run_hook(node, fault_id, self.hook, self.kind)
