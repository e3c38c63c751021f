"""``chaos-agent``: the programs of a node.

``run`` and ``link`` are started by systemd and stay resident, so they are
dispatched before the command-line library is imported, which would cost each of
them 16 MiB.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from chaos_core.errors import ChaosError, Exit

_RESIDENT = ("run", "link")


def run() -> None:
    """The console script. Errors of the operator end in one clear message and their exit code."""
    try:
        argv = sys.argv[1:]
        if argv[:1] and argv[0] in _RESIDENT and not {"-h", "--help"} & set(argv):
            _resident(argv[0], argv[1:])
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
    serve: dict[str, Callable[[Path], None]] = {"run": serve_keeper, "link": serve_link}
    serve[name](config)


def serve_keeper(path: Path) -> None:
    """Run the keeper until it is told to stop."""
    from chaos_agent import config as configuration
    from chaos_agent.engine import Engine
    from chaos_agent.journal import Journal
    from chaos_agent.keeper import Keeper, Listener, need_root, sole_keeper
    from chaos_agent.linux.boottime import now_us
    from chaos_agent.linux.host import Host
    from chaos_agent.offers import examine_host, hello, node_view
    from chaos_agent.supervisor import Supervisor
    from chaos_core.log import Log

    need_root()
    config = configuration.load(path)
    log = Log.to_stderr("keeper", node=config.node)
    with sole_keeper(config.runtime):
        host, journal = Host(), Journal(config.state)
        engine = Engine(host, journal, lambda: node_view(config, host), now_us)
        supervisor = Supervisor(config, engine, log)
        # Examining loads all that a fault will need: a lease must not wait for an import.
        offers = examine_host(host)["kinds"]
        Keeper(
            supervisor,
            lambda: hello(config, supervisor.leases.epoch, offers),
            Listener(config.socket),
            now_us,
            log,
        ).run()


def serve_link(path: Path) -> None:
    """Run the link until it is told to stop."""
    from chaos_agent import config as configuration
    from chaos_agent.link import serve
    from chaos_core.log import Log

    config = configuration.load(path)
    serve(config, Log.to_stderr("link", node=config.node))
