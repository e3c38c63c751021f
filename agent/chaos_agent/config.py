"""``/etc/chaos/agent.toml``: who this node is and what it allows at most.

The file decides the node's ceilings, so it must belong to root and be writable
by nobody else, in a directory of which the same holds; anything else is refused.
"""

from __future__ import annotations

import difflib
import os
import re
import socket
import stat
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos_agent import allowed
from chaos_agent.allowed import ProbeRules
from chaos_agent.services import ADDRESS, Service, service
from chaos_core import envelope
from chaos_core.addresses import network
from chaos_core.envelope import Envelope
from chaos_core.errors import InvalidInput, Refused
from chaos_core.node import DEFAULT_MARK_MASK, Hook, Protected
from chaos_core.units import Duration, Percent

DEFAULT_PATH = Path("/etc/chaos/agent.toml")
STATE = Path("/var/lib/chaos-agent")
RUNTIME = Path("/run/chaos")
PKI = Path("/var/lib/chaos-link")  # the link renews what is there
LINK_USER = "chaos"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}\Z")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}=[A-Za-z0-9._-]{1,63}\Z")
_MOST_LABELS = 32

_KEYS = {
    "node": ("name", "labels"),
    "controller": ("address",),
    "envelope": (
        *("profile", "latency", "loss", "cpu", "memory", "runs"),
        *("duration_latency", "duration_loss", "duration_cpu", "duration_memory"),
    ),
    "network": ("mark_mask", "ssh_ports", "protected"),
    "units": ("protected",),
    "probes": ("hosts", "files", "commands", "kinds"),
}
_LISTS = ("hooks", *ADDRESS)  # of tables, by the names that root gives them
_HOOK_KEYS = ("run", "undo", "user", "timeout")
_HOOK_TIMEOUT = Duration.parse("5s")
_LONGEST_HOOK = Duration.parse("10s")  # a fault that takes longer to be in force is given up


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """The checked configuration. ``controller`` is ``host:port``, or empty."""

    node: str
    controller: str = ""
    envelope: Envelope = field(default=envelope.PROFILES[envelope.DEFAULT_PROFILE])
    protected: Protected = Protected()
    mark_mask: int = DEFAULT_MARK_MASK
    hooks: Mapping[str, Hook] = field(default_factory=dict)
    services: Mapping[str, Service] = field(default_factory=dict)  # by names like postgres.shop
    state: Path = STATE
    runtime: Path = RUNTIME
    pki: Path = PKI
    labels: tuple[str, ...] = ()
    probes: ProbeRules = field(default_factory=ProbeRules)

    @property
    def socket(self) -> Path:
        """Where keeper and link meet."""
        return self.runtime / "keeper.sock"


def load(path: Path = DEFAULT_PATH) -> AgentConfig:
    """Read and check the file. Raises InvalidInput or Refused with file and line.

    A file that is not there is an empty one: profile ``production``, no controller.
    """
    try:
        check_owner(path)
        if not path.is_file():
            raise InvalidInput("not a regular file", where=str(path))
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if path != DEFAULT_PATH:
            raise InvalidInput("no such file", where=str(path)) from None
        text = ""
    except PermissionError:
        raise InvalidInput("not readable", where=str(path), hint="chmod 0644 it") from None
    except OSError as error:
        raise InvalidInput(f"not readable: {error.strerror}", where=str(path)) from None
    except UnicodeDecodeError as error:
        raise InvalidInput(f"not UTF-8: {error.reason}", where=str(path)) from None
    return parse(text, str(path))


def check_owner(path: Path) -> None:
    """Raise Refused unless only root can write ``path`` and its directory."""
    for place in (path.parent, path):
        info = place.stat()
        if info.st_uid != 0 or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise Refused(
                "writable by others than root, so anybody could raise this node's limits",
                where=str(place),
                hint=f"chown root {place} && chmod go-w {place}",
            )


def parse(text: str, where: str) -> AgentConfig:
    """Check the text of an agent.toml. ``where`` is its name in messages."""
    try:
        data = tomllib.loads(text)
    except RecursionError:
        raise InvalidInput("not TOML: nested too deeply", where=where) from None
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        raise InvalidInput(str(error), where=f"{where}:{line[1] if line else 1}") from None
    return _Reader(text, where, data).config()


class _Reader:
    """Takes values out of the parsed file and knows at which line each stands."""

    def __init__(self, text: str, where: str, data: dict[str, Any]) -> None:
        self.lines = text.splitlines()
        self.where = where
        self.data = data

    def config(self) -> AgentConfig:
        self._known()
        controller = str(self._get("controller", "address", "", _text))
        return AgentConfig(
            node=str(self._get("node", "name", _hostname(), _node_name)),
            labels=tuple(self._get("node", "labels", (), _labels)),
            controller=controller,
            envelope=self._envelope(),
            protected=Protected(
                controllers=self._resolve(controller),
                peers=tuple(self._get("network", "protected", (), _cidrs)),
                ssh_ports=tuple(self._get("network", "ssh_ports", (22,), _ports)),
                units=tuple(self._get("units", "protected", (), _patterns)),
            ),
            mark_mask=int(self._get("network", "mark_mask", DEFAULT_MARK_MASK, _mask)),
            hooks={name: self._hook(name, text) for name, text in self._listed("hooks", _HOOK)},
            services={
                f"{kind}.{name}": self._service(kind, name, given)
                for kind in ADDRESS
                for name, given in self._listed(kind, _example(kind))
            },
            probes=self._probes(),
        )

    def _probes(self) -> ProbeRules:
        """``[probes]`` and ``[probes.commands]``: what probes may touch from here."""
        commands: dict[str, tuple[str, ...]] = {}
        for name, argv in self._get("probes", "commands", {}, _table).items():
            try:
                if not allowed.COMMAND_NAME.match(name):
                    raise ValueError("its name is 1 to 32 of a-z, 0-9, '-' and '_'")
                commands[name] = _argv(argv)
            except ValueError as error:
                where = self._line("probes.commands", name)
                raise InvalidInput(
                    f"probes.commands.{name}: {error}", where=where, hint=_COMMAND
                ) from None
        return ProbeRules(
            hosts=self._get("probes", "hosts", (), allowed.hosts),
            files=self._get("probes", "files", (), allowed.files),
            commands=commands,
            only=self._get("probes", "kinds", allowed.KINDS, allowed.kinds),
        )

    def _listed(self, section: str, hint: str) -> Iterable[tuple[str, Any]]:
        """The tables below ``[section.…]``, by name."""
        found = self.data.get(section, {})
        if not isinstance(found, dict):
            where = self._line(section, section)
            raise InvalidInput(f"{section} are tables", where=where, hint=hint)
        return found.items()

    def _service(self, kind: str, name: str, given: Any) -> Service:
        """``[postgres.NAME]`` and the like: where it is that a fault may touch."""
        try:
            _node_name(name)
            return service(kind, given)
        except ValueError as error:
            where = self._line(f"{kind}.{name}", f"{kind}.{name}")
            raise InvalidInput(
                f"{kind}.{name}: {error}", where=where, hint=_example(kind)
            ) from None

    def _hook(self, name: str, given: Any) -> Hook:
        """``[hooks.NAME]``: what may be run here, by whom and how long."""
        where = self._line(f"hooks.{name}", f"hooks.{name}")
        try:
            _node_name(name)
            if not isinstance(given, dict) or set(given) - set(_HOOK_KEYS):
                raise ValueError(f"it may say {', '.join(_HOOK_KEYS)}")
            timeout = Duration.parse(_text(given.get("timeout", str(_HOOK_TIMEOUT))))
            if not 0 < timeout <= _LONGEST_HOOK:
                raise ValueError(f"timeout is up to {_LONGEST_HOOK}")
            return Hook(
                name=name,
                run=_argv(given.get("run")),
                undo=_argv(given["undo"]) if "undo" in given else (),
                user=_text(given.get("user")),
                timeout=int(timeout),
            )
        except (ValueError, InvalidInput) as error:
            why = error.what if isinstance(error, InvalidInput) else str(error)
            raise InvalidInput(f"hooks.{name}: {why}", where=where, hint=_HOOK) from None

    def _known(self) -> None:
        for section, values in self.data.items():
            if section in _LISTS:
                continue
            if section not in _KEYS or not isinstance(values, dict):
                raise self._error(section, section, _hint(section, (*_KEYS, *_LISTS)))
            for key in values:
                if key not in _KEYS[section]:
                    raise self._error(section, key, _hint(key, _KEYS[section]))

    def _get(self, section: str, key: str, default: Any, check: Callable[[Any], Any]) -> Any:
        values = self.data.get(section, {})
        if key not in values:
            return default
        try:
            return check(values[key])
        except ValueError as error:
            raise InvalidInput(
                f"{section}.{key}: {error}", where=self._line(section, key)
            ) from None

    def _envelope(self) -> Envelope:
        values = dict(self.data.get("envelope", {}))
        profile = values.pop("profile", envelope.DEFAULT_PROFILE)
        ceilings: dict[str, object] = {}
        for key, value in values.items():
            kind = Percent if key in ("loss", "cpu", "memory") else Duration
            try:
                ceilings[key] = value if key == "runs" else kind.parse(str(value))
                envelope.lowered(str(profile), {key: ceilings[key]})
            except InvalidInput as error:
                raise InvalidInput(
                    f"envelope.{key}: {error.what}",
                    where=self._line("envelope", key),
                    hint=error.hint,
                ) from None
        try:
            return envelope.lowered(str(profile), ceilings)
        except InvalidInput as error:
            raise InvalidInput(
                error.what, where=self._line("envelope", "profile"), hint=error.hint
            ) from None

    def _resolve(self, controller: str) -> tuple[str, ...]:
        """The controller's addresses, so that traffic to it can be protected."""
        if not controller:
            return ()
        where = self._line("controller", "address")
        host, _, port = controller.rpartition(":")
        if not host or not port.isdigit():
            raise InvalidInput(f"controller.address: {controller!r} is not host:port", where=where)
        try:
            found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        except OSError as error:
            raise InvalidInput(
                f"controller.address: {host!r} does not resolve ({error.strerror})",
                where=where,
                hint="give an address, or a name from /etc/hosts: the keeper has no network, and"
                " traffic to the controller cannot be protected without its address",
            ) from None
        return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))

    def _error(self, section: str, key: str, hint: str) -> InvalidInput:
        return InvalidInput(f"unknown key {key!r}", where=self._line(section, key), hint=hint)

    def _line(self, section: str, key: str) -> str:
        inside = section == key
        for number, line in enumerate(self.lines, 1):
            if line.strip().startswith(f"[{section}]"):
                inside = True
                if section == key:
                    return f"{self.where}:{number}"
            elif inside and re.match(rf"\s*[\"']?{re.escape(key)}\b", line):
                return f"{self.where}:{number}"
        return self.where


def _hint(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else f"one of: {', '.join(known)}"


def _hostname() -> str:
    return os.uname().nodename.split(".")[0].lower()


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not text")
    return value


def _node_name(value: Any) -> str:
    if not _NAME.match(_text(value)):
        raise ValueError(f"{value!r}: use 1 to 32 of a-z, 0-9 and '-'")
    return str(value)


def _labels(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > _MOST_LABELS:
        raise ValueError(f"a list of at most {_MOST_LABELS} labels is expected, like ['role=db']")
    for item in value:
        if not _LABEL.match(_text(item)):
            raise ValueError(f"{item!r} is not a label like role=db")
    return tuple(value)


def _cidrs(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError("a list of addresses or CIDRs is expected")
    return tuple(str(network(item)) for item in value)


def _patterns(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError("a list of services is expected, like ['postgresql*']")
    texts = [_text(item) for item in value]
    return tuple(name if "*" in name or "." in name else f"{name}.service" for name in texts)


def _example(kind: str) -> str:
    key, _, example = ADDRESS[kind]
    return f"[{kind}.shop] {key} = {example!r}"


_COMMAND = "[probes.commands] queue-depth = ['/usr/local/bin/queue-depth', '--orders']"
_HOOK = "[hooks.gc] run = ['/usr/bin/jcmd', 'app', 'GC.run'], user = 'app'; undo, timeout"


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or len(value) > allowed.MOST_LISTED:
        raise ValueError(f"a table of at most {allowed.MOST_LISTED} is expected, like {_COMMAND}")
    return value


def _argv(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= 64:
        raise ValueError("a command is a list of words, the first the path of a program")
    words = tuple(map(_text, value))
    if not words[0].startswith("/") or any("\0" in word or len(word) > 1024 for word in words):
        raise ValueError(f"{words[0]!r} is not the absolute path of a program")
    return words


def _ports(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= 15:
        raise ValueError("a list of 1 to 15 TCP ports is expected")
    if any(not isinstance(port, int) or not 0 < port < 65536 for port in value):
        raise ValueError(f"{value!r} are not TCP ports")
    return tuple(value)


def _mask(value: Any) -> int:
    if not isinstance(value, int) or not 0 < value < 2**32 or value.bit_count() < 2:
        raise ValueError("a mask of two or more of 32 bits is expected, like 0x0f000000")
    return value
