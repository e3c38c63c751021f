"""Who somebody is, as the URI in their certificate says: ``chaos://agent/n1``.

A pure value without cryptography, so that it can be imported anywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from chaos_core.errors import InvalidInput

ROLES: Final = ("agent", "operator", "viewer", "controller")
SCHEME: Final = "chaos://"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}\Z")


@dataclass(frozen=True, slots=True)
class Identity:
    """A role and a name: ``agent/n1``, ``operator/ann``, ``viewer/bob``, or ``controller``."""

    role: str
    name: str = ""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise InvalidInput(f"unknown role {self.role!r}", hint=f"one of: {', '.join(ROLES)}")
        if self.role == "controller":
            if self.name:
                raise InvalidInput("the controller has no name of its own", hint="controller")
        elif not _NAME.match(self.name):
            raise InvalidInput(
                f"{self.name!r} is not a name for {self.role}",
                hint="1 to 32 of a-z, 0-9 and -, not beginning with -",
            )

    @classmethod
    def parse(cls, text: str) -> Identity:
        """Read ``role/name``. Raises InvalidInput."""
        role, _, name = text.partition("/")
        return cls(role, name)

    @classmethod
    def from_uri(cls, uri: str) -> Identity:
        """Read the URI of a certificate. Raises InvalidInput when it is not one of ours."""
        if not uri.startswith(SCHEME):
            raise InvalidInput(f"{uri!r} is not an identity", hint="for example chaos://agent/n1")
        return cls.parse(uri.removeprefix(SCHEME))

    @property
    def uri(self) -> str:
        return SCHEME + str(self)

    def __str__(self) -> str:
        return f"{self.role}/{self.name}" if self.name else self.role
