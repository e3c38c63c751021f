"""``chaos-agent undo EFFECT...``: what an undo timer of systemd's runs.

It must be quick, for the lease is over when it starts: it loads nothing that it does not
need. Several may do the same at once, the keeper among them: every revert is idempotent.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from chaos_agent.effects import revert_all
from chaos_agent.linux.host import Host
from chaos_core.effects import from_text
from chaos_core.errors import Residue
from chaos_core.log import Log


def undo(texts: Sequence[str]) -> None:
    """Revert effects, given as canonical JSON. Raises Residue, naming what is left."""
    log = Log.to_stderr("undo", node=os.uname().nodename)
    with Host() as host:
        left = revert_all(host, tuple(from_text(text) for text in texts))
    log.info("undone", effects=" ".join(texts), clean=not left)
    if left:
        raise Residue("; ".join(left))
