"""What every check of the drill works with: the fleet, the operator's hand, the results."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from chaos_core.errors import LabError
from chaos_lab import provision
from chaos_lab.fleet import Fleet


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the drill's table."""

    id: str
    promise: str
    expected: str
    measured: float | str
    unit: str
    passed: bool

    @property
    def shown(self) -> str:
        """The measured value with its unit, for people."""
        value = f"{self.measured:.2f}" if isinstance(self.measured, float) else self.measured
        return f"{value} {self.unit}".strip()


class Injection:
    """A ``chaosctl inject`` under way: its events as they arrive."""

    def __init__(self, argv: list[str]) -> None:
        self.events: list[tuple[float, dict[str, Any]]] = []
        self._process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                self.events.append((time.monotonic(), json.loads(line)))

    def reached(self, phase: str, timeout: float = 30.0) -> float:
        """When the run entered ``phase``. Raises LabError when it ended before, or not in time."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            ended = self.ended
            for at, event in list(self.events):
                if event.get("phase") == phase:
                    return at
            if ended:
                raise LabError(f"the run ended before {phase}: {self.last_words()}")
            time.sleep(0.01)
        raise LabError(f"the run did not reach {phase} within {timeout:g} s")

    @property
    def ended(self) -> bool:
        """Whether chaosctl has ended, and so the run, unless the controller was lost."""
        return self._process.poll() is not None

    def wait(self, timeout: float = 90.0) -> int:
        """The exit code of chaosctl. Raises LabError when it does not end in time."""
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise LabError(f"the run did not end within {timeout:g} s") from None
        self._thread.join(2)
        return code

    def last_words(self) -> str:
        """What chaosctl, which has ended, said last."""
        self._thread.join(2)
        said = self._process.stderr.read().strip() if self._process.stderr else ""
        return said or str(self.events[-1:])

    def drop(self) -> None:
        """End the client; the run does not care."""
        self._process.kill()
        self._process.wait()


@dataclass(slots=True)
class Drill:
    """A provisioned fleet and the checks so far. ``say`` tells people what goes on."""

    fleet: Fleet
    say: Callable[[str], None]
    checks: list[Check] = field(default_factory=list)
    tell: Callable[[Check], None] = lambda _: None

    def check(
        self,
        name: str,
        promise: str,
        expected: str,
        measured: float | str,
        unit: str,
        passed: bool,
    ) -> None:
        """Record a result and show it."""
        found = Check(name, promise, expected, measured, unit, passed)
        self.checks.append(found)
        self.tell(found)

    def ip(self, name: str) -> str:
        """A VM's IPv4 address."""
        return self.fleet.seat(name).ip

    # ── the operator's hand ───────────────────────────────────────────────────────────────

    def chaosctl(self, *argv: str, timeout: float = 60.0) -> tuple[int, str, str]:
        """Run chaosctl; exit code, stdout, stderr."""
        done = subprocess.run(
            provision.operator_argv(self.fleet, list(argv)),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def inject(self, kind: str, *params: str, nodes: tuple[str, ...], seconds: int) -> Injection:
        """Start a run in the background."""
        targets = [word for node in nodes for word in ("-n", node)]
        argv = ["inject", kind, *targets, *params, "--for", f"{seconds}s", "--yes", "-o", "json"]
        return Injection(provision.operator_argv(self.fleet, argv))

    @contextmanager
    def fault(
        self, kind: str, *params: str, nodes: tuple[str, ...], seconds: int = 60
    ) -> Iterator[Injection]:
        """A run that is in force inside the block and aborted after it, latch lifted."""
        run = self.inject(kind, *params, nodes=nodes, seconds=seconds)
        try:
            run.reached("observe")
            yield run
        finally:
            try:
                self.abort()
            finally:
                self.resume()
            run.wait()

    def abort(self) -> tuple[float, list[dict[str, Any]]]:
        """The red button: when it was pressed, and what each node said."""
        pressed = time.monotonic()
        code, out, err = self.chaosctl("abort", "--reason", "drill", "-o", "json")
        if code not in (0, 4):
            raise LabError(f"abort ended with {code}: {err.strip()}")
        return pressed, [json.loads(line) for line in out.splitlines() if line.startswith("{")]

    def resume(self) -> None:
        """Lift the latch."""
        provision.operate(self.fleet, ["resume", "--reason", "drill"])

    def node(self, name: str) -> dict[str, Any]:
        """What the controller says about one node."""
        nodes = json.loads(provision.operate(self.fleet, ["nodes", "-o", "json"]))["nodes"]
        return next(dict(node) for node in nodes if node["name"] == name)

    def set_profile(self, profile: str, *nodes: str) -> None:
        """Change the nodes' own files and restart their keepers, as root on the node would."""

        def change(name: str) -> None:
            provision.write_config(self.fleet, name, profile)
            self.fleet.exec(name, ["systemctl", "restart", provision.KEEPER_UNIT], timeout=60)

        with ThreadPoolExecutor() as pool:
            list(pool.map(change, nodes))
        self.wait_for(
            lambda: all(
                (node := self.node(name))["state"] == "connected" and node["profile"] == profile
                for name in nodes
            ),
            f"{', '.join(nodes)} to be back with profile {profile}",
        )

    def wait_for(self, met: Callable[[], bool], what: str, timeout: float = 40.0) -> None:
        """Wait for a condition. Raises LabError, naming it."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if met():
                return
            time.sleep(0.2)
        raise LabError(f"waited {timeout:g} s in vain for {what}")
