"""One node of the matrix: a real kernel under QEMU's software emulation.

Its clock counts instructions while it computes (``-icount``), so the node sees a CPU of
steady speed and a lease of three seconds is as long for it as for any other host, however
busy this machine is. It has no network but what it makes inside itself.

Promise: its process ends with ``close`` or with ours, and nothing else is ever signalled.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from chaos_core.errors import LabError, MissingPrerequisite
from chaos_lab.layout import LabDir
from chaos_lab.matrix.image import Image
from chaos_lab.remote import Result

_PROGRAM = "qemu-system-x86_64"
_MEMORY_MIB = 1024
_BOOT_S = 400.0
_PR_SET_PDEATHSIG = 1


class Machine:
    """A running node; a context manager. ``logs`` keeps what its console said."""

    def __init__(self, lab: LabDir, image: Image, project: Path, logs: Path) -> None:
        if shutil.which(_PROGRAM) is None:
            raise MissingPrerequisite(
                f"`{_PROGRAM}` is not installed", hint="run tools/bootstrap.sh"
            )
        self.name = image.release.name
        logs.mkdir(parents=True, exist_ok=True)
        self.console = logs / f"{self.name}.console.log"
        self._lab, self._image, self._project = lab, image, project
        self._buffer = b""
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory(prefix="chaos-matrix-")
        place = Path(self._directory.name)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(place / "port"))
        listener.listen(1)
        self._process = subprocess.Popen(
            self._command(place),
            stdin=subprocess.DEVNULL,
            stdout=self.console.open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "TMPDIR": str(self._lab.cache)},
            preexec_fn=_end_with_parent,
        )
        try:
            listener.settimeout(20)
            self._port, _ = listener.accept()
            listener.close()
            self.kernel = str(self._message(time.monotonic() + _BOOT_S, "it did not boot")["up"])
        except TimeoutError:
            self.close()
            raise self._failure("QEMU did not start") from None
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Switch it off, and forget its disk's changes."""
        if self._process is None:
            return
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._directory.cleanup()

    def exec(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        timeout: float = 120.0,
        check: bool = True,
        tell: Callable[[str], None] | None = None,
    ) -> Result:
        """Run a command to its end; ``tell`` gets each line that it prints (both streams) at once.

        ``timeout`` is the longest silence, in seconds. Raises LabError when it is exceeded, when
        the node has ended and, with ``check``, when the command fails.
        """
        shown = shlex.join(argv)
        shown = shown if len(shown) < 100 else f"{shown[:97]}…"
        self._port.sendall(
            json.dumps({"argv": list(argv), "env": dict(env or {})}).encode() + b"\n"
        )
        lines: list[str] = []
        while True:
            deadline = time.monotonic() + timeout
            message = self._message(deadline, f"`{shown}` has said nothing for {timeout:g} s")
            if "ended" in message:
                break
            lines.append(message["out"])
            if tell:
                tell(message["out"])
        status = int(message["ended"])
        if check and status:
            raise LabError(
                f"`{shown}` ended with {status}", where=self.name, hint="\n    ".join(lines[-8:])
            )
        return Result(status, "\n".join(lines), "")

    def _message(self, deadline: float, late: str) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._failure(late)
            self._port.settimeout(left)
            try:
                data = self._port.recv(65536)
            except TimeoutError:
                continue
            if not data:
                raise self._failure("its kernel has ended")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def _command(self, place: Path) -> list[str]:
        image = self._image
        words = (
            "console=ttyS0 quiet systemd.show_status=0"
            f" net.ifnames=0 panic=-1 mitigations=off project={self._lab.root}"
        )
        return [
            *(_PROGRAM, "-accel", "tcg,thread=single", "-icount", "shift=0", "-rtc", "clock=vm"),
            *("-smp", "1", "-m", str(_MEMORY_MIB), "-nographic", "-no-reboot", "-nic", "none"),
            *("-nodefaults", "-serial", "stdio", "-monitor", "none"),
            *("-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", words),
            *("-drive", f"file={image.disk},if=virtio,format=raw,snapshot=on,cache=unsafe"),
            *("-drive", f"file={self._project},if=virtio,format=raw,readonly=on"),
            *("-chardev", f"socket,id=matrix,path={place / 'port'}"),
            *("-device", "virtio-serial", "-device", "virtserialport,chardev=matrix,name=matrix"),
        ]

    def _failure(self, what: str) -> LabError:
        last = self.console.read_text(errors="replace").splitlines()[-5:]
        return LabError(what, where=self.name, hint="\n    ".join([f"see {self.console}", *last]))


def _end_with_parent() -> None:
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
