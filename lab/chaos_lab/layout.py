"""Where a lab keeps its files, and how its parts are named and numbered.

Promise: two labs with different home directories share nothing but the build
cache, so they can run side by side on one machine.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from chaos_core.errors import InvalidInput, MissingPrerequisite

CONTROLLER = "controller"
MAX_NODES = 32
HOST_IP, HOST_IP6 = "10.77.0.1", "fd77::1"
PREFIX_LEN, PREFIX_LEN6 = 24, 64


@dataclass(frozen=True)
class Seat:
    """One VM's place on the lab's network: everything follows from its number."""

    name: str
    number: int
    memory_mib: int

    @property
    def ip(self) -> str:
        """IPv4 address, 10.77.0.10 for the controller, .11 and up for the nodes."""
        return f"10.77.0.{self.number}"

    @property
    def ip6(self) -> str:
        """IPv6 address; its last group reads like the IPv4 one's last byte."""
        return f"fd77::{self.number}"

    @property
    def mac(self) -> str:
        """Locally administered MAC address, unique in the lab."""
        return f"02:77:00:00:00:{self.number:02x}"

    @property
    def tap(self) -> str:
        """The tap device on the host's side, inside the lab's namespace."""
        return f"tap-{self.name}"

    @property
    def side_ip(self) -> str:
        """IPv4 address for the second interface, once somebody sets that up."""
        return f"10.78.0.{self.number}"

    @property
    def side_ip6(self) -> str:
        """IPv6 address for the second interface."""
        return f"fd78::{self.number}"

    @property
    def side_mac(self) -> str:
        """MAC address of the second interface."""
        return f"02:78:00:00:00:{self.number:02x}"

    @property
    def side_tap(self) -> str:
        """The second interface's tap device."""
        return f"side-{self.name}"


def seats(nodes: int) -> tuple[Seat, ...]:
    """The controller and ``n1`` … ``n<nodes>``; InvalidInput outside 0 … 32."""
    if not 0 <= nodes <= MAX_NODES:
        raise InvalidInput(f"{nodes} nodes: a lab has 0 to {MAX_NODES}", where="--nodes")
    workers = (Seat(f"n{i}", 10 + i, 384) for i in range(1, nodes + 1))
    return (Seat(CONTROLLER, 10, 512), *workers)


def project_root(start: Path | None = None) -> Path:
    """The nearest directory upwards whose pyproject.toml has a ``lab/chaos_lab`` beside it.

    Looks from ``start`` (default: the working directory), then from this file.
    """
    for origin in ((start or Path.cwd()).resolve(), Path(__file__).resolve()):
        for candidate in (origin, *origin.parents):
            if (candidate / "pyproject.toml").is_file() and (candidate / "lab/chaos_lab").is_dir():
                return candidate
    raise MissingPrerequisite(
        "the lab is built from the project's source, and there is none here",
        where=str(start or Path.cwd()),
        hint="run it inside a clone of the repository",
    )


@dataclass(frozen=True)
class LabDir:
    """The directories of one lab.

    ``home`` holds one fleet's state, disks and logs; ``cache`` holds built
    images and may be shared between labs.
    """

    root: Path
    home: Path
    cache: Path

    @classmethod
    def find(cls) -> LabDir:
        """``$CHAOS_LAB_DIR`` or ``<project>/.lab``; the cache is always the project's."""
        root = project_root()
        home = Path(os.environ.get("CHAOS_LAB_DIR") or root / ".lab").resolve()
        return cls(root, home, root / ".lab" / "cache")

    def beside(self, name: str) -> LabDir:
        """A second lab with its own fleet and the same cache."""
        return LabDir(self.root, self.home / name, self.cache)

    @cached_property
    def tag(self) -> str:
        """Six hexadecimal digits that tell this lab from others on the machine."""
        return hashlib.sha256(str(self.home).encode()).hexdigest()[:6]

    @property
    def netns(self) -> str:
        """Name of the lab's network namespace."""
        return f"chaos-lab-{self.tag}"

    @property
    def run(self) -> Path:
        """Sockets; outside ``home`` because a socket's path is at most 107 bytes."""
        return Path("/run") / self.netns

    @property
    def vms(self) -> Path:
        """Disks and console logs, one directory a VM."""
        return self.home / "vms"

    @property
    def state(self) -> Path:
        """What runs, as JSON."""
        return self.home / "state.json"

    @property
    def lock(self) -> Path:
        """Held by the command that changes the fleet."""
        return self.home / "lock"

    @property
    def ssh_config(self) -> Path:
        """Client configuration with one Host entry a VM."""
        return self.home / "ssh_config"
