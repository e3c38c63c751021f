"""systemd's notification protocol: READY, WATCHDOG, STOPPING (sd_notify(3)).

Nothing here waits: PID 1 may have other things to do than to read.
"""

from __future__ import annotations

import os
import socket


class Notifier:
    """Tells systemd how we are; does nothing where there is no systemd. ``address`` may be ''.

    No dataclass: a worker says that it is ready before it imports anything that is slow to.
    """

    __slots__ = ("address",)

    def __init__(self, address: str) -> None:
        self.address = address

    @classmethod
    def from_environment(cls) -> Notifier:
        return cls(os.environ.get("NOTIFY_SOCKET", ""))

    def ready(self) -> None:
        self._say("READY=1")

    def alive(self) -> None:
        self._say("WATCHDOG=1")

    def stopping(self) -> None:
        self._say("STOPPING=1")

    def _say(self, text: str) -> None:
        if not self.address:
            return
        name = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        with socket.socket(socket.AF_UNIX, kind) as sender:
            try:
                sender.connect(name)
                sender.send(text.encode())
            except OSError:
                return  # systemd draws its own conclusions from silence
