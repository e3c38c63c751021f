"""Limits of a service, the clock and the page cache, measured by the kernel's own accounts."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Self

from chaos_lab.catalogue.probe import NODE, Measure, Probe
from chaos_lab.drill.context import Drill

GROUP = "/sys/fs/cgroup/system.slice/busy.service"
# Three processes: one computes, one writes past the page cache, one forks.
_PROGRAM = """
import mmap, os, time
if not os.fork():
    while True: pass
if not os.fork():
    out = os.open("/var/busy", os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
    page = mmap.mmap(-1, 1 << 18)
    while True: os.pwrite(out, page, 0)
while True:
    time.sleep(0.1)
    try:
        if not os.path.exists("/run/fork"): continue
        if not (pid := os.fork()): os._exit(0)
        os.waitpid(pid, 0)
    except OSError: pass
"""
_UNIT = "[Service]\nExecStart=/usr/bin/python3 /etc/busy.py\n"
_CLOCK = "import time; print(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME))"
_TURNS = """
import time
for _ in range(120):
    print(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME))
    time.sleep(0.05)
"""
_OVER_S = 4.0
_STILL_S = 3.0
_PATIENCE_S = 10.0


Look = Callable[["Limit"], float]


class Watched(Probe):
    """Something that is read on the node; ``settled`` is what of it must be as before."""

    def __init__(self, drill: Drill) -> None:
        self.drill = drill

    def __exit__(self, *_: object) -> None:
        pass

    def sh(self, *argv: str) -> str:
        return self.drill.fleet.exec(NODE, list(argv)).stdout

    def settled(self) -> str:
        raise NotImplementedError

    def base(self) -> None:
        self.before = self.settled()

    def gone_after(self, since: float) -> float:
        """Seconds until it was first seen to be as before, which is a little late."""
        while self.settled() != self.before and time.monotonic() < since + _PATIENCE_S:
            time.sleep(0.05)
        return time.monotonic() - since


class Limit(Watched):
    """``busy.service``, which is there for as long as it is watched."""

    def __init__(
        self, drill: Drill, file: str, look: Look, least: float, most: float, unit: str
    ) -> None:
        super().__init__(drill)
        self.file, self.look = file, look
        self.least, self.most, self.unit = least, most, unit

    def __enter__(self) -> Self:
        self.drill.fleet.put(NODE, "/etc/busy.py", _PROGRAM)
        self.drill.fleet.put(NODE, "/run/systemd/system/busy.service", _UNIT)
        self.sh("systemctl", "daemon-reload")
        self.sh("systemctl", "start", "busy")
        return self

    def __exit__(self, *_: object) -> None:
        self.sh("systemctl", "stop", "busy")
        self.sh("rm", "/run/systemd/system/busy.service", "/etc/busy.py", "/var/busy")
        self.sh("systemctl", "daemon-reload")

    def read(self, name: str) -> str:
        return self.sh("cat", f"{GROUP}/{name}")

    def settled(self) -> str:
        return self.read(self.file)

    def rate(self, file: str, key: str) -> float:
        """How fast a count of the group's grows, per second."""
        self._count(file, key)
        began, before = time.monotonic(), self._count(file, key)
        time.sleep(_OVER_S)
        return (self._count(file, key) - before) / (time.monotonic() - began)

    def _count(self, file: str, key: str) -> int:
        words = self.read(file).replace("=", " ").split()
        return int(words[words.index(key) + 1])

    def during(self) -> tuple[str, bool]:
        found = self.look(self)
        return f"{found:.2f} {self.unit}", self.least <= found <= self.most


class Clock(Watched):
    """The wall clock against the time since boot, in whole seconds from what it was."""

    def settled(self) -> str:
        return f"{float(self.sh('python3', '-c', _CLOCK)):.0f}"

    def during(self) -> tuple[str, bool]:
        moved = int(self.settled()) - int(self.before)
        return f"{moved:+} s", abs(moved - 600) <= 1


class Strobe(Clock):
    """The same, where it is right again and again."""

    def during(self) -> tuple[str, bool]:
        said = self.sh("python3", "-c", _TURNS).split()
        moved = [round(float(line)) - int(self.before) for line in said]
        jumps = sum(abs(one - other) > 1 for one, other in pairwise(moved))
        away = max(moved)
        return f"{away:+} s and back, {jumps} jumps in 6 s", abs(away - 600) <= 1 and jumps >= 4

    def gone_after(self, since: float) -> float:
        """Seconds until it was last seen away, for longer than it is ever right."""
        away = since
        while (now := time.monotonic()) < away + _STILL_S and away < since + _PATIENCE_S:
            if self.settled() != self.before:
                away = now
        return away - since


class Cache(Watched):
    """MiB of files in memory."""

    def settled(self) -> str:
        words = self.sh("cat", "/proc/meminfo").split()
        return str(int(words[words.index("Cached:") + 1]) // 1024)

    def during(self) -> tuple[str, bool]:
        now = self.settled()
        return f"{self.before} MiB before, {now} MiB after", int(now) < int(self.before)


def _cpu(limit: Limit) -> float:
    return limit.rate("cpu.stat", "usage_usec") / 10_000


def _written(limit: Limit) -> float:
    return limit.rate("io.stat", "wbytes") / 2**20


def _refused(limit: Limit) -> float:
    """It forks only from now on: what it had at the start was to be its own for good."""
    limit.sh("touch", "/run/fork")
    try:
        return limit.rate("pids.events", "max")
    finally:
        limit.sh("rm", "/run/fork")


def _high(limit: Limit) -> float:
    return 100 * int(limit.read("memory.high")) / int(limit.read("memory.current"))


MEASURES = (
    Measure(
        "cpu.throttle",
        "unit=busy percent=20%",
        "18 to 22 % of one CPU",
        partial(Limit, file="cpu.max", look=_cpu, least=18, most=22, unit="% of one CPU"),
    ),
    Measure(
        "io.throttle",
        "unit=busy path=/ write=1MiB",
        "0.75 to 1.25 MiB written a second",
        partial(Limit, file="io.max", look=_written, least=0.75, most=1.25, unit="MiB/s"),
    ),
    Measure(
        "memory.limit",
        "unit=busy percent=50%",
        "memory.high at 45 to 75 % of what it uses",
        partial(Limit, file="memory.high", look=_high, least=45, most=75, unit="%"),
    ),
    Measure(
        "pids.exhaust",
        "unit=busy",
        "1 to 11 forks refused a second",
        partial(Limit, file="pids.max", look=_refused, least=1, most=11, unit="a second"),
    ),
    Measure("clock.skew", "offset=+10m", "600 ± 1 s", Clock),
    Measure(
        "clock.skew", "offset=+10m strobe=1s", "+600 ± 1 s and back, 4 jumps or more in 6 s", Strobe
    ),
    Measure("cache.flush", "what=pagecache", "fewer files in memory", Cache, lasts=False),
)
