"""The options that commands share, and where their values come from.

Precedence: the option, its environment variable, the config file, the default.
Imports nothing heavy, since every start pays for it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from chaos_core.errors import InvalidInput

SYSTEM_PKI = Path("/etc/chaos/pki/operator/admin")  # where `pki init` puts the first one
_KNOWN = ("controller", "pki")


class Output(StrEnum):
    """How a command prints: for people, or one JSON document (a line each for streams)."""

    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[Output, typer.Option("-o", "--output", help="How to print.")]
ControllerOption = Annotated[
    str,
    typer.Option(
        "--controller",
        envvar="CHAOSCTL_CONTROLLER",
        metavar="HOST:PORT",
        help="The controller to talk to.",
        show_default=False,
    ),
]
PkiOption = Annotated[
    Path | None,
    typer.Option(
        "--pki",
        envvar="CHAOSCTL_PKI",
        metavar="DIR",
        help="Where this operator's identity.pem is.",
        show_default=False,
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@dataclass(frozen=True, slots=True)
class Target:
    """Which controller, and who we are to it."""

    controller: str
    pki: Path


def home() -> Path:
    """The directory of the operator's own files."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "chaosctl"


def default_pki() -> Path:
    """The operator's own identity; else the machine's, if it has one."""
    own = home() / "pki"
    return SYSTEM_PKI if not own.is_dir() and os.access(SYSTEM_PKI, os.R_OK) else own


def target(controller: str, pki: Path | None) -> Target:
    """Fill in what was not given on the command line. Raises InvalidInput."""
    path = home() / "config.toml"
    config = read_config(path)
    controller = controller or config.get("controller", "")
    if not controller:
        raise InvalidInput(
            "no controller is named",
            hint=f'--controller HOST:PORT, CHAOSCTL_CONTROLLER, or controller = "…" in {path}',
        )
    if pki is None:
        pki = Path(config["pki"]).expanduser() if "pki" in config else default_pki()
    return Target(controller, pki)


def read_config(path: Path) -> dict[str, str]:
    """The config file's fields; empty when there is none. Raises InvalidInput at file:line."""
    import tomllib

    try:
        text = path.read_text(encoding="utf-8")
        data: dict[str, Any] = tomllib.loads(text)
    except FileNotFoundError:
        return {}
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"not TOML: {error}", where=f"{path}:{_line(str(error))}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read it: {error}", where=str(path)) from None
    for key, value in data.items():
        where = f"{path}:{_line_of(text, key)}"
        if key not in _KNOWN:
            known = ", ".join(_KNOWN)
            raise InvalidInput(f"unknown field {key!r}", where=where, hint=f"one of: {known}")
        if not isinstance(value, str) or not value:
            raise InvalidInput(f"{key}: {value!r} is not a text", where=where, hint="quote it")
    return data


def _line(message: str) -> str:
    """The line that a TOML error is about; at the end of the file it names none."""
    _, _, rest = message.partition("line ")
    return rest.split(",")[0] if rest else "end"


def _line_of(text: str, key: str) -> int:
    lines = text.splitlines()
    starts = (key, f'"{key}"', f"[{key}", f"'{key}'")
    return next((n for n, line in enumerate(lines, 1) if line.strip().startswith(starts)), 1)
