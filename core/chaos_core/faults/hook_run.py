"""A fault of the operator's own making."""

from __future__ import annotations

from pydantic import Field

from chaos_core.faults._hooks import HookFault, HookName


class HookRun(HookFault):
    """What ``[hooks.NAME]`` in the node's own ``/etc/chaos/agent.toml`` says, and nothing else:
    no word of it comes over the wire. (Whoever is on the node can read its words: no secrets.)

    systemd runs ``run`` without a shell as ``user``, and cuts it off after ``timeout``; it
    counts as applied when it has ended with 0. ``undo`` is run at the end, and by systemd
    when the lease runs out; also when ``run`` failed, and after a reboot in between. So it
    must do no harm where there is nothing to undo, and end within a second: a node whose
    undo fails, or lasts longer, is quarantined. Since root has put it on the list, it is
    allowed in every profile.
    """

    kind = "hook.run"
    summary = "run a command of the node's own list"
    example = "hook=drain-queue"

    hook: HookName = Field(description="its name in the node's agent.toml")
