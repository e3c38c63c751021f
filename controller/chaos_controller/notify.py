"""Tell systemd how far we are: sd_notify in its few lines."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> None:
    """Send ``READY=1`` or the like; nothing happens when systemd did not start us."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.connect("\0" + path[1:] if path.startswith("@") else path)
            sender.sendall(state.encode())
        except OSError:
            return  # systemd's own timeout will say so
