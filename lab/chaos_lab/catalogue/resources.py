"""What holders take, from the VM's own /proc."""

from __future__ import annotations

import statistics
import time
from functools import partial
from typing import Literal, Self

from chaos_core.errors import LabError
from chaos_lab.catalogue.probe import NODE, Measure, Probe
from chaos_lab.drill.context import Drill
from chaos_lab.drill.measure import Resources, Stream
from chaos_lab.drill.resources import memory_total
from chaos_lab.torture.cases import STATE


class Taken(Probe):
    """CPU in points of /proc/stat, or memory in points of MemTotal."""

    def __init__(self, drill: Drill, what: str, points: float, within: float) -> None:
        self._memory = what == "memory"
        self._total = memory_total(drill, NODE)
        self._points, self._within = points, within
        self._resources = Resources(drill.fleet, NODE)

    def __enter__(self) -> Self:
        self._resources.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.__exit__(None, None, None)

    def base(self) -> None:
        self._before = self._resources.over(8)

    def during(self) -> tuple[str, bool]:
        self._resources.over(1)
        points = self._taken(*self._resources.over(20))
        return f"{points:.2f} points", abs(points - self._points) <= self._within

    def gone_after(self, since: float) -> float:
        return self._resources.back_after(
            since, lambda cpu, available: self._taken(cpu, available) < self._points / 3
        )

    def _taken(self, cpu: float, available: float) -> float:
        cpu_before, available_before = self._before
        if self._memory:
            return 100 * (available_before - available) / self._total
        return cpu - cpu_before


_COUNT = """
import os, time
while True:
    room = os.statvfs("/")
    disk = next(line.split() for line in open("/proc/diskstats") if " ubda " in line)
    files = open("/proc/sys/fs/file-nr").read().split()[0]
    pages = next(line.split()[1] for line in open("/proc/vmstat") if line.startswith("pgfault"))
    print("count", room.f_bfree * room.f_frsize, 512 * int(disk[9]), files, 4096 * int(pages))
    time.sleep(0.25)
"""
_MIB = 2**20
_GONE_S, _PATIENCE_S = 15.0, 10.0


What = Literal["disk", "rate", "files", "churn"]


class _Counts(Stream):
    """Four times a second: bytes free on the disk, written to it, open files, bytes touched."""

    def __init__(self, drill: Drill) -> None:
        self.seen: list[tuple[float, tuple[int, ...]]] = []
        super().__init__(drill.fleet.popen(NODE, ["python3", "-u", "-c", _COUNT]))

    def take(self, at: float, line: str) -> None:
        words = line.split()
        if words[:1] == ["count"]:
            self.seen.append((at, tuple(map(int, words[1:]))))


class Counted(Probe):
    """MiB of the disk that are gone, MiB a second written to it, open files, or MiB a second of
    memory that was touched for the first time."""

    def __init__(self, drill: Drill, what: What, asked: float, within: float) -> None:
        self._what, self._asked, self._within = what, asked, within
        self._counts = _Counts(drill)
        self._before = 0.0

    def __enter__(self) -> Self:
        self._counts.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._counts.__exit__(None, None, None)

    def base(self) -> None:
        self._before = 0.0
        self._before = self._over(4)

    def during(self) -> tuple[str, bool]:
        time.sleep(1)
        taken = self._over(10)
        unit = {"disk": "MiB", "files": "files"}.get(self._what, "MiB a second")
        return f"{taken:.1f} {unit}", abs(taken - self._asked) <= self._within

    def gone_after(self, since: float) -> float:
        while time.monotonic() < since + _GONE_S:
            began = time.monotonic()
            if self._over(1) < self._asked / 3:
                return began - since
        return _GONE_S

    def _over(self, seconds: float) -> float:
        """What was taken in the time that follows, beside what was before."""
        since = time.monotonic()
        while time.monotonic() < since + seconds or len(self._window(since)) < 2:
            if time.monotonic() > since + seconds + _PATIENCE_S:
                raise LabError("the VM's /proc could not be sampled")
            time.sleep(0.05)
        window = self._window(since)
        free, written, files, touched = zip(*(counts for _, counts in window), strict=True)
        seconds = window[-1][0] - window[0][0]
        match self._what:
            case "disk":
                found = -statistics.median(free) / _MIB
            case "rate":
                found = (written[-1] - written[0]) / _MIB / seconds
            case "churn":
                found = (touched[-1] - touched[0]) / _MIB / seconds
            case "files":
                found = statistics.median(files)
        return float(found) - self._before

    def _window(self, since: float) -> list[tuple[float, tuple[int, ...]]]:
        return [seen for seen in self._counts.seen if seen[0] > since]


MEASURES = (
    Measure(
        "cpu.stress",
        "percent=30%",
        "30 ± 2 points of /proc/stat",
        partial(Taken, what="cpu", points=30, within=2),
    ),
    Measure(
        "memory.stress",
        "percent=20%",
        "20 ± 1 points of MemTotal",
        partial(Taken, what="memory", points=20, within=1),
    ),
    Measure(
        "memory.stress",
        "percent=20% mode=pagecache",
        "20 ± 1 points of MemTotal",
        partial(Taken, what="memory", points=20, within=1),
    ),
    Measure(
        "gc.pressure",
        "churn=8MiB cpu=30%",
        "8 ± 1 MiB a second touched, by /proc/vmstat",
        partial(Counted, what="churn", asked=8, within=1),
    ),
    Measure(
        "memory.leak",
        "rate=40MiB percent=20%",
        "20 ± 1 points of MemTotal, in the end",
        partial(Taken, what="memory", points=20, within=1),
    ),
    Measure(
        "disk.fill",
        f"path={STATE} size=100MiB system=true",
        "100 ± 5 MiB less free, by statvfs",
        partial(Counted, what="disk", asked=100, within=5),
    ),
    Measure(
        "io.stress",
        f"path={STATE} rate=8MiB mode=write system=true",
        "8 ± 1 MiB a second written, by /proc/diskstats",
        partial(Counted, what="rate", asked=8, within=1),
    ),
    Measure(
        "fd.exhaust",
        "count=30000",
        "30,000 ± 500 open files more, by /proc/sys/fs/file-nr",
        partial(Counted, what="files", asked=30_000, within=500),
    ),
)
