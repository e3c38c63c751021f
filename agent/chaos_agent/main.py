"""``chaos-agent``: the programs of a node.

``run`` and ``link`` are started by systemd and stay resident, so they are
dispatched before the command-line library is imported, which would cost each of
them 16 MiB. So is ``undo``, which systemd's timers run, and which has to be quick.
"""

from __future__ import annotations

import sys
from pathlib import Path

from chaos_core.effects import UNDO
from chaos_core.errors import ChaosError, Exit

_RESIDENT = ("run", "link")


def run() -> None:
    """The console script. Errors of the operator end in one clear message and their exit code."""
    try:
        argv = sys.argv[1:]
        if argv[:1] and argv[0] in _RESIDENT and not {"-h", "--help"} & set(argv):
            _resident(argv[0], argv[1:])
        elif argv[:1] == [UNDO]:
            from chaos_agent.undo import undo

            undo(argv[1:])
        else:
            from chaos_agent.cli import app

            app(prog_name="chaos-agent")
    except ChaosError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit)


def _resident(name: str, options: list[str]) -> None:
    config = Path("/etc/chaos/agent.toml")
    match options:
        case []:
            pass
        case ["--config", path]:
            config = Path(path)
        case _:
            print(f"error: usage: chaos-agent {name} [--config FILE]", file=sys.stderr)
            sys.exit(Exit.INVALID)
    from chaos_agent import serve

    (serve.keeper if name == "run" else serve.link)(config)


if __name__ == "__main__":
    run()
