"""What ``cpu.stress``, ``memory.stress`` and ``io.stress`` take, beside stress-ng.

    .venv/bin/python bench/stress.py [--rounds N] [--seconds S]

Both are measured in the same way and in turn: the CPU time, the pages and the bytes moved
that the kernel counts for the processes at work, so that what else goes on here changes
what they get, but not what is counted. On this host's own kernel, as root.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from chaos_agent.config import AgentConfig
from chaos_agent.effects import ops
from chaos_agent.linux import children
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.host import Host
from chaos_agent.offers import node_view
from chaos_core import faults
from chaos_core.envelope import PROFILES
from chaos_core.units import ByteSize

PLACE = Path(__file__).resolve().parents[1] / ".lab" / "cache" / "bench"
MIB = 2**20
_LEASE_US = 120_000_000
_console = Console(highlight=False, width=110)
Pids = Callable[[], list[int]]


# ── the two at work ───────────────────────────────────────────────────────────────────────


@contextmanager
def ours(kind: str, **params: str) -> Iterator[Pids]:
    """A fault of ours, by its effect alone; the pids that do it."""
    config = AgentConfig("bench", envelope=PROFILES["lab"])
    fault = faults.parse(kind, params)
    with Host() as host:
        effect: Any
        (effect,) = fault.compile(node_view(config, host, fault), "0be2c400")
        ops(effect).apply(host, effect, now_us() + _LEASE_US)
        try:
            _await(lambda: host.cgroups.pids(effect.name) != [])
            yield lambda: host.cgroups.pids(effect.name)
        finally:
            ops(effect).revert(host, effect)


@contextmanager
def theirs(*words: str) -> Iterator[Pids]:
    """stress-ng; the pids of it and its children."""
    argv = ["stress-ng", "--quiet", "--temp-path", str(PLACE), *words]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as process:
        try:
            known = psutil.Process(process.pid)
            yield lambda: [known.pid, *(child.pid for child in known.children(recursive=True))]
        finally:
            process.terminate()


def _await(met: Callable[[], bool], seconds: float = 30) -> float:
    """Wait for something; how long that took."""
    began = time.monotonic()
    while not met():
        if time.monotonic() > began + seconds:
            raise SystemExit("waited in vain: is this machine busy, or the disk slow?") from None
        time.sleep(0.005)
    return time.monotonic() - began


# ── what they take ────────────────────────────────────────────────────────────────────────


def cpu_seconds(pids: list[int]) -> float:
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def anonymous(pids: list[int]) -> int:
    return sum(map(children.anonymous, pids))


def moved(pids: list[int]) -> int:
    return sum(map(children.moved_bytes, pids))


def share_of_cpu(pids: Pids, seconds: float) -> float:
    """Per cent of the whole machine."""
    _await(lambda: cpu_seconds(pids()) > 0.05)
    before, began = cpu_seconds(pids()), time.monotonic()
    time.sleep(seconds)
    used = cpu_seconds(pids()) - before
    return 100 * used / (time.monotonic() - began) / (os.cpu_count() or 1)


def most_memory(pids: Pids, seconds: float) -> float:
    """MiB in the end, when no more comes."""
    time.sleep(min(seconds, 3))
    return anonymous(pids()) / MIB


def rate_of_io(pids: Pids, seconds: float) -> tuple[float, float]:
    """MiB a second, and CPU seconds for each GiB."""
    _await(lambda: moved(pids()) > 4 * MIB)
    (before, used), began = (moved(pids()), cpu_seconds(pids())), time.monotonic()
    time.sleep(seconds)
    done, busy = moved(pids()) - before, cpu_seconds(pids()) - used
    return done / MIB / (time.monotonic() - began), busy / (done / 2**30)


# ── the tables ────────────────────────────────────────────────────────────────────────────


def spread(values: list[float], digits: int = 2) -> str:
    low, middle, high = (f(values) for f in (min, statistics.median, max))
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def off(values: list[float], asked: float) -> float:
    """The mean distance from what was asked, in per cent of it."""
    return statistics.mean(abs(value - asked) for value in values) / asked * 100


def compare(title: str, asked: float, mine: list[float], other: list[float]) -> list[str]:
    errors = [off(mine, asked), off(other, asked)]
    ratio = errors[0] / errors[1] if errors[1] else math.inf
    return [
        title,
        f"{asked:g}",
        spread(mine),
        spread(other),
        f"{errors[0]:.2f}, {errors[1]:.2f}",
        f"{ratio:.3f}",
    ]


def accuracy(rounds: int, seconds: float) -> Table:
    columns = ("", "asked", "ours", "stress-ng", "mean error %: ours, theirs", "ours / theirs")
    table = Table(*columns, title=f"{rounds} rounds of {seconds:g} s, in turn; median (min–max)")
    cpus = os.cpu_count() or 1
    for percent in (5, 15):
        mine, other = [], []
        for _ in range(rounds):
            with ours("cpu.stress", percent=f"{percent}%") as pids:
                mine.append(share_of_cpu(pids, seconds))
            with theirs("--cpu", str(cpus), "--cpu-load", str(percent)) as pids:
                other.append(share_of_cpu(pids, seconds))
        table.add_row(*compare(f"CPU, % of {cpus}", percent, mine, other))
    mine, other = [], []
    for _ in range(rounds):
        with ours("memory.stress", size="512MiB") as pids:
            mine.append(most_memory(pids, seconds))
        with theirs("--vm", "1", "--vm-bytes", "512M", "--vm-keep", "--vm-populate") as pids:
            other.append(most_memory(pids, seconds))
    table.add_row(*compare("memory, MiB", 512, mine, other))
    return table


def throughput(rounds: int, seconds: float) -> Table:
    """stress-ng knows no rate: it goes as fast as it can, with blocks of the same size."""
    place = {"path": str(PLACE), "system": "true", "mode": "write"}
    full = str(ByteSize.parse("1GiB"))
    mine: dict[str, list[tuple[float, float]]] = {"20MiB": [], "100MiB": [], full: []}
    other = []
    hdd = ("--hdd", "1", "--hdd-bytes", "64M", "--hdd-write-size", "1M", "--hdd-opts", "direct")
    for _ in range(rounds):
        for rate, found in mine.items():
            with ours("io.stress", rate=rate, **place) as pids:
                found.append(rate_of_io(pids, seconds))
        with theirs(*hdd) as pids:
            other.append(rate_of_io(pids, seconds))
    table = Table("direct writes", "MiB a second", "CPU s per GiB", "error %", title="io.stress")
    for rate, found in mine.items():
        speeds, costs = map(list, zip(*found, strict=True))
        asked = ByteSize.parse(rate) / MIB
        error = f"{off(speeds, asked):.2f}"
        table.add_row(f"ours, {rate}", spread(speeds, 1), spread(costs), error)
    speeds, costs = map(list, zip(*other, strict=True))
    table.add_row("stress-ng --hdd, no rate", spread(speeds, 1), spread(costs), "")
    ours_best, cost = (statistics.median(values) for values in zip(*mine[full], strict=True))
    table.add_row(
        f"ours at {full} / theirs",
        f"{ours_best / statistics.median(speeds):.2f}",
        f"{cost / statistics.median(costs):.2f}",
        "",
    )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5)
    args = parser.parse_args()
    if os.geteuid():
        raise SystemExit("this needs root: it makes cgroups")
    if not shutil.which("stress-ng"):
        subprocess.run(
            ["/usr/bin/apt-get", "install", "-qq", "--no-install-recommends", "stress-ng"],
            check=True,
        )
    PLACE.mkdir(parents=True, exist_ok=True)
    _console.print(f"load {os.getloadavg()[0]:.1f}")
    _console.print(accuracy(args.rounds, args.seconds))
    _console.print(throughput(args.rounds, args.seconds))


if __name__ == "__main__":
    main()
