"""Where the controller listens, as people write it: ``host``, ``host:port``, ``[::1]:7400``."""

from __future__ import annotations

import ipaddress
from typing import Final

from chaos_core.errors import InvalidInput

PORT: Final = 7400  # mutual TLS: agents and operators
ENROLMENT_PORT: Final = 7401  # server TLS: those who have no certificate yet


def split(address: str, default_port: int = PORT) -> tuple[str, int]:
    """Host and port; an IPv6 address without brackets has no port. Raises InvalidInput."""
    text = address.strip()
    try:
        return str(ipaddress.ip_address(text.strip("[]"))), default_port
    except ValueError:
        pass
    host, colon, port = text.rpartition(":")
    if not colon:
        host, port = text, str(default_port)
    host = host.strip("[]")
    number = int(port) if port.isascii() and port.isdecimal() else 0
    if not host or " " in host or "/" in host or not 0 < number < 65536:
        raise InvalidInput(
            f"{address!r} is not an address", hint=f"write it like controller.example:{PORT}"
        )
    return host, number


def join(host: str, port: int) -> str:
    """The opposite of ``split``, as gRPC wants it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
