"""The two resident processes of a node. Each loads only what it needs itself."""

from __future__ import annotations

from pathlib import Path

from chaos_agent import config as configuration
from chaos_core.log import Log


def keeper(path: Path) -> None:
    """Run the keeper until it is told to stop."""
    from chaos_agent.engine import Engine
    from chaos_agent.journal import Journal
    from chaos_agent.keeper import Keeper, Listener, need_root, sole_keeper
    from chaos_agent.linux.boottime import now_us
    from chaos_agent.linux.host import Host
    from chaos_agent.offers import examine_host, hello, node_view
    from chaos_agent.supervisor import Supervisor

    need_root()
    config = configuration.load(path)
    log = Log.to_stderr("keeper", node=config.node)
    with sole_keeper(config.runtime):
        host, journal = Host(), Journal(config.state)
        engine = Engine(host, journal, lambda fault: node_view(config, host, fault), now_us)
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


def link(path: Path) -> None:
    """Run the link until it is told to stop."""
    from chaos_agent.link import serve

    config = configuration.load(path)
    serve(config, Log.to_stderr("link", node=config.node))


def undo(texts: list[str]) -> None:
    """Revert effects, given as canonical JSON. Raises Residue, naming what is left.

    Several may do so at once, the keeper among them: every revert is idempotent.
    """
    from chaos_agent.effects import revert_all
    from chaos_agent.keeper import need_root
    from chaos_agent.linux.host import Host
    from chaos_core.effects import from_text
    from chaos_core.errors import Residue

    need_root()
    log = Log.to_stderr("undo")
    with Host() as host:
        left = revert_all(host, tuple(from_text(text) for text in texts))
    log.info("undone", effects=" ".join(texts), clean=not left)
    if left:
        raise Residue("; ".join(left))
