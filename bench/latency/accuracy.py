"""What ``network.*`` and tcconfig do to datagrams, against what they were asked to do.

    python -m bench.latency.accuracy

In a User-Mode Linux kernel: a process sends numbered datagrams of 1,000 bytes over a wire to
a socket in another namespace, and compares what arrives with what it sent. The kernel itself
notes when each arrives. First without a fault, then with ours, then with tcconfig's, for
each thing that both can do.

- ``delay``: when it arrived less when it was sent, less the same without a fault: the mean
  of 200, 10 ms apart. ``spread`` is their standard deviation.
- ``lost``, ``twice``, ``flipped``, ``early``: the share of 20,000 that did not arrive,
  arrived more than once, arrived changed (sent without a checksum, so that they do) or not
  at all, or arrived before half of the delay was over.
- ``rate``: bits a second on the wire, headers and all, of what gets through from a second
  after the first datagram on, when twice as many are sent for 3 s.
"""

from __future__ import annotations

import json
import math
import os
import select
import socket
import statistics
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.latency.inside import PEER, Ours, network, tell
from bench.latency.peers import call
from bench.latency_apply import in_guest, tcconfig
from pyroute2 import netns
from rich.console import Console
from rich.table import Table

_PORT = 9999
_SIZE = 1000
_ON_WIRE = _SIZE + 8 + 20 + 14  # UDP, IPv4, Ethernet
_MANY = 20_000
_SO_TIMESTAMPNS, _SO_NO_CHECK, _SO_RCVBUFFORCE = 35, 11, 33
_console = Console(highlight=False, width=110)


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that both can do. ``asked`` is in the unit of ``what``: ms, per cent, Mbit/s."""

    what: str
    asked: float
    kind: str
    ours: str
    theirs: str


CASES = (
    *(
        Case("delay", ms, "network.latency", f"delay={ms}ms", f"--delay {ms}ms")
        for ms in (5, 50, 300)
    ),
    Case("spread", 10, "network.latency", "delay=50ms jitter=10ms distribution=normal",
         "--delay 50ms --delay-distro 10ms"),
    *(
        Case("lost", share, "network.loss", f"percent={share}%", f"--loss {share}%")
        for share in (1, 10)
    ),
    Case("flipped", 5, "network.corrupt", "percent=5%", "--corrupt 5%"),
    Case("twice", 5, "network.duplicate", "percent=5%", "--duplicate 5%"),
    Case("early", 25, "network.reorder", "percent=25% delay=50ms",
         "--delay 50ms --reordering 25%"),
    *(
        Case("rate", mbit, "network.rate", f"rate={mbit}mbit", f"--rate {mbit}Mbps")
        for mbit in (1, 10, 25)
    ),
)  # fmt: skip
_UNITS = {"delay": "ms", "spread": "ms", "rate": "Mbit/s"}


# ── inside ────────────────────────────────────────────────────────────────────────────────


class Wire:
    """A socket on each side. Numbers of datagrams, and for each when it was sent and came."""

    def __init__(self, peer: int) -> None:
        """``peer`` is a process of the namespace at the other end."""
        self.out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.out.setsockopt(socket.SOL_SOCKET, _SO_NO_CHECK, 1)
        self.out.connect((PEER, _PORT))
        netns.pushns(f"/proc/{peer}/ns/net")
        self.into = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        netns.popns()
        self.into.bind((PEER, _PORT))
        self.into.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 * 2**20)
        self.into.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self.into.setblocking(False)
        self.body = bytes(range(250)) * 4
        self.forget()

    def forget(self) -> None:
        self.sent: list[float] = []
        self.came: dict[int, list[float]] = {}
        self.spoilt = 0
        self.times: list[float] = []

    def send(self, count: int, pause: float) -> None:
        """So many, ``pause`` seconds apart; and what arrives meanwhile is taken."""
        start = time.perf_counter()
        for number in range(count):
            while (left := start + number * pause - time.perf_counter()) > 0:
                select.select([self.into], [], [], left)
                self.take()
            self.sent.append(time.time())
            self.out.send(struct.pack("!I", number) + self.body[4:])
            if number % 32 == 0:
                self.take()

    def settle(self, seconds: float) -> None:
        """Take what arrives until nothing has for so long."""
        while select.select([self.into], [], [], seconds)[0]:
            self.take()

    def take(self) -> None:
        while True:
            try:
                data, notes, _, _ = self.into.recvmsg(2048, 64)
            except BlockingIOError:
                return
            whole, fraction = struct.unpack("=qq", notes[0][2])
            at = whole + fraction / 1e9
            self.times.append(at)
            (number,) = struct.unpack_from("!I", data)
            if data[4:] == self.body[4:] and number < len(self.sent):
                self.came.setdefault(number, []).append(at)
            else:
                self.spoilt += 1

    def delays(self) -> list[float]:
        """Milliseconds, of those that came."""
        return [(times[0] - self.sent[number]) * 1000 for number, times in self.came.items()]


def measured(wire: Wire, case: Case) -> float:
    """One figure, in the case's unit; for ``delay`` still with what there is without a fault."""
    wire.forget()
    if case.what in ("delay", "spread"):
        wire.send(200, 0.01)
        wire.settle(0.7)
        delays = wire.delays()
        return statistics.fmean(delays) if case.what == "delay" else statistics.stdev(delays)
    if case.what == "rate":
        pause = _ON_WIRE * 8 / (2 * case.asked * 1e6)
        wire.send(int(3 / pause), pause)
        wire.settle(0.7)
        times = [at for at in sorted(wire.times) if at > min(wire.times) + 1]
        return (len(times) - 1) * _ON_WIRE * 8 / (times[-1] - times[0]) / 1e6
    wire.send(_MANY, 0.0001)
    wire.settle(0.7)
    match case.what:
        case "lost" | "flipped":
            found = _MANY - len(wire.came)
        case "twice":
            found = sum(len(times) > 1 for times in wire.came.values())
        case _:
            found = sum(delay < 25 for delay in wire.delays())
    return 100 * found / _MANY


@contextmanager
def by_us(case: Case, state: Path) -> Iterator[None]:
    params = dict(word.split("=") for word in case.ours.split())
    ours = Ours(case.kind, {"peers": PEER, **params}, state)
    ours.start()
    try:
        yield
    finally:
        ours.end()
        ours.host.close()


@contextmanager
def by_them(case: Case, commands: str) -> Iterator[None]:
    call([f"{commands}/tcset", "v0", *case.theirs.split(), "--network", PEER])
    try:
        yield
    finally:
        call([f"{commands}/tcdel", "v0", "--all"])


def inside(job: dict[str, Any]) -> None:
    with network() as peer:
        wire = Wire(peer)
        for number, case in enumerate(CASES):
            bare = measured(wire, case) if case.what == "delay" else 0.0
            with by_us(case, Path(job["state"])):
                ours = measured(wire, case) - bare
            with by_them(case, job["tcconfig"]):
                theirs = measured(wire, case) - bare
            tell(case=number, ours=ours, theirs=theirs)


# ── outside ───────────────────────────────────────────────────────────────────────────────


def main() -> None:
    if os.geteuid():
        raise SystemExit("this needs root: it boots a kernel and makes plumbing in it")
    _console.print(f"load {os.getloadavg()[0]:.1f}")
    columns = ("what", "asked", "ours", "tcconfig's", "error %: ours, theirs", "by chance ±%")
    table = Table(*columns, title="network.*, one peer, in User-Mode Linux")
    for told in in_guest({"tcconfig": tcconfig()}, "bench.latency.accuracy"):
        case = CASES[told["case"]]
        unit = _UNITS.get(case.what, "%")
        errors = (f"{100 * (told[who] / case.asked - 1):+.1f}" for who in ("ours", "theirs"))
        table.add_row(
            f"{case.kind} {case.ours}" if case.what != "spread" else f"the spread of {case.ours}",
            f"{case.asked:g} {unit}",
            f"{told['ours']:.2f}",
            f"{told['theirs']:.2f}",
            ", ".join(errors),
            f"{_chance(case):.1f}" if _chance(case) else "",
        )
    _console.print(table)


def _chance(case: Case) -> float:
    """What a sample of this size is off by, in per cent of what was asked: a standard error."""
    if case.what == "spread":
        return 100 / math.sqrt(2 * 200)
    if case.what in _UNITS:
        return 0.0
    share = case.asked / 100
    return 100 * math.sqrt((1 - share) / share / _MANY)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        inside(json.loads(sys.argv[1]))
    else:
        main()
