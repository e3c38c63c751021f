"""The privileged process: one thread, one socket, the lease clock and the engine.

It listens on ``keeper.sock`` for a single link, which it trusts with nothing: a
link can fail to renew, or ask for what the envelope allows. It imports no
network library; what reaches it are a few typed JSON messages.

The loop never blocks for longer than a fault takes to be applied or reverted. Between any
two effects of one it goes on with what cannot wait: systemd's watchdog, heartbeats, grants
and reverts, and the ends of other faults. It ends every fault when it is told to stop.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import selectors
import signal
import socket
import stat
import struct
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chaos_agent.config import LINK_USER
from chaos_agent.linux import waiting
from chaos_agent.notify import Notifier
from chaos_agent.supervisor import Supervisor
from chaos_core.errors import InvalidInput, Refused
from chaos_core.lease import HEARTBEAT_INTERVAL
from chaos_core.log import Log
from chaos_core.messages import (
    MAX_CONNECTIONS_PER_S,
    MAX_MESSAGE,
    MAX_MESSAGES_PER_S,
    Apply,
    Hello,
    Message,
    Release,
    Revert,
    to_keeper,
)

_STOP_TRIES, _STOP_PAUSE_S = 15, 0.2
_AT_ONCE = 4  # messages that are read between two effects
_LONGEST_SLEEP = 500_000  # µs; a signal or the watchdog waits no longer


class Listener:
    """The socket for the link, and the check of who is at its other end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.allowed = {0}
        with contextlib.suppress(KeyError):
            self.allowed.add(pwd.getpwnam(LINK_USER).pw_uid)
        draft = path.with_suffix(".new")  # whoever sees the socket can connect to it
        for place in (path, draft):
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISSOCK(place.lstat().st_mode):
                    raise Refused("something that is not a socket is in the way", where=str(place))
                place.unlink()
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.bind(str(draft))
        draft.chmod(0o660)
        with contextlib.suppress(KeyError):
            os.chown(draft, 0, grp.getgrnam(LINK_USER).gr_gid)
        self.socket.listen(4)
        self.socket.setblocking(False)
        draft.rename(path)

    def accept(self) -> socket.socket | None:
        """A new connection, or None when the peer is neither root nor the link's user."""
        try:
            connection, _ = self.socket.accept()
        except OSError:
            return None
        data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, uid, _ = struct.unpack("3i", data)
        if uid not in self.allowed:
            connection.close()
            return None
        connection.setblocking(False)
        return connection

    def close(self) -> None:
        self.socket.close()
        self.path.unlink(missing_ok=True)


class _Rate:
    """So many a second and no more, however many connections they come by."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._second = 0
        self._count = 0

    def admits(self, now: int) -> bool:
        if now - self._second >= 1_000_000:
            self._second, self._count = now, 0
        self._count += 1
        return self._count <= self._most


class Keeper:
    """The loop around a Supervisor. ``clock`` is CLOCK_BOOTTIME in µs."""

    def __init__(
        self,
        supervisor: Supervisor,
        hello: Callable[[], Hello],
        listener: Listener,
        clock: Callable[[], int],
        log: Log,
    ) -> None:
        self.supervisor = supervisor
        self.hello = hello
        self.listener = listener
        self.clock = clock
        self.log = log
        self.notify = Notifier.from_environment()
        supervisor.engine.step = self._between
        self.stopping = ""
        self._later: deque[Apply | Revert | Release] = deque()  # for when the work is done
        self._inside = False
        self._link: socket.socket | None = None
        self._selector = selectors.DefaultSelector()
        self._next_heartbeat = 0
        self._messages = _Rate(MAX_MESSAGES_PER_S)
        self._connections = _Rate(MAX_CONNECTIONS_PER_S)

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then end every fault."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        waiting.meanwhile = self._stay_alive
        self._selector.register(self.listener.socket, selectors.EVENT_READ, self._accept)
        self.notify.ready()
        self.log.info("ready", profile=self.supervisor.config.envelope.profile)
        try:
            while not self.stopping:
                for key, _ in self._selector.select(self._timeout()):
                    key.data()
                while self._later:
                    self.supervisor.obey(self._later.popleft(), self.clock())
                self.supervisor.tick(self.clock())
                self._beat()
                self.notify.alive()
        finally:
            self.notify.stopping()
            self._end_all()
            self._beat()
            self._drop_link("keeper stops")
            self.listener.close()
            waiting.meanwhile = waiting.nothing
            self.log.info("stopped", why=self.stopping or "error")

    def _end_all(self) -> None:
        """End every fault, in a few tries; what resists stays in the journal for ``recover``."""
        self.supervisor.end_all("shutdown", self.clock())
        for _ in range(_STOP_TRIES):
            if not self.supervisor.engine.standing:
                break
            self.notify.alive()
            time.sleep(_STOP_PAUSE_S)
            self.supervisor.tick(self.clock())

    def _stay_alive(self) -> None:
        """Feed the watchdog and send a due heartbeat: safe in the middle of work on a fault."""
        self.notify.alive()
        self._beat()

    def _between(self) -> None:
        """Called between two effects of a fault: do what must not wait until it is finished."""
        self._stay_alive()
        if self._inside:
            return
        self._inside = True
        try:
            for _ in range(_AT_ONCE):
                if self._link is None or not self._receive():
                    break
            self.supervisor.meanwhile(self.clock())
        finally:
            self._inside = False

    def _stop(self, number: int, _frame: Any) -> None:
        self.stopping = signal.Signals(number).name

    def _timeout(self) -> float:
        now = self.clock()
        due = [now if self._later else now + _LONGEST_SLEEP]
        if self._link is not None:
            due.append(self._next_heartbeat)
        wakeup = self.supervisor.next_wakeup()
        if wakeup is not None:
            due.append(wakeup)
        return max(0, min(due) - now) / 1_000_000

    # ── the link ──────────────────────────────────────────────────────────────────────────

    def _accept(self) -> None:
        connection = self.listener.accept()
        if not self._connections.admits(self.clock()):
            if connection is not None:
                connection.close()
            return
        if connection is None:
            self.log.warning("connection refused", why="neither root nor the link's user")
            return
        self._drop_link("a newer link connected")
        self._link = connection
        self._selector.register(connection, selectors.EVENT_READ, self._receive)
        self._send(self.hello())
        self._next_heartbeat = self.clock()

    def _receive(self) -> bool:
        """One message; False when there is none.

        A flood is read no faster than the loop allows, and not obeyed.
        """
        if self._link is None:
            return False
        try:
            data = self._link.recv(MAX_MESSAGE + 1)
        except BlockingIOError:
            return False
        except OSError as error:
            self._drop_link(error.strerror or "error")
            return False
        if not data:
            self._drop_link("closed")
            return False
        if not self._messages.admits(self.clock()):
            self._drop_link(f"flood: more than {MAX_MESSAGES_PER_S} messages a second")
            return False
        try:
            message = to_keeper(data)
        except InvalidInput as error:
            self.log.warning("message refused", why=error.what)
            return True
        if self._inside and isinstance(message, Apply | Release):
            self._later.append(message)
            return True
        self.supervisor.obey(message, self.clock())
        if self._later and isinstance(message, Revert):
            self._later.append(message)  # also for what was asked for before it
        return True

    def _beat(self) -> None:
        """A heartbeat when one is due, or at once when something changed."""
        now = self.clock()
        if self._link is None or (now < self._next_heartbeat and not self.supervisor.changed):
            return
        self._next_heartbeat = now + HEARTBEAT_INTERVAL
        self._send(self.supervisor.heartbeat(now))

    def _send(self, message: Message) -> None:
        """Send, or drop a link that does not read: it is a lease that is not renewed."""
        if self._link is None:
            return
        try:
            self._link.send(message.model_dump_json().encode())
        except OSError as error:
            self._drop_link(error.strerror or "error")

    def _drop_link(self, why: str) -> None:
        if self._link is not None:
            self._selector.unregister(self._link)
            self._link.close()
            self._link = None
            self.log.info("link gone", why=why)
