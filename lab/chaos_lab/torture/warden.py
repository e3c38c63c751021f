"""On a node, as root, beside the system: hits what it is told to hit, and watches.

Speaks JSON lines with the host. Orders come on stdin:

- ``{"do": "arm", "name", "nth", "signal", "who"}``: when the keeper is at that step,
  hit; without a ``signal`` only tell, and let it go on with ``go``.
- ``{"do": "record"}``: tell each step of the next fault.
- ``{"do": "disarm"}``, ``{"do": "go"}``, ``{"do": "hit", "signal", "who"}``,
  ``{"do": "journal"}``.

Every line said carries ``t``, this VM's CLOCK_BOOTTIME in seconds. Ten times a second
it says which processes of ours there are, how much memory is free, and whether the
victim, a service that faults may hurt, is well, and the clock where it was.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import sys
import time
import tty
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from chaos_lab.torture.cases import VICTIM
from chaos_lab.torture.tracer import SOCKET

JOURNAL = Path("/var/lib/chaos-agent/journal")
_EVERY_S = 0.1
_CLOCK_S = 1.0  # how far the clock may be from where it was
# How the command lines of ours end (keeper, link) or what is in them (holder).
_RESIDENT = {b"run": "keeper", b"link": "link"}
_HOLDER = (b"/chaos_agent/holder.py", b"chaos_agent.workers")


def ours() -> dict[str, dict[int, str]]:
    """Processes of ours by role: pid and state (R, S, T …). Dead ones are not listed.

    Nor is a holder that was stopped before it had joined its cgroup: it takes nothing yet.
    """
    found: dict[str, dict[int, str]] = {"keeper": {}, "link": {}, "holder": {}}
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit():
            continue
        try:
            words = (directory / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
            if any(word.endswith(_HOLDER) for word in words):
                role = "holder"
            elif any(b"chaos" in word for word in words) and words[-1] in _RESIDENT:
                role = _RESIDENT[words[-1]]
            else:
                continue
            state = (directory / "stat").read_text().rpartition(")")[2].split()[0]
            works = role != "holder" or b"/chs-" in (directory / "cgroup").read_bytes()
        except OSError:
            continue  # it ended meanwhile
        if state not in "ZX" and (works or state not in "Tt"):
            found[role][int(directory.name)] = state
    return found


def strike(name: str, who: list[str]) -> list[int]:
    """Send a signal to all processes of these roles; the pids that it reached."""
    roles = ours()
    reached = []
    for role in who:
        for pid in roles[role]:
            try:
                os.kill(pid, getattr(signal, name))
            except ProcessLookupError:
                continue
            reached.append(pid)
    return reached


def open_intents() -> list[str]:
    """Faults that the keeper's journal begins and does not end. Lines are checked as it does."""
    begun: dict[str, None] = {}
    for line in JOURNAL.read_bytes().splitlines() if JOURNAL.exists() else ():
        check, _, data = line.partition(b" ")
        try:
            entry = json.loads(data) if int(check, 16) == zlib.crc32(data) else {}
        except ValueError:
            continue
        if entry.get("entry") == "intent":
            begun[entry["fault"]] = None
        elif entry.get("entry") == "done":
            begun.pop(entry["fault"], None)
    return list(begun)


def available() -> int:
    """MemAvailable in bytes."""
    with Path("/proc/meminfo").open() as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvail")) * 1024


def victim_is_well() -> bool:
    """Whether the victim's processes run, and as fast as they like, by its cgroup."""
    group = Path(f"/sys/fs/cgroup/system.slice/{VICTIM}")
    try:
        events = (group / "cgroup.events").read_text().splitlines()
        running = {"populated 1", "frozen 0"} <= set(events)
        return running and (group / "cpu.max").read_text().startswith("max")
    except OSError:
        return False  # no cgroup, no process


def clock() -> float:
    """Where the wall clock stands against the one that nobody can set, in s."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def say(**what: Any) -> None:
    print(json.dumps({"t": time.clock_gettime(time.CLOCK_BOOTTIME), **what}), flush=True)


class Warden:
    """Waits for the host, the keeper and the next look, whichever comes first."""

    def __init__(self) -> None:
        Path(SOCKET).unlink(missing_ok=True)
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._door.bind(SOCKET)
        self._door.listen(8)
        self._selector = selectors.DefaultSelector()
        self._selector.register(0, selectors.EVENT_READ, self._host)
        self._selector.register(self._door, selectors.EVENT_READ, self._keeper)
        self._trap: dict[str, Any] = {}
        self._held: socket.socket | None = None
        self._input = b""

    def run(self) -> None:
        """Serve for as long as the host listens."""
        say(ready=True)
        look_at = time.monotonic()
        right = clock()
        while True:
            for key, _ in self._selector.select(max(0, look_at - time.monotonic())):
                key.data()
            if time.monotonic() >= look_at:
                well = victim_is_well() and abs(clock() - right) < _CLOCK_S
                say(look=ours(), available=available(), well=well)
                look_at = time.monotonic() + _EVERY_S

    def _host(self) -> None:
        data = os.read(0, 65536)
        if not data:
            sys.exit()
        *lines, self._input = (self._input + data).split(b"\n")
        for line in lines:
            self._obey(json.loads(line))

    def _obey(self, order: dict[str, Any]) -> None:
        match order["do"]:
            case "arm" | "record":
                self._trap = order
            case "disarm":
                self._trap = {}
            case "hit":
                say(hit=strike(order["signal"], order["who"]))
            case "go":
                self._release()
            case "journal":
                say(open=open_intents())

    def _keeper(self) -> None:
        """A fault begins: give the keeper its orders and hear it out."""
        keeper, _ = self._door.accept()
        trap = self._trap
        keeper.send(
            json.dumps(
                {"record": True}
                if trap.get("do") == "record"
                else {"name": trap.get("name"), "nth": trap.get("nth")}
            ).encode()
        )
        self._selector.register(keeper, selectors.EVENT_READ, lambda: self._step(keeper))

    def _step(self, keeper: socket.socket) -> None:
        try:
            data = keeper.recv(4096)
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(keeper)
            keeper.close()
        elif self._trap.get("do") == "record":
            say(step=json.loads(data))
        else:
            trap, self._trap, self._held = self._trap, {}, keeper
            if trap["signal"]:
                say(hit=strike(trap["signal"], trap["who"]))
                self._release()
            else:
                say(reached=True)

    def _release(self) -> None:
        """Let the keeper go on, if it still can."""
        if self._held is not None:
            with suppress(OSError):
                self._held.send(b"go")
            self._held = None


if __name__ == "__main__":
    tty.setraw(0)
    Warden().run()
