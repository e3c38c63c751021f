"""``/etc/chaos/controller.toml``. Every field has a default, so the file may be missing."""

from __future__ import annotations

import ipaddress
import re
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from chaos_core.errors import InvalidInput
from chaos_core.faults import nearest
from chaos_core.lease import TTL, check_timing
from chaos_core.units import Duration
from chaos_proto import address as addresses

PATH: Final = Path("/etc/chaos/controller.toml")
_LIFE: Final = Duration.parse("2160h")  # 90 days
_LIVES: Final = (Duration.parse("2s"), Duration.parse("8784h"))


@dataclass(frozen=True, slots=True)
class Config:
    """How this controller is set up. ``ttl`` is the longest a lease lasts unrenewed.

    ``certificate_life`` is how long the certificates are valid that it issues.
    ``port`` is for agents and operators (mutual TLS), ``enrolment_port`` for those
    who have no certificate yet; 0 takes any free one. ``pki`` holds ca.pem, ca.key
    and controller.names.
    """

    listen: str = "::"
    port: int = addresses.PORT
    enrolment_port: int = addresses.ENROLMENT_PORT
    pki: Path = Path("/etc/chaos/pki")
    database: str = "sqlite+aiosqlite:////var/lib/chaos/controller.db"
    ttl: Duration = TTL
    certificate_life: Duration = _LIFE


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
    known = {field.name: field.default for field in fields(Config)}
    values: dict[str, Any] = {}
    for key, value in data.items():
        where = f"{name}:{_line_of(text, key)}"
        if key not in known:
            raise InvalidInput(f"unknown field {key!r}", where=where, hint=nearest(key, known))
        try:
            values[key] = _field(key, value)
        except InvalidInput as error:
            raise InvalidInput(f"{key}: {error.what}", where=where, hint=error.hint) from None
    return Config(**values)


def _field(key: str, value: object) -> object:
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
