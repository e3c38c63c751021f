"""Measurements from outside the agent: pings, TCP handshakes, /proc of the guest.

Every time here is the host's monotonic clock, in seconds.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from chaos_core.errors import LabError
from chaos_lab.fleet import Fleet

_REPLY = re.compile(r"icmp_seq=(\d+) .*time=([\d.]+) ms")
_MISSING = re.compile(r"no answer yet for icmp_seq=(\d+)")
_PATIENCE_S = 10.0
_SETTLED = 20  # replies in a row that must be as before


class Stream(ABC):
    """A long-running command whose lines are read as they come; ends with the ``with`` block."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join(5)

    @property
    def ended(self) -> bool:
        """Whether the command has ended by itself."""
        return self._process.poll() is not None

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.take(time.monotonic(), line)

    @abstractmethod
    def take(self, at: float, line: str) -> None:
        """One line that arrived at ``at``."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One ping: when its answer arrived, and the round trip in ms; None when it did not."""

    at: float
    seq: int
    rtt: float | None


def _started(fleet: Fleet, source: str, argv: list[str]) -> subprocess.Popen[str]:
    """A command on a VM, or on this host in the lab's network when ``source`` is empty."""
    if source:
        return fleet.popen(source, argv)
    here = fleet.in_netns(["stdbuf", "-oL", *argv])
    return subprocess.Popen(here, stdout=subprocess.PIPE, text=True)


class Pings(Stream):
    """Pings from the host (``source=""``) or from a VM to ``address``, 20 a second.

    One that is late counts as not answered until its answer arrives.
    """

    def __init__(
        self, fleet: Fleet, source: str, address: str, *, interval: float = 0.05, size: int = 56
    ) -> None:
        argv = ["ping", "-n", "-O", "-i", f"{interval:g}", "-s", str(size), address]
        self.interval = interval
        self.replies: list[Reply] = []
        self._late: dict[int, int] = {}  # where in replies an unanswered ping stands, by its number
        super().__init__(_started(fleet, source, argv))

    def take(self, at: float, line: str) -> None:
        reply, missing = _REPLY.search(line), _MISSING.search(line)
        if reply:
            found = Reply(at, int(reply[1]), float(reply[2]))
            place = self._late.pop(found.seq, None)
            if place is None:
                self.replies.append(found)
            else:
                self.replies[place] = found
        elif missing:
            self._late[int(missing[1])] = len(self.replies)
            self.replies.append(Reply(at, int(missing[1]), None))

    def median(self, seconds: float) -> float:
        """Median round trip in ms over the next ``seconds``. Raises LabError without answers."""
        since = time.monotonic()
        time.sleep(seconds)
        found = [reply.rtt for reply in self.replies if reply.at > since and reply.rtt is not None]
        if len(found) < 5:
            raise LabError(f"only {len(found)} pings were answered in {seconds:g} s")
        return statistics.median(found)

    def wait(self, hit: Callable[[Reply], bool], timeout: float = 15.0) -> float:
        """When a ping first looks like ``hit``, counted from now on. Raises LabError."""
        start = len(self.replies)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for reply in self.replies[start:]:
                if hit(reply):
                    return reply.at
            time.sleep(0.01)
        raise LabError(f"the effect was not seen on the wire within {timeout:g} s")

    def clean_after(
        self, since: float, hit: Callable[[Reply], bool], timeout: float = 15.0
    ) -> float:
        """Seconds from ``since`` to the first of twenty pings in a row that were not hit.

        Returns ``timeout`` when that did not happen in time.
        """
        while time.monotonic() < since + timeout:
            good: list[Reply] = []
            for reply in self.replies:
                if reply.at >= since:
                    good = [] if hit(reply) else [*good, reply]
                if len(good) >= _SETTLED:
                    return good[0].at - since
            time.sleep(0.02)
        return timeout


_ASK = """
import itertools, socket, sys, time
for number in itertools.count(1):
    start = time.perf_counter()
    try:
        with socket.create_connection((sys.argv[1], int(sys.argv[2])), 0.3) as asked:
            asked.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')
            well = b' 200 ' in asked.recv(32)
        took = (time.perf_counter() - start) * 1000
        print(number, took if well else 'none', flush=True)
    except OSError:
        print(number, 'none', flush=True)
    time.sleep(0.05)
"""


class Answers(Pings):
    """A service's answers to a VM, or to the host (``source=""``), fifteen times a second.

    One that takes 0.3 s is missing, and so is one with a status other than 200.
    """

    def __init__(self, fleet: Fleet, source: str, address: str, port: int) -> None:
        self.interval = 0.05
        self.replies = []
        argv = ["python3", "-u", "-c", _ASK, address, str(port)]
        Stream.__init__(self, _started(fleet, source, argv))

    def take(self, at: float, line: str) -> None:
        number, took = line.split()
        self.replies.append(Reply(at, int(number), None if took == "none" else float(took)))


def delayed(threshold_ms: float) -> Callable[[Reply], bool]:
    """A ping that took longer, or was not answered at all."""
    return lambda reply: reply.rtt is None or reply.rtt > threshold_ms


@dataclass(frozen=True, slots=True)
class Sample:
    """A VM's CPU ticks so far (busy, all) and its free memory in bytes."""

    at: float
    busy: int
    total: int
    available: int


_SAMPLER = """
import time
while True:
    cpu = [int(n) for n in open('/proc/stat').readline().split()[1:9]]
    mem = [l.split()[1] for l in open('/proc/meminfo') if l.startswith('MemAvailable')]
    print('sample', sum(cpu) - cpu[3] - cpu[4], sum(cpu), mem[0], flush=True)
    time.sleep(0.25)
"""


class Resources(Stream):
    """CPU and memory of a VM, four times a second, from its /proc."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self.samples: list[Sample] = []
        super().__init__(fleet.popen(name, ["python3", "-u", "-c", _SAMPLER]))

    def take(self, at: float, line: str) -> None:
        words = line.split()
        if words[:1] == ["sample"]:
            busy, total, available = map(int, words[1:])
            self.samples.append(Sample(at, busy, total, available * 1024))

    def over(self, seconds: float) -> tuple[float, float]:
        """CPU percent over the next ``seconds``, and the median of free bytes."""
        since = time.monotonic()
        time.sleep(seconds)
        window: list[Sample] = []
        while len(window) < 3:
            window = [sample for sample in self.samples if sample.at > since]
            if time.monotonic() > since + seconds + _PATIENCE_S:
                raise LabError("the VM's /proc could not be sampled")
            time.sleep(0.05)
        first, last = window[0], window[-1]
        ticks = max(1, last.total - first.total)
        cpu = 100 * (last.busy - first.busy) / ticks
        return cpu, statistics.median(sample.available for sample in window)

    def back_after(
        self, since: float, is_back: Callable[[float, float], bool], timeout: float = 15.0
    ) -> float:
        """Seconds from ``since`` until a second's (CPU %, free bytes) ``is_back``."""
        while time.monotonic() < since + timeout:
            cpu, available = self.over(1.0)
            if is_back(cpu, available):
                return time.monotonic() - since - 1.0
        return timeout


_CONNECT = """
import socket, statistics, sys, time
host, port = sys.argv[1], int(sys.argv[2])
took = []
for _ in range(15):
    start = time.perf_counter()
    with socket.create_connection((host, port), 5):
        took.append((time.perf_counter() - start) * 1000)
    time.sleep(0.05)
print(statistics.median(took))
"""


def connect_ms(fleet: Fleet, source: str, address: str, port: int) -> float:
    """Median time in ms of a TCP handshake, from a VM."""
    return float(fleet.exec(source, ["python3", "-c", _CONNECT, address, str(port)]).stdout)


_LOSS = re.compile(r"(\d+) packets transmitted, (\d+) received")


def loss_percent(
    fleet: Fleet, source: str, address: str, count: int, limit_s: int
) -> tuple[int, float]:
    """Flood-ping ``count`` times within ``limit_s``: how many were sent, percent not answered."""
    argv: Sequence[str] = ["ping", "-n", "-f", "-q", "-c", str(count), "-w", str(limit_s), address]
    done = fleet.exec(source, argv, timeout=limit_s + 10, check=False)
    found = _LOSS.search(done.stdout)
    if not found or not int(found[1]):
        raise LabError(f"ping said: {done.stdout.strip()}", where=source)
    sent, received = int(found[1]), int(found[2])
    return sent, 100 * (sent - received) / sent
