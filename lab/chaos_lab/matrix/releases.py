"""The Debian releases of the matrix, and what their disk images are made of.

Data only. Anything here is part of an image's cache key, so an edit rebuilds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from chaos_core.errors import InvalidInput

PYTHON = "/usr/bin/python3.11"
"""The interpreter of the project's environment, by this path on every release."""


@dataclass(frozen=True)
class Release:
    """One Debian release. ``python`` says whose interpreter runs the product there, ``more``

    which packages it needs besides, ``kernel`` the package of its kernel.
    """

    name: str
    suite: str
    python: str
    more: tuple[str, ...] = ()
    kernel: str = "linux-image-cloud-amd64"


RELEASES: Mapping[str, Release] = MappingProxyType(
    {
        "debian11": Release(
            "debian11",
            "bullseye",
            "bookworm's, with bookworm's C library",
            # That of the last point release: mirrors have its security archive in part only.
            kernel="linux-image-cloud-amd64/bullseye",
        ),
        "debian12": Release("debian12", "bookworm", "its own"),
        "debian13": Release(
            "debian13", "trixie", "bookworm's, with its own C library", ("docker-cli",)
        ),
    }
)


def choose(names: str) -> tuple[Release, ...]:
    """Releases by their names, with commas; all if none is named. Raises InvalidInput."""
    wanted = [name.strip() for name in names.split(",") if name.strip()] or [*RELEASES]
    for name in wanted:
        if name not in RELEASES:
            raise InvalidInput(
                f"no host of the matrix is called {name!r}",
                where="--only",
                hint=f"there are {', '.join(RELEASES)}",
            )
    return tuple(RELEASES[name] for name in dict.fromkeys(wanted))


PYTHON_FROM = RELEASES["debian12"]

BASE = (
    *("busybox-static", "dbus", "e2fsprogs", "ipset", "iproute2", "iptables", "iputils-ping"),
    *("kmod", "nftables", "openssh-server", "procps", "systemd", "systemd-sysv", "udev"),
)
"""Packages of every image."""

NEIGHBOURS = ("apparmor", "docker.io", "firewalld", "podman", "ufw")
"""What the product has to get on with, each from the release itself. None starts by itself."""

EXCLUDED = ("/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*")

DISABLED = (
    *("docker.service", "docker.socket", "containerd.service", "firewalld.service", "ufw.service"),
    *("podman.service", "podman.socket", "podman-auto-update.timer", "podman-restart.service"),
    *("nftables.service", "netfilter-persistent.service", "networking.service"),
    "dbus-org.fedoraproject.FirewallD1.service",  # by which podman's plugins would start it
)
"""Units that do not start by themselves, where there are such."""

PRESET = (
    "# A case starts what it needs.\n" + "\n".join(f"disable {unit}" for unit in DISABLED) + "\n"
)
"""For systemd, which enables everything at the first boot that no preset disables."""

UNIT = """\
[Unit]
Description=Runs what the matrix asks for
After=basic.target

[Service]
ExecStart={python} -B /usr/local/sbin/matrix-agent
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
OOMScoreAdjust=-900

[Install]
WantedBy=multi-user.target
"""
