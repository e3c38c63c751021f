"""A node under torture, seen from the host: its warden, its listing, who is at home.

Times are the host's monotonic clock in seconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from chaos_core.errors import LabError
from chaos_lab import provision
from chaos_lab.drill import residue, units
from chaos_lab.drill.context import Drill
from chaos_lab.drill.measure import Stream
from chaos_lab.fleet import Fleet
from chaos_lab.torture import setting
from chaos_lab.torture.cases import VICTIM

_PYTHON = "/opt/chaosctl/bin/python3"
_TRACED = f"[Service]\nExecStart=\nExecStart={_PYTHON} -m chaos_lab.torture.tracer run\n"
_ANSWER_S = 10.0
_BACK_S = 40.0


@dataclass(frozen=True, slots=True)
class Look:
    """One of the warden's looks: processes by role, free memory in bytes, how the victim is."""

    at: float
    processes: dict[str, dict[str, str]]
    available: int
    well: bool


class Warden(Stream):
    """The lab's own program on a node, see ``chaos_lab/torture/warden.py``.

    Its clock starts with its VM. A line cannot arrive before it was said, so the
    quickest one tells how far the two clocks are apart.
    """

    def __init__(self, fleet: Fleet, node: str) -> None:
        self._stream = fleet.popen(node, [_PYTHON, "-m", "chaos_lab.torture.warden"])
        self.node = node
        self._looks: deque[tuple[float, dict[str, Any]]] = deque(maxlen=3_000)
        self._said: list[dict[str, Any]] = []
        self._offset = float("inf")
        super().__init__(self._stream)

    def take(self, at: float, line: str) -> None:
        try:
            said = json.loads(line)
        except ValueError:
            self._said.append({"t": 0.0, "error": line.strip()})
            return
        self._offset = min(self._offset, at - said["t"])
        if "look" in said:
            self._looks.append((said["t"], said))
        else:
            self._said.append(said)

    def order(self, do: str, **what: Any) -> int:
        """Give an order; returns the place from which an answer may be awaited."""
        place = len(self._said)
        assert self._stream.stdin is not None
        try:
            self._stream.stdin.write(json.dumps({"do": do, **what}) + "\n")
            self._stream.stdin.flush()
        except OSError as error:
            raise LabError(f"its warden is gone: {error}", where=self.node) from None
        return place

    def heard(self, place: int, word: str) -> tuple[float, Any] | None:
        """The first thing of that kind said from ``place`` on, and when; None so far."""
        for said in self._said[place:]:
            if word in said:
                return said["t"] + self._offset, said[word]
        return None

    def wait(
        self,
        place: int,
        word: str,
        timeout: float = _ANSWER_S,
        hopeless: Callable[[], str] = lambda: "",
    ) -> tuple[float, Any]:
        """Wait for it. Raises LabError after ``timeout`` s, or as soon as ``hopeless`` says why."""
        deadline = time.monotonic() + timeout
        while True:
            why = hopeless()
            found = self.heard(place, word)
            if found:
                return found
            if why or time.monotonic() > deadline:
                last = [said["error"] for said in self._said if "error" in said][-3:]
                why = why or f"the warden has not said {word!r} within {timeout:g} s"
                raise LabError(" ".join([why, *last]), where=self.node)
            time.sleep(0.01)

    def said(self, place: int, word: str) -> list[Any]:
        """Everything of that kind since ``place``."""
        return [said[word] for said in self._said[place:] if word in said]

    def looks(self, since: float) -> list[Look]:
        """Looks from ``since`` on, oldest first."""
        return [
            Look(t + self._offset, said["look"], said["available"], said["well"])
            for t, said in list(self._looks)
            if t + self._offset >= since
        ]

    def look(self) -> Look:
        """A fresh look."""
        since = time.monotonic()
        while time.monotonic() < since + _ANSWER_S:
            found = self.looks(since)
            if found:
                return found[-1]
            time.sleep(0.02)
        raise LabError("the warden does not look", where=self.node)


class Roll:
    """What the controller says of the nodes, asked for no more often than needed."""

    def __init__(self, fleet: Fleet) -> None:
        address, pki = provision.operator_of(fleet)
        argv = [sys.executable, "-m", "chaos_lab.torture.asker", address, str(pki)]
        self._asker = subprocess.Popen(
            fleet.in_netns(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._lock = threading.Lock()
        self._at = 0.0
        self._nodes: dict[str, dict[str, Any]] = {}

    def close(self) -> None:
        """Ask no more."""
        self._asker.kill()
        self._asker.communicate()

    def node(self, name: str, *, not_older_than: float = 0.8) -> dict[str, Any]:
        """One node. Raises LabError when the controller does not answer."""
        since = time.monotonic() - not_older_than
        with self._lock:
            if self._at < since:
                at = time.monotonic()
                self._nodes = {node["name"]: node for node in self._ask()}
                self._at = at
        return self._nodes[name]

    def _ask(self) -> list[dict[str, Any]]:
        assert self._asker.stdin is not None
        assert self._asker.stdout is not None
        self._asker.stdin.write("\n")
        self._asker.stdin.flush()
        said: dict[str, Any] = json.loads(self._asker.stdout.readline())
        if "error" in said:
            raise LabError(said["error"])
        found: list[dict[str, Any]] = said["nodes"]
        return found


@dataclass(slots=True)
class Node:
    """One node, with what it was like before anything was done to it."""

    drill: Drill
    roll: Roll
    name: str
    warden: Warden = field(init=False)
    before: list[str] = field(init=False)
    alone: bool = False

    def set_up(self) -> None:
        """Trace its keeper, give it its user's own things, and list all of it."""
        fleet = self.drill.fleet
        units.drop_in(fleet, self.name, provision.KEEPER_UNIT, "torture", _TRACED)
        setting.give(fleet, self.name)
        units.restart(fleet, self.name)
        fleet.exec(self.name, ["sync"])
        residue.give(self.drill, self.name)
        self.greet()
        self.before = residue.listing(self.drill, self.name)

    def tear_down(self) -> None:
        """Leave the node as it was installed."""
        self.warden.__exit__(None, None, None)
        fleet = self.drill.fleet
        if self.alone:
            self.look_back()
        units.drop_in(fleet, self.name, provision.KEEPER_UNIT, "torture", "")
        setting.take(fleet, self.name)
        units.reload(fleet, self.name)
        units.restart(fleet, self.name)

    def greet(self) -> None:
        """Put a warden on it, for as long as this boot lasts."""
        self.warden = Warden(self.drill.fleet, self.name)
        self.warden.__enter__()
        self.warden.wait(0, "ready", 30)

    def booted(self) -> None:
        """It has just booted: what its user had set up by hand is set up again."""
        self.warden.__exit__(None, None, None)
        residue.give(self.drill, self.name)
        self.greet()

    def look_away(self) -> None:
        units.look_away(self.drill.fleet, self.name)
        self.alone = True

    def look_back(self) -> None:
        units.look_back(self.drill.fleet, self.name)
        self.alone = False

    def settled(self, struck: Iterable[int] = ()) -> tuple[str, list[str]]:
        """Wait until the agent is at work and the node equals its listing.

        What does not after 40 s, and how the node differs; both empty when all is well.
        """
        deadline = time.monotonic() + _BACK_S
        while True:
            wrong, residue = self.unsettled(struck), []
            if not wrong:
                residue = self.residue()
                wrong = "; ".join(residue)
            if not wrong or time.monotonic() > deadline:
                return wrong and f"after {_BACK_S:g} s: {wrong}", residue
            time.sleep(0.5)

    def unsettled(self, struck: Iterable[int]) -> str:
        """Why the agent is not at work, with other processes than those struck; or nothing."""
        look = self.warden.look()
        for role, alive in look.processes.items():
            if set(map(int, alive)) & set(struck):
                return f"the {role} that was struck is still there"
            if len(alive) != (role in ("keeper", "link")):
                return f"{len(alive)} × {role}"
            if set(alive.values()) & set("Tt"):
                return f"the {role} is stopped"
        if not look.well:
            return f"{VICTIM} does not run as it should, or the clock is wrong"
        try:
            node = self.roll.node(self.name)
        except LabError as error:
            return error.what
        active = [f["kind"] for f in node["faults"] if f["state"] not in ("ended", "refused")]
        if node["quarantine"]:
            return f"quarantined: {'; '.join(node['quarantine'])}"
        if node["state"] != "connected" or active or node["heartbeat_age_s"] > 1.5:
            return f"{node['state']}, {active}, heartbeat {node['heartbeat_age_s']:.1f} s ago"
        return ""

    def residue(self) -> list[str]:
        """How the node differs from before; faults that its journal does not end."""
        place = self.warden.order("journal")
        _, begun = self.warden.wait(place, "open")
        now = residue.listing(self.drill, self.name)
        return [
            *(f"journal: fault {fault} is open" for fault in begun),
            *residue.difference(self.before, now),
        ]
