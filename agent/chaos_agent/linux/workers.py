"""Workers: started, renewed and ended. They live in a cgroup of their own, beside ours."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from chaos_agent.linux import children
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.cgroupfs import members
from chaos_agent.linux.systemd import RUNNING, Systemd
from chaos_agent.services import Service
from chaos_core.errors import Unsupported
from chaos_core.text import printable

_MODULE = "chaos_agent.workers"
# CAP_NET_ADMIN, by program: the kernel asks for it at each verdict on a queued packet.
_CAPABILITIES = {"tamper": 1 << 12}
_TO_SAY_SO = 1_000_000  # µs that a worker has to say that its lease runs
_HEARD, _SAID = 4096, 200  # bytes of what a worker says that are kept, and told


@dataclass(slots=True)
class _Run:
    """One worker. ``line`` is our end of its stdin and stdout."""

    line: socket.socket
    heard: bytes = b""
    ended: bool = False
    child: subprocess.Popen[bytes] | None = field(default=None)


class Workers:
    """The workers that this process has started, by name."""

    def __init__(self, systemd: Systemd, services: Mapping[str, Service]) -> None:
        self._systemd = systemd
        self._services = services
        self._running: dict[str, _Run] = {}

    def start(
        self,
        name: str,
        program: str,
        arguments: str,
        expires_us: int,
        deadline_us: int,
        service: str = "",
    ) -> None:
        """Start a worker; ``look`` says when it works. Raises Unsupported.

        What it is told goes by its stdin, which nobody else can read.
        """
        told = json.loads(arguments) | ({"service": self._credentials(service)} if service else {})
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._running[name] = run = _Run(ours)
        ours.send(f"{json.dumps(told)}\n".encode())
        apart = RUNNING.is_dir()
        words = (name, program, deadline_us, expires_us, 0 if apart else os.getpid())
        argv = [sys.executable, "-I", "-m", _MODULE, *map(str, words)]
        with theirs:
            if apart:
                mask, within = _CAPABILITIES.get(program, 0), expires_us - now_us() + _TO_SAY_SO
                self._systemd.serve(name, argv, theirs.fileno(), within, mask)
            else:
                line = theirs.fileno()
                run.child = subprocess.Popen(
                    argv, stdin=line, stdout=line, stderr=subprocess.DEVNULL, env={}, cwd="/"
                )

    def _credentials(self, service: str) -> dict[str, str]:
        if service not in self._services:
            raise Unsupported(f"{service} is not listed in this agent's file")
        return self._services[service].credentials()

    def look(self, name: str) -> tuple[int, str]:
        """The worker's pid and what it says is missing, which is nothing when it does its work.

        Raises Unsupported, with the last that it said, when it is no more.
        """
        run = self._running.get(name)
        if run is None:
            raise Unsupported(f"worker {name} is none of this keeper's")
        try:
            while not run.ended and (heard := run.line.recv(4096)):
                run.heard = (run.heard + heard)[-_HEARD:]
            run.ended = True
        except BlockingIOError:
            pass
        except OSError:
            run.ended = True
        *lines, _ = run.heard.split(b"\n")
        if not run.ended:  # a library's warning on stderr comes by the same line, and says nothing
            lines = [line for line in lines if line.partition(b" ")[0].isdigit()]
        last = lines[-1] if lines else b"0 it is starting"
        pid, _, text = last.decode(errors="replace").partition(" ")
        said = printable(text, _SAID)
        if run.ended and not lines:
            raise Unsupported(
                f"worker {name} ended while it was starting: its lease was over, or something"
                f" kept it from starting (`journalctl -u {name}`)"
            )
        if run.ended:
            raise Unsupported(f"worker {name} has ended" + (f": {said}" if said else ""))
        return int(pid) if pid.isdigit() else 0, said

    def renew(self, name: str, expires_us: int) -> bool:
        """Tell a worker its new expiry; False when it is no more, or reads nothing."""
        run = self._running.get(name)
        if run is None or run.ended:
            return False
        try:
            run.line.send(f"{expires_us}\n".encode())
        except OSError:
            return False
        return True

    def stop(self, name: str) -> None:
        """Kill every process of that name, whoever started it, and see it gone."""
        run = self._running.pop(name, None)
        if run is not None:
            run.line.close()
        for pid in self._pids(name, run):
            children.kill(pid)
        if run is not None and run.child is not None:
            run.child.wait(1)
        self._systemd.dismiss(name)

    def names(self) -> list[str]:
        """The workers that this process has started and not stopped."""
        return sorted(self._running)

    def pids(self, name: str) -> list[int]:
        """The processes of that name, whoever started them."""
        return self._pids(name, self._running.get(name))

    def _pids(self, name: str, run: _Run | None) -> list[int]:
        """From the child process, else the service's cgroup, else, without systemd, /proc."""
        if run is not None and run.child is not None:
            return [run.child.pid] if run.child.poll() is None else []
        return members(f"system.slice/{name}.service") if RUNNING.is_dir() else children.named(name)

    def left(self, name: str) -> str | None:
        """One line when something of the worker is still there."""
        pids = self.pids(name)
        if pids or self._systemd.serves(name):
            return f"worker {name} still runs" + (f" as {pids}" if pids else "")
        return None

    def close(self) -> None:
        for name in list(self._running):
            self.stop(name)
