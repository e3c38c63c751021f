"""CPU time of one fault on a small host and on large ones: it should depend on the fault alone.

    .venv/bin/python bench/host_size.py [--rounds N]

Applies ``network.partition`` of one peer, inbound, with the keeper's engine, in a network namespace
on this host's kernel. The namespace first gets a number of nat rules (half of them IPv6), links
and routes. Medians of the process's CPU time, which other load on the machine hardly changes.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.latency.inside import network
from bench.latency.peers import call
from rich.console import Console
from rich.table import Table

from chaos_agent.config import AgentConfig
from chaos_agent.engine import Engine
from chaos_agent.journal import Journal
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.host import Host
from chaos_agent.offers import node_view
from chaos_core.envelope import PROFILES
from chaos_core.faults import parse
from chaos_core.lease import Lease

SIZES = ((0, 0, 0), (8_000, 220, 1_000), (30_000, 220, 4_000))
_PARTITION = {"peers": "10.9.0.2", "direction": "in"}
_LASTS = 60_000_000


def fill(rules: int, links: int, routes: int) -> None:
    """Make what somebody else has. Links are the two ends of wires."""
    for tool, form in (("iptables-legacy", "198.18.{}.{}/32"), ("ip6tables-legacy", "")):
        lines = (
            f"-A OUTPUT -d {form.format(n // 250, n % 250) if form else f'2001:db8::{n:x}'}"
            " -p tcp --dport 80 -j ACCEPT\n"
            for n in range(rules // 2)
        )
        if rules:
            call([f"{tool}-restore", "-n"], f"*nat\n{''.join(lines)}COMMIT\n")
    wires = (f"link add d{n} type veth peer name e{n}\nlink set d{n} up" for n in range(links // 2))
    ways = (f"route add 198.19.{n // 250}.{n % 250}/32 dev d0" for n in range(routes))
    call(["ip", "-batch", "-"], "\n".join([*wires, *ways, ""]))


def cost(work: Callable[[], object]) -> float:
    """Milliseconds of CPU time."""
    began = time.process_time()
    work()
    return 1000 * (time.process_time() - began)


def measure(rounds: int) -> list[tuple[float, float, float]]:
    """Apply, read back and revert, in each round."""
    config = AgentConfig(node="bench", envelope=PROFILES["lab"])
    found = []
    with tempfile.TemporaryDirectory() as state, Host() as host:
        engine = Engine(
            host, Journal(Path(state)), lambda fault: node_view(config, host, fault), now_us
        )
        fault = parse("network.partition", _PARTITION)
        for number in range(rounds + 2):
            now, name = now_us(), f"{number:08x}"
            lease = Lease(name, "r-bench", 1, now, now + _LASTS, now + _LASTS)
            applied = cost(partial(engine.start, "r-bench", fault, lease))
            checked = cost(partial(engine.check, engine.standing[name]))
            found.append((applied, checked, cost(partial(engine.end, name, "revert"))))
            assert not engine.standing, "something was left"
    return found[2:]  # the first ones import


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--size", type=int, help="measure only this row, in this namespace")
    asked = parser.parse_args()
    if asked.size is not None:
        with network():
            fill(*SIZES[asked.size])
            columns = zip(*measure(asked.rounds), strict=True)
            sys.stdout.write(" ".join(f"{statistics.median(one):.2f}" for one in columns))
        return
    table = Table(
        "nat rules, links, routes", "apply ms", "read back ms", "revert ms", "apply / small"
    )
    small = 0.0
    for number, size in enumerate(SIZES):
        words = ["unshare", "-n", sys.executable, "-m", "bench.host_size", "--size", str(number)]
        done = subprocess.run(
            [*words, "--rounds", str(asked.rounds)], stdout=subprocess.PIPE, text=True, check=True
        )
        apply, check, revert = map(float, done.stdout.split()[-3:])
        small = small or apply
        shown = f"{size[0]:,}, {size[1]}, {size[2]:,}"
        figures = (f"{one:.1f}" for one in (apply, check, revert))
        table.add_row(shown, *figures, f"{apply / small:.1f}")
    Console(highlight=False, width=100).print(table)


if __name__ == "__main__":
    main()
