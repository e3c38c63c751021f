"""CPU and memory, from the VM's own /proc."""

from __future__ import annotations

from chaos_lab.drill.context import Drill
from chaos_lab.drill.measure import Resources


def cpu(drill: Drill) -> None:
    """15 % of the whole node."""
    with Resources(drill.fleet, "n1") as resources:
        base, _ = resources.over(20)  # /proc/stat counts ticks: short windows are noisy
        with drill.fault("cpu.stress", "percent=15%", nodes=("n1",)):
            resources.over(1)
            loaded, _ = resources.over(45)
    taken = loaded - base
    drill.check(
        "cpu.accuracy", "P8", "15 ± 1 points of /proc/stat", taken, "points", 14 <= taken <= 16
    )


def memory(drill: Drill) -> None:
    """10 % of MemTotal."""
    total = memory_total(drill, "n1")
    with Resources(drill.fleet, "n1") as resources:
        _, base = resources.over(4)
        with drill.fault("memory.stress", "percent=10%", nodes=("n1",)):
            resources.over(1)
            _, left = resources.over(4)
    taken = 100 * (base - left) / total
    drill.check(
        "memory.accuracy",
        "P8",
        "10 ± 0.5 points of MemTotal",
        taken,
        "points",
        9.5 <= taken <= 10.5,
    )


def memory_total(drill: Drill, name: str) -> int:
    """MemTotal of a VM in bytes."""
    line = drill.fleet.exec(name, ["grep", "MemTotal", "/proc/meminfo"]).stdout
    return int(line.split()[1]) * 1024
