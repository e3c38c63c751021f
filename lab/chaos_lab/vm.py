"""One VM: a User-Mode Linux kernel as a process on the host.

Its disk is a copy-on-write file beside the image, which survives a power cut
and goes away with the fleet. Its console is a log file.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from pathlib import Path

from chaos_core.errors import LabError, MissingPrerequisite
from chaos_lab import uml
from chaos_lab.guest import READY
from chaos_lab.image import Image
from chaos_lab.layout import PREFIX_LEN, PREFIX_LEN6, LabDir, Seat
from chaos_lab.network import Network
from chaos_lab.process import Process


class VM:
    """The machine in one seat of a lab; ``process`` is None while it has no power."""

    def __init__(self, lab: LabDir, seat: Seat, process: Process | None = None) -> None:
        self.seat = seat
        self.directory = lab.vms / seat.name
        self.process = process
        self._lab = lab
        self._sockets = lab.run / "uml"
        self._seen = 0

    @property
    def console(self) -> Path:
        """Log of everything that the VM printed since the fleet came up."""
        return self.directory / "console.log"

    @property
    def disk(self) -> Path:
        """The VM's own changes to the image (sparse)."""
        return self.directory / "disk.cow"

    @property
    def running(self) -> bool:
        """Whether its kernel runs; says nothing about the system in it."""
        return self.process is not None and self.process.alive

    def start(self, image: Image, network: Network) -> None:
        """Switch it on. A disk of an earlier start is used as it is."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._sockets.mkdir(parents=True, exist_ok=True)
        self._seen = self.console.stat().st_size if self.console.exists() else 0
        with self.console.open("ab") as log:
            try:
                child = subprocess.Popen(
                    network.enter(self._command_line(image)),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            except FileNotFoundError as absent:
                raise MissingPrerequisite(
                    f"`{absent.filename}` is not installed", hint="run tools/bootstrap.sh"
                ) from absent
        self.process = Process.of(child.pid)
        child.returncode = 0  # the lab outlives this command; Process looks after it from here on

    def wait_ready(self, *, timeout: float = 90.0) -> str:
        """Wait until systemd has booted it since the last start; return the boot id.

        ``timeout`` in seconds. LabError with the console's last lines if it
        does not come up in time or its kernel ends.
        """
        deadline = time.monotonic() + timeout
        while True:
            with self.console.open("rb") as log:
                log.seek(self._seen)
                head, marker, tail = log.read().rpartition(f"{READY} ".encode())
            if marker and b"\n" in tail:
                self._seen += len(head + marker)
                return tail.split()[0].decode()
            if not self.running:
                raise self._failure("its kernel ended while booting")
            if time.monotonic() > deadline:
                raise self._failure(f"not up after {timeout:g} s")
            time.sleep(0.1)

    def wait_off(self, *, timeout: float = 60.0) -> None:
        """Wait until it has switched itself off. LabError after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while self.running:
            if time.monotonic() > deadline:
                raise self._failure(f"still on after {timeout:g} s")
            time.sleep(0.05)

    def power_cut(self) -> None:
        """End it at once, as if its plug were pulled: no shutdown, no sync. Idempotent."""
        if self.process is not None:
            self.process.kill_group()
            self.process = None

    def discard(self) -> None:
        """Delete its disk and its log."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _command_line(self, image: Image) -> list[str]:
        seat = self.seat
        cpus = sorted(os.sched_getaffinity(0))
        machine_id = hashlib.sha256(f"chaos-lab {self.directory}".encode()).hexdigest()[:32]
        return [
            *uml.command(self._lab, cpus[seat.number % len(cpus)]),
            f"mem={seat.memory_mib}M",
            f"umid={seat.name}",
            f"uml_dir={self._sockets}/",
            f"ubd0={self.disk},{image.disk}",
            "root=/dev/ubda",
            "rootfstype=ext4",
            "rw",
            "con=null",
            "con0=fd:0,fd:1",
            "quiet",
            "selinux=0",
            "systemd.show_status=0",
            f"systemd.hostname={seat.name}",
            f"systemd.machine_id={machine_id}",
            f"labip={seat.ip}/{PREFIX_LEN}",
            f"labip6={seat.ip6}/{PREFIX_LEN6}",
            f"vec0:transport=tap,ifname={seat.tap},mac={seat.mac},depth=128,gro=1",
            f"vec1:transport=tap,ifname={seat.side_tap},mac={seat.side_mac},depth=128,gro=1",
        ]

    def ended(self) -> LabError:
        """What to raise when its kernel has ended by itself: with its last word, if it had one."""
        said = self.console.read_text(errors="replace").splitlines()
        panic = next((line for line in reversed(said) if line.startswith("Kernel panic")), "")
        return LabError(
            f"its kernel has ended: {panic}".removesuffix(": "),
            where=self.seat.name,
            hint=f"see {self.console}",
        )

    def _failure(self, what: str) -> LabError:
        last = self.console.read_text(errors="replace").splitlines()[-5:]
        return LabError(
            what, where=self.seat.name, hint="\n    ".join([f"see {self.console}", *last])
        )
