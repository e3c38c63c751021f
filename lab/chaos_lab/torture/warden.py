"""On a node, as root, beside the system: hits what it is told to hit, and watches.

Speaks JSON lines with the host. Orders come on stdin:

- ``{"do": "arm", "name", "nth", "signal", "who"}``: when the keeper is at that step,
  hit; without a ``signal`` only tell, and let it go on with ``go``.
- ``{"do": "record"}``: tell each step of the next fault.
- ``{"do": "disarm"}``, ``{"do": "go"}``, ``{"do": "hit", "signal", "who"}``,
  ``{"do": "journal"}``.

Every line said carries ``t``, this VM's CLOCK_BOOTTIME in seconds. Ten times a second
it says which processes of ours there are, how much memory is free, and whether all is
well: the victim, a service that faults may hurt, the clock, lookups, and what a hook
would leave is not there.
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

from chaos_lab.torture.cases import FAR_IP, HOOKED, TASKS_MAX, VICTIM
from chaos_lab.torture.tracer import SOCKET

JOURNAL = Path("/var/lib/chaos-agent/journal")
_EVERY_S = 0.1
_CLOCK_S = 1.0  # how far the clock may be from where it was
# How the command lines of ours end (keeper, link) or what is in them (holder).
_RESIDENT = {b"run": "keeper", b"link": "link"}
_HOLDER = (b"/chaos_agent/holder.py", b"chaos_agent.workers")
_KTHREADD = "2"
_SESSION = b": chaos "  # in what PostgreSQL calls a process that serves the role ``chaos``
# The victim's cgroup as no fault has it.
_AS_IT_WAS = {"cpu.max": "max 100000", "io.max": "", "memory.high": "max", "pids.max": TASKS_MAX}
_ANSWER_S = 0.2
_WORKER_S = 1.0  # a keeper that is held at a step has two until its watchdog strikes
# A query for db.example.com, RFC 1035 section 4.
_QUERY = bytes([0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]) + (
    b"\x02db\x07example\x03com\0" + bytes([0, 1, 0, 1])
)


def ours(kernels: set[str]) -> dict[str, dict[int, str]]:
    """Processes of ours by role: pid and state (R, S, T …). Dead ones are not listed.

    ``kernels`` are the kernel's own, most of all, which are looked at once: to read what a
    hundred processes are, ten times a second, would take the VM's time from the agent.

    Nor is a holder that was stopped before it had joined its cgroup: it takes nothing yet.
    Sessions of ours are PostgreSQL's processes, and there for as long as they hold anything.
    """
    found: dict[str, dict[int, str]] = {"keeper": {}, "link": {}, "holder": {}, "session": {}}
    for directory in Path("/proc").iterdir():
        pid = directory.name
        if not pid.isdigit() or pid in kernels:
            continue
        try:
            words = (directory / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
            if any(word.endswith(_HOLDER) for word in words):
                role = "holder"
            elif any(b"chaos" in word for word in words) and words[-1] in _RESIDENT:
                role = _RESIDENT[words[-1]]
            elif words[0].startswith(b"postgres: ") and _SESSION in words[0]:
                role = "session"
            else:
                if words == [b""] and _parent(directory) == _KTHREADD:
                    kernels.add(pid)
                continue
            state = (directory / "stat").read_text().rpartition(")")[2].split()[0]
            works = role != "holder" or b"/chs-" in (directory / "cgroup").read_bytes()
        except OSError:
            continue  # it ended meanwhile
        if state not in "ZX" and (works or state not in "Tt"):
            found[role][int(pid)] = state
    return found


def _parent(directory: Path) -> str:
    return (directory / "stat").read_text().rpartition(")")[2].split()[1]


def strike(name: str, who: list[str], kernels: set[str]) -> list[int]:
    """Send a signal to all processes of these roles; the pids that it reached.

    A worker is waited for: systemd starts it, a little after the keeper has asked for it.
    """
    until = time.monotonic() + _WORKER_S
    while not (roles := ours(kernels))["holder"] and "holder" in who:
        if time.monotonic() > until:
            break
        time.sleep(_EVERY_S / 2)
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
        limits = {name: (group / name).read_text().strip() for name in _AS_IT_WAS}
    except OSError:
        return False  # no cgroup, no process
    return running and limits == _AS_IT_WAS


def looked_up() -> bool:
    """Whether a lookup is answered by whom it asks."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(_ANSWER_S)
        try:
            asker.connect((FAR_IP, 53))
            asker.send(_QUERY)
            return asker.recv(512) == _QUERY
        except OSError:
            return False


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
        self._kernels: set[str] = set()
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
                well = (
                    victim_is_well()
                    and looked_up()
                    and not Path(HOOKED).exists()
                    and abs(clock() - right) < _CLOCK_S
                )
                say(look=ours(self._kernels), available=available(), well=well)
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
                say(hit=strike(order["signal"], order["who"], self._kernels))
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
                say(hit=strike(trap["signal"], trap["who"], self._kernels))
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
