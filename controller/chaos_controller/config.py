"""``/etc/chaos/controller.toml``. Every field has a default, so the file may be missing."""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from chaos_core.errors import InvalidInput
from chaos_core.faults import nearest
from chaos_core.lease import TTL, check_timing
from chaos_core.units import Duration
from chaos_experiment.probes import Context, Network
from chaos_proto import address as addresses

PATH: Final = Path("/etc/chaos/controller.toml")
_LIFE: Final = Duration.parse("2160h")  # 90 days
COMMAND_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_LIVES: Final = (Duration.parse("2s"), Duration.parse("8784h"))


@dataclass(frozen=True, slots=True)
class Probes:
    """What only this machine gives to probes: the table ``[probes]``.

    ``commands`` are the programs that a ``command`` probe may run, by name, each an argument
    vector that begins with an absolute path. ``secrets`` is a directory of files. To addresses in
    ``protected`` no probe talks, nor to those of a cloud's metadata, which hold credentials.
    """

    secrets: Path = Context().secrets
    commands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    protected: tuple[Network, ...] = ()

    @property
    def context(self) -> Context:
        return Context(self.commands, self.secrets)

    @staticmethod
    def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
        """Raises ValueError for what is no address or network."""
        return tuple(ipaddress.ip_network(text) for text in texts)


@dataclass(frozen=True, slots=True)
class Config:
    """How this controller is set up. ``ttl`` is the longest a lease lasts unrenewed.

    ``certificate_life`` is how long the certificates are valid that it issues.
    ``port`` is for agents and operators (mutual TLS), ``enrolment_port`` for those
    who have no certificate yet; 0 takes any free one. ``pki`` holds ca.pem, ca.key
    and controller.names. ``site`` is a file of conditions that every experiment keeps.
    """

    listen: str = "::"
    port: int = addresses.PORT
    enrolment_port: int = addresses.ENROLMENT_PORT
    pki: Path = Path("/etc/chaos/pki")
    database: str = "sqlite+aiosqlite:////var/lib/chaos/controller.db"
    ttl: Duration = TTL
    certificate_life: Duration = _LIFE
    site: Path | None = None
    probes: Probes = field(default_factory=Probes)


def load(path: Path | None = None) -> Config:
    """Read the file; without ``path`` the usual one, which may be missing.

    Raises InvalidInput with file, line and field.
    """
    chosen = path or PATH
    try:
        text = chosen.read_text(encoding="utf-8")
    except FileNotFoundError:
        if path is None:
            return Config()
        raise InvalidInput("no such file", where=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read it: {error}", where=str(chosen)) from None
    return parse(text, str(chosen))


def parse(text: str, name: str = "controller.toml") -> Config:
    """The configuration in a file's text. Raises InvalidInput."""
    try:
        data = tomllib.loads(text)
    except RecursionError:
        raise InvalidInput("not TOML: nested too deeply", where=name) from None
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        where = f"{name}:{line[1]}" if line else name
        raise InvalidInput(f"not TOML: {error}", where=where) from None
    probes = _probes(data.pop("probes", {}), text, name)
    return Config(**_read(data, Config, _field, text, name), probes=probes)


def _read(
    data: Mapping[str, Any],
    cls: type,
    read: Callable[[str, object], object],
    text: str,
    name: str,
    table: str = "",
) -> dict[str, Any]:
    """The fields of a table, each as ``read`` has it. Raises InvalidInput with line and field."""
    known = {each.name: None for each in fields(cls)}
    values: dict[str, Any] = {}
    for key, value in data.items():
        where = f"{name}:{_line_of(text, key)}"
        if key not in known:
            what = f"unknown field {table + key!r}"
            raise InvalidInput(what, where=where, hint=nearest(key, known))
        try:
            values[key] = read(key, value)
        except InvalidInput as error:
            place = error.where and f"{name}:{_line_of(text, error.where)}"
            what = f"{table}{key}: {error.what}"
            raise InvalidInput(what, where=place or where, hint=error.hint) from None
    return values


def _probes(data: object, text: str, name: str) -> Probes:
    if not isinstance(data, dict):
        where = f"{name}:{_line_of(text, 'probes')}"
        raise InvalidInput("probes: not a table", where=where, hint="[probes]")
    return Probes(**_read(data, Probes, _probe_field, text, name, "probes."))


def _probe_field(key: str, value: object) -> object:
    """Raises InvalidInput, which names in ``where`` the key below that it is about."""
    if key == "secrets":
        return _absolute(value)
    if key == "protected":
        hint = 'a list, like ["10.0.0.0/8", "192.0.2.7"]'
        if not isinstance(value, list):
            raise InvalidInput(f"{value!r} is not a list", hint=hint)
        try:
            return Probes.parse_networks(map(str, value))
        except ValueError as error:
            raise InvalidInput(str(error), hint=hint) from None
    if not isinstance(value, dict):
        raise InvalidInput("not a table", hint="[probes.commands]")
    return {name: _command(name, argv) for name, argv in value.items()}


def _command(name: str, argv: object) -> tuple[str, ...]:
    hint = f'{name} = ["/usr/local/bin/queue-depth", "--json"]'
    if not COMMAND_NAME.fullmatch(name):
        what = f"{name!r} is not a name: small letters, digits, _ and -, at most 32"
        raise InvalidInput(what, where=name)
    if not isinstance(argv, list) or not argv or not all(isinstance(each, str) for each in argv):
        raise InvalidInput(f"{name}: not a list of texts", where=name, hint=hint)
    if not argv[0].startswith("/"):
        what = f"{name}: {argv[0]!r} is not an absolute path"
        raise InvalidInput(what, where=name, hint=hint)
    return tuple(argv)


def _absolute(value: object) -> Path:
    if not isinstance(value, str) or not value.startswith("/"):
        raise InvalidInput(f"{value!r} is not an absolute path")
    return Path(value)


def _field(key: str, value: object) -> object:
    if key == "site":
        return _absolute(value)
    if key in ("port", "enrolment_port"):
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 65536:
            raise InvalidInput(f"{value!r} is not a port")
        return value
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"{value!r} is not a text", hint="put it in quotes")
    if key == "pki":
        return Path(value)
    if key == "ttl":
        ttl = Duration.parse(value)
        check_timing(ttl)
        return ttl
    if key == "certificate_life":
        life, (least, most) = Duration.parse(value), _LIVES
        if not least <= life <= most:
            raise InvalidInput(f"{value} is not between {least} and {most}")
        return life
    if key == "listen":
        try:
            return str(ipaddress.ip_address(value))
        except ValueError:
            raise InvalidInput(
                f"{value!r} is not an IP address", hint='"::" listens on all of them'
            ) from None
    return value


def _line_of(text: str, key: str) -> int:
    """The line on which ``key`` stands, for the error's reader; 1 if it cannot be told."""
    pattern = re.compile(rf"\s*\[*\s*[\"']?{re.escape(key)}\b")
    lines = text.splitlines()
    return next((number for number, line in enumerate(lines, 1) if pattern.match(line)), 1)
