"""A service that collects its garbage."""

from __future__ import annotations

from pydantic import Field

from chaos_core.faults._hooks import HookFault, HookName


class GcPressure(HookFault):
    """A hook that makes a runtime collect garbage, such as ``jcmd PID GC.run``.

    (A runtime that collects on a signal: ``process.kill`` with ``signal=USR1``.)
    """

    kind = "gc.pressure"
    summary = "make a service collect garbage, by a hook"
    example = "hook=gc"

    hook: HookName = Field(default="gc", description="its name in the node's agent.toml")
