"""Databases and caches that root has listed in agent.toml: where they are, and how to get in.

The link reads agent.toml too, so no password may stand there. It is in a file of root's
own, which the keeper reads when a worker needs it and hands on through a pipe: never in
an argument, a log, the journal, or over the wire.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos_core.errors import Unsupported

# The key that says where it is, and what that looks like.
ADDRESS = {
    "postgres": ("dsn", re.compile(r"postgres(ql)?://\S+"), "postgresql://chaos@10.0.0.5/shop"),
    "redis": ("url", re.compile(r"(rediss?|unix)://\S+"), "redis://10.0.0.6:6379/0"),
    "memcached": ("address", re.compile(r"\S+:\d{1,5}|/\S+"), "10.0.0.7:11211"),
}
PASSWORD_FILE = "password_file"  # noqa: S105 - the name of a key
_PASSWORD = re.compile(r"//[^/@]*:[^/@]*@|[?&](ssl)?password=", re.IGNORECASE)
_LONGEST = 1024


@dataclass(frozen=True, slots=True)
class Service:
    """One of them. ``password_file`` is empty when it takes none."""

    address: str
    password_file: str = ""

    def credentials(self) -> dict[str, str]:
        """What a worker needs to get in. Raises Unsupported when the file is not root's alone."""
        if not self.password_file:
            return {"address": self.address, "password": ""}
        path = Path(self.password_file)
        try:
            with path.open(encoding="utf-8") as file:
                info = os.fstat(file.fileno())
                password = file.read(_LONGEST).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Unsupported(f"{PASSWORD_FILE} {path} cannot be read: {error}") from None
        if info.st_uid != 0 or info.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise Unsupported(
                f"{PASSWORD_FILE} {path} can be read or written by others than root",
                hint=f"chown root {path} && chmod 0600 {path}",
            )
        return {"address": self.address, "password": password}


def service(kind: str, given: Any) -> Service:
    """Check ``[KIND.NAME]`` of agent.toml. Raises ValueError."""
    key, pattern, example = ADDRESS[kind]
    keys = (key,) if kind == "memcached" else (key, PASSWORD_FILE)
    if not isinstance(given, Mapping) or set(given) - set(keys):
        raise ValueError(f"it may say {', '.join(keys)}")
    address, password_file = given.get(key), given.get(PASSWORD_FILE, "")
    if not isinstance(address, str) or len(address) > _LONGEST or not pattern.fullmatch(address):
        raise ValueError(f"{key} is like {example!r}")
    if _PASSWORD.search(address):
        raise ValueError(f"{key}: others may read this file; put the password in {PASSWORD_FILE}")
    if not isinstance(password_file, str) or (password_file and password_file[0] != "/"):
        raise ValueError(f"{PASSWORD_FILE} is the absolute path of a file that only root can read")
    return Service(address, password_file)
