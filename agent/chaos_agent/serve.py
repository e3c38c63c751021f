"""The two resident processes of a node. Each loads only what it needs itself."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from chaos_agent import config as configuration
from chaos_core.log import Log

_EXAMPLE = {"peers": "192.0.2.1", "delay": "1ms"}  # RFC 5737


def keeper(path: Path) -> None:
    """Run the keeper until it is told to stop."""
    from chaos_agent import effects
    from chaos_agent.engine import Engine
    from chaos_agent.journal import Journal
    from chaos_agent.keeper import Keeper, Listener
    from chaos_agent.linux.boottime import now_us
    from chaos_agent.linux.host import Host
    from chaos_agent.offers import examine_host, hello, memory_total, node_view
    from chaos_agent.privilege import need_root, sole_keeper
    from chaos_agent.recover import recover
    from chaos_agent.supervisor import Supervisor
    from chaos_core.errors import ChaosError
    from chaos_core.faults import parse

    need_root()
    config = configuration.load(path)
    log = Log.to_stderr("keeper", node=config.node)
    with sole_keeper(config.runtime):
        host = Host(config.services)
        left = recover(host, config.state, now_us, log).difference
        journal = Journal(config.state)
        engine = Engine(host, journal, lambda fault: node_view(config, host, fault), now_us)
        supervisor = Supervisor(config, engine, log, memory_total())
        survived = journal.survived()
        supervisor.quarantine = supervisor.quarantine or left  # also when the disk is full
        # These load all that a fault will need: a lease must not wait for an import.
        effects.load()
        found = examine_host(host, config.hooks, config.services)
        with suppress(ChaosError):
            node_view(config, host, parse("network.latency", _EXAMPLE))
        for problem in found["problems"]:
            log.warning("a kind of fault is not offered", why=problem)
        Keeper(
            supervisor,
            lambda: hello(config, host, supervisor.leases.epoch, found["kinds"], survived),
            Listener(config.socket),
            now_us,
            log,
        ).run()


def link(path: Path) -> None:
    """Run the link until it is told to stop."""
    from chaos_agent.link import serve

    config = configuration.load(path)
    serve(config, Log.to_stderr("link", node=config.node))
