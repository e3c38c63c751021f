"""Inside a node of the matrix: the node as a fleet, for the drill's checks of one node.

The node itself is ``n1``, with the product installed from its .deb and run by the release's
systemd. The controller and the peers ``n2`` and ``n3`` are network namespaces on a bridge,
with the addresses that they have in the lab; the controller is its own unit, in its namespace.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from chaos_core.errors import InvalidInput, LabError
from chaos_lab import layout, provision
from chaos_lab.layout import CONTROLLER, LabDir, Seat
from chaos_lab.network import BRIDGE, Network
from chaos_lab.process import run
from chaos_lab.remote import Result
from chaos_proto import files

_NODE, _DEVICE = "n1", "eth0"
_DROP_IN = Path(f"/etc/systemd/system/{provision.CONTROLLER_UNIT}.d/place.conf")
_PYTHON = Path("/opt/chaosctl/bin/python3")


class Hosts:
    """What the drill asks of a fleet, answered by one host. ``home`` keeps the operator's keys."""

    nodes = (_NODE,)

    def __init__(self, home: Path) -> None:
        self.lab = LabDir(layout.project_root(), home, home)
        self.network = Network(self.lab.netns)
        self._seats = {seat.name: seat for seat in layout.seats(3)}

    def wire(self) -> None:
        """Make the bridge and everybody's place at it."""
        self.network.create()
        for seat in self._seats.values():
            _wire(self.network, seat)
        _DROP_IN.parent.mkdir(parents=True, exist_ok=True)
        _DROP_IN.write_text(f"[Service]\nNetworkNamespacePath=/run/netns/{CONTROLLER}\n")

    def gone(self) -> None:
        """Purge the package with what enrolment has left, and take the places away."""
        _DROP_IN.unlink(missing_ok=True)
        run(["dpkg", "--purge", "chaosctl"])
        for seat in self._seats.values():
            if seat.name != _NODE:
                run(["ip", "netns", "del", seat.name])
        self.network.destroy()

    def seat(self, name: str) -> Seat:
        """Who has which address. Raises InvalidInput for a stranger."""
        if name not in self._seats:
            raise InvalidInput(f"there is no {name!r}", hint=f"there are {', '.join(self._seats)}")
        return self._seats[name]

    def command(self, name: str, argv: Sequence[str]) -> list[str]:
        """``argv`` as a command that runs at that place."""
        place = self.seat(name).name
        inside = [] if place == _NODE else ["nsenter", f"--net=/run/netns/{place}", "--"]
        return [*inside, *argv]

    def in_netns(self, argv: Sequence[str]) -> list[str]:
        """A command that runs at the bridge, where the lab's operator is."""
        return self.network.enter(argv)

    def exec(
        self,
        name: str,
        argv: Sequence[str],
        *,
        input: str | None = None,  # noqa: A002 - as in subprocess.run
        timeout: float = 60.0,
        check: bool = True,
    ) -> Result:
        """Run a command to its end, as ``Fleet.exec`` does."""
        try:
            done = subprocess.run(
                self.command(name, argv),
                input=input or "",
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise LabError(f"`{shlex.join(argv)}` did not end within {timeout:g} s") from None
        if check and done.returncode:
            said = done.stderr.strip() or done.stdout.strip()
            raise LabError(f"`{shlex.join(argv)}` ended with {done.returncode}: {said}", where=name)
        return Result(done.returncode, done.stdout, done.stderr)

    def popen(self, name: str, argv: Sequence[str]) -> subprocess.Popen[str]:
        """Start a command that writes line by line, as ``Fleet.popen`` does."""
        return subprocess.Popen(
            self.command(name, ["stdbuf", "-oL", *argv]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def put(self, name: str, path: str, content: str, mode: int = 0o644) -> None:
        """Write a file; all places share the node's file system."""
        self.seat(name)
        files.write(Path(path), content.encode(), mode)

    def get(self, name: str, path: str) -> bytes:
        """Read a file."""
        self.seat(name)
        return Path(path).read_bytes()

    def cut(self, one: str, other: str) -> None:
        """Partition two places from each other, outside both."""
        self.network.cut(self.seat(one), self.seat(other))

    def heal(self) -> None:
        """Undo every ``cut``."""
        self.network.heal(self._seats.values())


def install(deb: Path) -> None:
    """Install the package, as far as the release has what it depends on.

    Debian 12 has; on the others dpkg is told to go on, and the package gets the image's Python.
    """
    fits = Path("/usr/bin/python3").resolve() == Path("/usr/bin/python3.11")
    run(["dpkg", *(() if fits else ("--force-depends",)), "-i", str(deb)])
    if not fits:
        _PYTHON.unlink()
        _PYTHON.symlink_to("/usr/bin/python3.11")


def _wire(network: Network, seat: Seat) -> None:
    """A pair of interfaces from the bridge to the seat's place, which is made for it."""
    at = ["ip", "-n", network.name]
    run([*at, "link", "add", seat.tap, "type", "veth", "peer", "name", _DEVICE])
    run([*at, "link", "set", seat.tap, "master", BRIDGE, "up"])
    run([*at, "link", "add", seat.side_tap, "type", "dummy"])  # leads nowhere, but can be cut
    for tap in (seat.tap, seat.side_tap):
        run(network.enter(["tc", "qdisc", "add", "dev", tap, "clsact"]))
    if seat.name == _NODE:
        inside, place = ["ip"], "1"
    else:
        run(["ip", "netns", "add", seat.name])
        inside, place = ["ip", "-n", seat.name], seat.name
    run([*at, "link", "set", _DEVICE, "address", seat.mac, "netns", place])
    for words in (
        ("addr", "add", f"{seat.ip}/{layout.PREFIX_LEN}", "dev", _DEVICE),
        ("addr", "add", f"{seat.ip6}/{layout.PREFIX_LEN6}", "dev", _DEVICE, "nodad"),
        ("link", "set", _DEVICE, "up"),
        ("link", "set", "lo", "up"),
    ):
        run([*inside, *words])
