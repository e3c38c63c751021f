"""A keeper as a process, and the other end of its socket."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

from chaos_core.messages import Apply, Grant, Heartbeat, Hello, Message, from_keeper

_PROGRAM = """
import dataclasses, os, sys, time
from pathlib import Path
from chaos_agent import config, keeper, main
between, slow = keeper.Keeper._between, float(os.environ.get("SLOW_APPLY", 0))
def _between(self):
    standing = self.supervisor.engine.standing.values()
    if slow and not self._inside and any(one.state == "applying" for one in standing):
        time.sleep(slow)
    between(self)
keeper.Keeper._between = _between
state, runtime = map(Path, sys.argv[1:3])
node = dataclasses.replace(config.parse(sys.argv[3], "test"), state=state, runtime=runtime)
config.load = lambda path: node  # the directories are not a matter of the file
sys.argv = ["chaos-agent", "run"]
main.run()
"""


class Link:
    """The other end of the keeper's socket."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(10)
        self.socket.connect(str(path))
        hello = from_keeper(self.socket.recv(1 << 20))
        assert isinstance(hello, Hello)
        self.hello = hello

    def heartbeat(self) -> Heartbeat:
        message = from_keeper(self.socket.recv(1 << 20))
        assert isinstance(message, Heartbeat)
        return message

    def send(self, message: Message) -> None:
        self.socket.send(message.model_dump_json().encode())

    def grant(self, seq: int) -> None:
        """Renew everything, in answer to a heartbeat."""
        self.send(Grant(epoch=1, seq=seq, ttl_us=3_000_000, runs=("r-1",)))

    def ask(self, seq: int, fault: str, kind: str, **params: str) -> None:
        """Ask for a fault, in answer to a heartbeat."""
        self.send(
            Apply(
                epoch=1,
                seq=seq,
                ttl_us=3_000_000,
                run="r-1",
                fault=fault,
                kind=kind,
                params=json.dumps(params),
                duration_us=60_000_000,
            )
        )

    def apply(self, fault: str, kind: str, **params: str) -> str:
        """Ask for a fault; returns its state once it is known."""
        self.ask(self.heartbeat().seq, fault, kind, **params)
        while True:
            for status in self.heartbeat().faults:
                if status.fault == fault and status.state != "applying":
                    return status.state

    def closed(self) -> bool:
        """Whether the keeper has hung up, once what it had sent is read."""
        try:
            while self.socket.recv(1 << 20):
                continue
        except ConnectionResetError:
            return True
        return True


class Keeper:
    """Started in the caller's namespace; ``envelope`` is that section of its agent.toml.

    ``SLOW_APPLY`` in ``env`` is a delay in seconds before each step of an apply.
    """

    def __init__(
        self,
        directory: Path,
        envelope: str = 'profile = "lab"',
        *,
        log: IO[str] | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        self.socket = directory / "run" / "keeper.sock"
        text = f'[node]\nname = "n1"\n[envelope]\n{envelope}\n'
        directories = [str(directory / "state"), str(directory / "run")]
        argv = [sys.executable, "-c", _PROGRAM, *directories, text]
        self._log = log or tempfile.TemporaryFile("w+", dir=directory)  # noqa: SIM115 - kept
        self.process = subprocess.Popen(argv, stderr=self._log, env={**os.environ, **(env or {})})

    def end(self) -> str:
        """Stop it in good order and return its log."""
        self.process.terminate()
        log = self.ended()
        assert self.process.returncode == 0, log
        return log

    def ended(self) -> str:
        """Wait for its end and return its log."""
        self.process.wait(20)
        self._log.seek(0)
        return self._log.read()
