"""Network faults, measured on other VMs."""

from __future__ import annotations

import time

from chaos_lab.drill.context import Drill
from chaos_lab.drill.measure import Pings, connect_ms, delayed, loss_percent
from chaos_lab.provision import MAIN_PORT


def latency(drill: Drill) -> None:
    """50 ms to the chosen peer, nothing to anybody else."""
    fleet, n1 = drill.fleet, drill.ip("n1")
    controller = drill.ip("controller")

    def bystanders() -> dict[str, float]:
        with Pings(fleet, "n3", n1) as pings:
            other = pings.median(2)
        return {
            "a peer not chosen": other,
            "SSH port, from the chosen peer": connect_ms(fleet, "n2", n1, 22),
            "the agent's channel": connect_ms(fleet, "n1", controller, MAIN_PORT),
        }

    before = bystanders()
    with Pings(fleet, "n2", n1) as pings:
        base = pings.median(3)
        with drill.fault("network.latency", f"peers={drill.ip('n2')}", "delay=50ms", nodes=("n1",)):
            added = pings.median(4) - base
            during = bystanders()
    drill.check(
        "latency.accuracy",
        "P8",
        "RTT +50 ± 2 ms to the chosen peer",
        added,
        "ms",
        48 <= added <= 52,
    )
    shift = {name: during[name] - before[name] for name in before}
    worst = max(shift, key=lambda name: abs(shift[name]))
    drill.check(
        "latency.bystander",
        "P5",
        "others, SSH, agent's channel: < 2 ms",
        shift[worst],
        f"ms ({worst})",
        abs(shift[worst]) < 2,
    )


def loss(drill: Drill) -> None:
    """1 % of at least 20,000 packets."""
    with drill.fault(
        "network.loss", f"peers={drill.ip('n2')}", "percent=1%", nodes=("n1",), seconds=60
    ):
        sent, percent = loss_percent(drill.fleet, "n2", drill.ip("n1"), 25_000, 45)
    drill.check(
        "loss.accuracy",
        "P8",
        "0.7–1.3 % of ≥ 20,000 packets",
        percent,
        f"% of {sent}",
        0.7 <= percent <= 1.3 and sent >= 20_000,
    )


def duration(drill: Drill) -> None:
    """A 10 s fault is gone at 10–11 s, on the wire, counted from the moment it was asked for."""
    with Pings(drill.fleet, "n2", drill.ip("n1"), interval=0.02) as pings:
        run = drill.inject(
            "network.latency", f"peers={drill.ip('n2')}", "delay=50ms", nodes=("n1",), seconds=10
        )
        asked = run.reached("inject")
        run.reached("observe")
        time.sleep(max(0, asked + 9 - time.monotonic()))
        gone = pings.clean_after(asked, delayed(25), timeout=20)
        code = run.wait()
    drill.check(
        "duration.ends",
        "P2",
        "a 10 s fault is gone at 10–11 s",
        gone,
        "s",
        9.95 <= gone <= 11 and code == 0,
    )
