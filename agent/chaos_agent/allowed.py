"""What root lets probes touch from this node: the table ``[probes]`` of agent.toml.

Whoever controls the controller may have every node look at something. So a node's probes talk
to no host, run no program and read no file that is not listed here; the link, which looks,
keeps to it, and its ceilings are in ``chaos_experiment.offer``. Nothing of that is loaded here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MACHINE = ("host", "process")  # they tell of the node what any of its users can see
NETWORK = ("http", "tcp", "dns", "grpc")
KINDS = (*MACHINE, *NETWORK, "command", "file")
COMMAND_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}\Z")
MOST_LISTED = 64
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?\Z")
_LONGEST_PATH = 1024


@dataclass(frozen=True, slots=True)
class ProbeRules:
    """``hosts`` are names, addresses and CIDRs; ``commands`` argument vectors by name."""

    hosts: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    commands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    only: tuple[str, ...] = KINDS

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of probes that can look from here."""
        possible = {
            *MACHINE,
            *(NETWORK if self.hosts else ()),
            *(["command"] if self.commands else []),
            *(["file"] if self.files else []),
        }
        return tuple(kind for kind in KINDS if kind in possible and kind in self.only)


def hosts(value: Any) -> tuple[str, ...]:
    """Raises ValueError."""
    return tuple(_host(text) for text in _texts(value, "hosts, like ['10.0.0.0/24', 'localhost']"))


def files(value: Any) -> tuple[str, ...]:
    """Raises ValueError."""
    found = _texts(value, "absolute paths, like ['/var/lib/shop/heartbeat']")
    for path in found:
        if not path.startswith("/") or len(path) > _LONGEST_PATH or "\0" in path:
            raise ValueError(f"{path!r} is not an absolute path")
    return found


def kinds(value: Any) -> tuple[str, ...]:
    """Raises ValueError."""
    found = _texts(value, f"kinds, of {', '.join(KINDS)}")
    for kind in found:
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is not one of {', '.join(KINDS)}")
    return found


def _host(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    if "/" in text or ":" in text:
        return str(ipaddress.ip_network(text))
    if not _HOST.match(text.lower()):
        raise ValueError(f"{text!r} is no host, address or CIDR")
    return text.lower()


def _texts(value: Any, what: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"a list is expected, of {what}")
    if len(value) > MOST_LISTED:
        raise ValueError(f"at most {MOST_LISTED} are expected")
    return tuple(value)
