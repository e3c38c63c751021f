"""Commands and files on the VMs, by real OpenSSH over one multiplexed connection a VM.

Commands are argv lists from end to end: quoted once for the remote shell, so
an argument arrives as it was given.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from chaos_core.errors import LabError
from chaos_lab.image import Image
from chaos_lab.layout import LabDir, Seat
from chaos_lab.network import Network

_CONFIG = """\
# Written by `chaosctl lab up`. Works inside the network namespace {netns}.
Host *
    User root
    IdentityFile {key}
    IdentitiesOnly yes
    BatchMode yes
    LogLevel ERROR
    StrictHostKeyChecking yes
    UserKnownHostsFile {known_hosts}
    HostKeyAlias chaos-lab
    ConnectTimeout 10
    ServerAliveInterval 5
    ServerAliveCountMax 3
    ControlMaster auto
    ControlPath {sockets}/%n
    ControlPersist yes
"""

# Asked of a VM on which a command does not end: what systemd waits for, what hangs in the kernel,
# what was said last, and whether its clock runs.
_STUCK = """
systemctl list-jobs --no-pager --no-legend
ps --ppid 2 -p 2 --deselect -o pid=,ppid=,stat=,wchan:20=,etimes=,args= --cols 100
dmesg --level=emerg,alert,crit | tail -n 5
journalctl --no-pager --output=short-monotonic --lines=12 --quiet
sleep 0.1 && echo 'its clock runs'
"""
_STUCK_S = 15.0

_PUT = """
set -e
new=$(mktemp "$1.XXXXXX")
trap 'rm -f "$new"' EXIT
cat > "$new"
chmod "$2" "$new"
mv -f "$new" "$1"
"""


@dataclass(frozen=True)
class Result:
    """How a command on a VM ended."""

    returncode: int
    stdout: str
    stderr: str


class Remote:
    """The way into the VMs of one lab."""

    def __init__(self, lab: LabDir, network: Network) -> None:
        self._lab = lab
        self._network = network
        self._sockets = lab.run / "ssh"

    def configure(self, image: Image, seats: Sequence[Seat]) -> None:
        """Write the client's configuration for these VMs."""
        self._sockets.mkdir(parents=True, exist_ok=True)
        known_hosts = self._lab.home / "known_hosts"
        known_hosts.write_text(f"chaos-lab {image.host_key}\n")
        hosts = "".join(f"Host {seat.name}\n    HostName {seat.ip}\n" for seat in seats)
        self._lab.ssh_config.write_text(
            hosts
            + _CONFIG.format(
                netns=self._lab.netns,
                key=image.ssh_key,
                known_hosts=known_hosts,
                sockets=self._sockets,
            )
        )

    def command(self, name: str, argv: Sequence[str], *options: str) -> list[str]:
        """The host command that runs ``argv`` on a VM (without argv: a login shell)."""
        ssh = ["ssh", "-F", str(self._lab.ssh_config), *options, name]
        return self._network.enter([*ssh, *([shlex.join(argv)] if argv else [])])

    def exec(
        self,
        name: str,
        argv: Sequence[str],
        *,
        input: str | bytes | None = None,  # noqa: A002 - as in subprocess.run
        timeout: float = 60.0,
        check: bool = True,
    ) -> Result:
        """Run ``argv`` on a VM to its end.

        ``timeout`` in seconds; the remote command is not ended by it. Raises
        LabError on a timeout, when the VM cannot be reached, and, with
        ``check``, when the command fails.
        """
        done = self._run(name, argv, input=input, timeout=timeout, check=check)
        out, err = (stream.decode(errors="replace") for stream in (done.stdout, done.stderr))
        return Result(done.returncode, out, err)

    def popen(self, name: str, argv: Sequence[str]) -> subprocess.Popen[str]:
        """Start ``argv`` on a VM with its streams as text pipes.

        It has a (raw) terminal, so that it writes line by line and is hung up when the
        returned process ends; hence stderr comes with stdout.
        """
        return subprocess.Popen(
            self.command(name, argv, "-tt"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def put(self, name: str, path: str, content: str | bytes, mode: int = 0o644) -> None:
        """Write a file on a VM in one atomic step; ``mode`` is its permission bits."""
        self._run(name, ["sh", "-c", _PUT, "put", path, f"{mode:o}"], input=content)

    def get(self, name: str, path: str) -> bytes:
        """Read a file of a VM; LabError if it is not there."""
        return self._run(name, ["cat", "--", path]).stdout

    def disconnect(self, name: str) -> None:
        """Close the connection to a VM, if there is one."""
        if (self._sockets / name).exists():
            argv = self.command(name, [], "-O", "exit")
            subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)

    def _run(
        self,
        name: str,
        argv: Sequence[str],
        *,
        input: str | bytes | None = None,  # noqa: A002
        timeout: float = 60.0,
        check: bool = True,
    ) -> subprocess.CompletedProcess[bytes]:
        data = input.encode() if isinstance(input, str) else input
        shown = shlex.join(argv)
        shown = shown if len(shown) < 100 else f"{shown[:97]}…"
        try:
            done = subprocess.run(
                self.command(name, argv),
                input=data or b"",
                capture_output=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise LabError(
                f"`{shown}` did not end within {timeout:g} s", where=name, hint=self._stuck(name)
            ) from None
        if done.returncode == 255:
            said = done.stderr.decode(errors="replace").strip() or "the connection was lost"
            raise LabError(f"`{shown}` could not be run: {said}", where=name)
        if check and done.returncode:
            streams = (done.stderr.strip() or done.stdout.strip()).decode(errors="replace")
            said = "\n    ".join(streams.splitlines()[-8:])
            raise LabError(f"`{shown}` ended with {done.returncode}", where=name, hint=said)
        return done

    def _stuck(self, name: str) -> str:
        """What a VM says on which a command did not end, over a connection of its own."""
        argv = self.command(name, ["sh", "-c", _STUCK], "-o", "ControlPath=none")
        try:
            said = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_STUCK_S,
                check=False,
            ).stdout
        except subprocess.TimeoutExpired as silent:
            said = (silent.stdout or b"") + b"(and no more)"
        return "\n    ".join(["meanwhile on it:", *said.decode(errors="replace").splitlines()])


def interactive(argv: Sequence[str]) -> int:
    """Run a host command on the operator's own terminal and return its exit code."""
    sys.stdout.flush()
    return subprocess.run(list(argv), check=False).returncode
