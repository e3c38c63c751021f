"""Workers: started, renewed and ended. They live in a cgroup of their own, beside ours."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import dataclass, field

from chaos_agent.linux import children
from chaos_agent.linux.systemd import RUNNING, Systemd
from chaos_core.errors import Unsupported
from chaos_core.text import printable

_MODULE = "chaos_agent.workers"
# CAP_NET_ADMIN, by program: the kernel asks for it at each verdict on a queued packet.
_CAPABILITIES = {"tamper": 1 << 12}
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

    def __init__(self, systemd: Systemd) -> None:
        self._systemd = systemd
        self._running: dict[str, _Run] = {}

    def start(
        self, name: str, program: str, arguments: str, expires_us: int, deadline_us: int
    ) -> None:
        """Start a worker; ``look`` says when it works. Raises Unsupported."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._running[name] = run = _Run(ours)
        apart = RUNNING.is_dir()
        words = (name, program, deadline_us, expires_us, 0 if apart else os.getpid(), arguments)
        argv = [sys.executable, "-I", "-m", _MODULE, *map(str, words)]
        with theirs:
            if apart:
                self._systemd.serve(name, argv, theirs.fileno(), _CAPABILITIES.get(program, 0))
            else:
                line = theirs.fileno()
                run.child = subprocess.Popen(
                    argv, stdin=line, stdout=line, stderr=subprocess.DEVNULL, env={}, cwd="/"
                )

    def look(self, name: str) -> tuple[int, str]:
        """The worker's pid and what it says is missing, which is nothing when it does its work.

        Raises Unsupported when it is no more.
        """
        run = self._running.get(name)
        if run is None:
            raise Unsupported(f"worker {name} is none of this keeper's")
        try:
            while not run.ended and (said := run.line.recv(4096)):
                run.heard = (run.heard + said)[-_HEARD:]
            run.ended = True
        except BlockingIOError:
            pass
        except OSError:
            run.ended = True
        if run.ended:
            raise Unsupported(f"worker {name} has ended")
        *lines, _ = run.heard.split(b"\n")
        if not lines:
            return 0, "it is starting"
        pid, _, text = lines[-1].decode(errors="replace").partition(" ")
        return int(pid) if pid.isdigit() else 0, printable(text, _SAID)

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
        for pid, found in children.find().items():
            if found == name:
                children.kill(pid)
        if run is not None and run.child is not None:
            run.child.wait(1)
        self._systemd.dismiss(name)

    def left(self, name: str) -> str | None:
        """One line when something of the worker is still there."""
        pids = [pid for pid, found in children.find().items() if found == name]
        if pids or self._systemd.serves(name):
            return f"worker {name} still runs" + (f" as {pids}" if pids else "")
        return None

    def close(self) -> None:
        for name in list(self._running):
            self.stop(name)
