"""CPU and memory, as the VM's own kernel counts them."""

from __future__ import annotations

from chaos_lab.drill.context import Drill
from chaos_lab.drill.measure import Resources

_CPU_S = 30
# What the fault's own cgroup has had, and the time: not what is left of the whole node when what
# else it does is taken off, which changes from one moment to the next.
_CPU = f"""
import glob, os, time
def used():
    (group,) = glob.glob("/sys/fs/cgroup/**/chs-*/cpu.stat", recursive=True)
    lines = open(group).read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("usage_usec"))
def now():
    return time.clock_gettime(time.CLOCK_BOOTTIME)
before, began = used(), now()
time.sleep({_CPU_S})
spent, passed = used() - before, now() - began
print(spent / passed / 1e4 / os.cpu_count())
"""


def cpu(drill: Drill) -> None:
    """15 % of the whole node."""
    with drill.fault("cpu.stress", "percent=15%", nodes=("n1",)):
        said = drill.fleet.exec("n1", ["python3", "-c", _CPU], timeout=_CPU_S + 30)
    taken = float(said.stdout)
    drill.check(
        "cpu.accuracy", "P8", "15 ± 1 points by cpu.stat", taken, "points", 14 <= taken <= 16
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
