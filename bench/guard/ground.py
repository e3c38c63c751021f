"""A controller, one node and an app on this machine, real ones, each in its own namespaces.

::

    netns ctl  10.79.0.1  controller, chaosctl, Prometheus, Alertmanager, the app
               10.79.0.9  the peer that the fault is about
    netns node 10.79.0.2  keeper and link, and who connects to the peer, twenty times a second

The keeper sees no cgroup and no process of this machine, so that it sweeps nothing that
others have here. Nothing leaves the two namespaces.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from chaos_core.errors import LabError
from chaos_proto import files, pki
from chaos_proto.credentials import Credentials
from chaos_proto.identity import Identity

CTL, NODE, PEER = "10.79.0.1", "10.79.0.2", "10.79.0.9"
PORT, PEER_PORT = 7400, 8081
_READY_S: Final = 120.0
_BIN: Final = Path(sys.executable).parent

_AGENT: Final = """
import dataclasses, sys
from pathlib import Path
from chaos_agent import config, main
home = Path(sys.argv[1])
node = dataclasses.replace(
    config.load(home / "agent.toml"), state=home / "state", runtime=home / "run", pki=home / "pki"
)
config.load = lambda path: node  # the directories are not a matter of the file
sys.argv = ["chaos-agent", sys.argv[2]]
main.run()
"""
# An empty /sys/fs/cgroup and a /proc of its own.
_ALONE: Final = (
    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c"),
    'mount -t tmpfs none /sys/fs/cgroup && mount -t tmpfs none /run && exec "$@"',
    "alone",
)
_PEER: Final = f"""
import socket
server = socket.create_server(("{PEER}", {PEER_PORT}))
while True:
    server.accept()[0].close()
"""
_ASK: Final = f"""
import socket, time
while True:
    try:
        socket.create_connection(("{PEER}", {PEER_PORT}), 0.5).close()
        print("yes", flush=True)
    except OSError:
        print("no", flush=True)
    time.sleep(0.05)
"""


@dataclass
class Ground:
    """The two namespaces and all that runs in them, until ``close``."""

    home: Path
    stack: ExitStack = field(default_factory=ExitStack)
    heard: list[tuple[float, bool]] = field(default_factory=list)  # (host's clock, connected)

    def __enter__(self) -> Ground:
        try:
            self._network()
            self._programs()
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def at(self, where: str, argv: Sequence[str]) -> list[str]:
        """``argv`` in one of the two namespaces."""
        return ["ip", "netns", "exec", self._netns(where), *argv]

    def chaosctl(self, *argv: str) -> list[str]:
        """Run by the operator, in the controller's namespace."""
        whom = ["--controller", f"{CTL}:{PORT}", "--pki", str(self.home / "operator")]
        return self.at("ctl", [str(_BIN / "chaosctl"), *argv, *whom])

    def start(self, where: str, argv: Sequence[str], log: str) -> subprocess.Popen[bytes]:
        """A program that ends with the ground; its output is in the file ``log``."""
        return self.stack.enter_context(running(self.at(where, argv), self.home / log))

    # ── making it ─────────────────────────────────────────────────────────────────────────

    def _netns(self, where: str) -> str:
        return f"chaos-guard-{os.getpid()}-{where}"

    def _network(self) -> None:
        for where in ("ctl", "node"):
            _run("ip", "netns", "add", self._netns(where))
            self.stack.callback(_run, "ip", "netns", "del", self._netns(where))
        ctl, node = self._netns("ctl"), self._netns("node")
        pair = ["eth0", "netns", ctl, "type", "veth", "peer", "name", "eth0", "netns", node]
        _run("ip", "link", "add", *pair)
        for where, addresses in (("ctl", (CTL, PEER)), ("node", (NODE,))):
            for address in addresses:
                _run(*self.at(where, ["ip", "address", "add", f"{address}/24", "dev", "eth0"]))
            for device in ("lo", "eth0"):
                _run(*self.at(where, ["ip", "link", "set", device, "up"]))

    def _programs(self) -> None:
        home = self.home
        made = pki.init(home / "pki-ctl", names=[CTL])
        ca = pki.CA.load(made.directory, dt.timedelta(days=1))
        for name, directory in (("operator/ann", "operator"), ("agent/n1", "pki")):
            key, request = pki.new_key_and_csr()
            (home / directory).mkdir()
            credentials = Credentials(key, ca.sign_request(request, Identity.parse(name)), ca.pem)
            credentials.write(home / directory)
        files.write(
            home / "controller.toml",
            f'listen = "{CTL}"\npki = "{made.directory}"\n'
            f'database = "sqlite+aiosqlite:///{home}/controller.db"\n'.encode(),
        )
        files.write(
            home / "agent.toml",
            f'[node]\nname = "n1"\n[controller]\naddress = "{CTL}:{PORT}"\n'
            '[envelope]\nprofile = "lab"\n'.encode(),
        )
        (home / "run").mkdir()
        controller = [str(_BIN / "chaos-controller"), "run", "--config"]
        self.start("ctl", [*controller, str(home / "controller.toml")], "controller.log")
        self.start("ctl", [sys.executable, "-c", _PEER], "peer.log")
        agent = [sys.executable, "-c", _AGENT, str(home)]
        self.start("node", [*_ALONE, *agent, "run"], "keeper.log")
        self.start("node", [*agent, "link"], "link.log")
        asking = subprocess.Popen(
            self.at("node", [sys.executable, "-c", _ASK]), stdout=subprocess.PIPE, text=True
        )
        self.stack.callback(_end, asking)
        threading.Thread(target=self._listen, args=(asking,), daemon=True).start()
        self._await_node()

    def _listen(self, asking: subprocess.Popen[str]) -> None:
        assert asking.stdout
        for line in asking.stdout:
            self.heard.append((time.monotonic(), line == "yes\n"))

    def _await_node(self) -> None:
        def connected() -> bool:
            done = subprocess.run(
                self.chaosctl("nodes", "-o", "json"), capture_output=True, text=True, check=False
            )
            nodes = json.loads(done.stdout)["nodes"] if done.returncode == 0 else []
            return any(node["state"] == "connected" for node in nodes)

        wait_for(connected, "the node to be connected", _READY_S)


class Run:
    """A ``chaosctl run`` under way: its events, and when each arrived."""

    def __init__(self, ground: Ground, file: Path) -> None:
        self.events: list[tuple[float, dict[str, Any]]] = []
        self.process = subprocess.Popen(
            ground.chaosctl("run", str(file), "--yes", "-o", "json"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._said = ""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            try:
                self.events.append((time.monotonic(), json.loads(line)))
            except ValueError:
                self._said += line

    @property
    def id(self) -> str:
        return str(self.events[0][1]["run"])

    def reached(self, phase: str, timeout: float = 60) -> None:
        """Wait for a phase. Raises LabError when it ended before."""

        def there() -> bool:
            ended = self.process.poll() is not None
            if ended:
                self._thread.join(5)
            if any(event.get("phase") == phase for _, event in list(self.events)):
                return True
            if ended:
                said = self.events[-1][1].get("text") if self.events else self._said
                raise LabError(f"the run ended before {phase}: {said}")
            return False

        wait_for(there, phase, timeout)

    def wait(self, timeout: float = 60) -> int:
        code = self.process.wait(timeout)
        self._thread.join(5)
        return code

    def when(self, what: str, text: str = "") -> float:
        """When such a line of the timeline was said, on the host's clock; of several the last.

        Events arrive late and never early, so the earliest arrival tells when the run began.
        """
        began = min(at - event["at_us"] / 1_000_000 for at, event in self.events)
        found = [
            began + event["at_us"] / 1_000_000
            for _, event in self.events
            if event["event"] == what and text in event["text"]
        ]
        if not found:
            raise LabError(f"the run said no {what} {text}: {self.events[-1:]}")
        return float(found[-1])


@contextmanager
def running(argv: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program in the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield process
    finally:
        _end(process)


def wait_for(met: Any, what: str, timeout: float) -> None:
    """Raises LabError, naming it, when that does not happen in time."""
    until = time.monotonic() + timeout
    while not met():
        if time.monotonic() > until:
            raise LabError(f"waited {timeout:g} s in vain for {what}")
        time.sleep(0.1)


def _end(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True)
