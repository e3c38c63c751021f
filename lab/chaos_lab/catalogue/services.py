"""Faults of services and processes, measured by who asks the service."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Self

from chaos_core.errors import ChaosError
from chaos_lab import provision
from chaos_lab.catalogue.probe import NODE, PEER, Measure, Probe
from chaos_lab.drill.context import Drill
from chaos_lab.drill.measure import Answers, delayed

PORT = 8080
_UNIT = f"""
[Service]
ExecStart=/usr/bin/python3 -m http.server {PORT}
User=nobody
Restart=always
RestartSec=1
[Install]
Alias=front.service
WantedBy=multi-user.target
"""
_BACK_S = 10.0
_REBOOT_S, _SETTLE_S = 80.0, 60.0


def give(drill: Drill) -> None:
    """Install ``app.service``, also called ``front``, which answers on the node; and start it."""
    drill.fleet.put(NODE, "/etc/systemd/system/app.service", _UNIT)
    drill.fleet.exec(NODE, ["systemctl", "daemon-reload"])
    drill.fleet.exec(NODE, ["systemctl", "enable", "--now", "app"])


def take(drill: Drill) -> None:
    """Take it away again."""
    drill.fleet.exec(NODE, ["systemctl", "disable", "--now", "app"])
    drill.fleet.exec(NODE, ["rm", "/etc/systemd/system/app.service"])
    drill.fleet.exec(NODE, ["systemctl", "daemon-reload"])


class Service(Probe):
    """Whether ``app.service`` answers a peer."""

    def __init__(self, drill: Drill) -> None:
        self.drill = drill
        self.answers = Answers(drill.fleet, PEER, drill.ip(NODE), PORT)

    def __enter__(self) -> Self:
        self.answers.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.answers.__exit__(None, None, None)

    def base(self) -> None:
        self.answers.wait(lambda reply: reply.rtt is not None)
        self.pid = self.main_pid()

    def main_pid(self) -> str:
        argv = ["systemctl", "show", "app", "-p", "MainPID", "--value"]
        return self.drill.fleet.exec(NODE, argv).stdout.strip()

    def gone_after(self, since: float) -> float:
        return self.answers.clean_after(since, delayed(250))


class Down(Service):
    """It does not answer at all."""

    def during(self) -> tuple[str, bool]:
        self.answers.wait(delayed(250))
        since = time.monotonic()
        time.sleep(3)
        asked = [reply for reply in self.answers.replies if reply.at > since]
        answered = [reply for reply in asked if reply.rtt is not None]
        return f"{len(answered)} of {len(asked)} answered", bool(asked) and not answered


class Anew(Service):
    """It has another main process, and answers again."""

    def during(self) -> tuple[str, bool]:
        deadline = time.monotonic() + _BACK_S
        while self.main_pid() in (self.pid, "0") and time.monotonic() < deadline:
            time.sleep(0.2)
        since = time.monotonic()
        back = self.answers.clean_after(since, delayed(250), _BACK_S)
        new = self.main_pid() != self.pid
        return f"another main process, answers again: {new and back < _BACK_S}", new


class Rebooted(Service):
    """The whole node, in another boot; and the service that is enabled on it answers again."""

    def base(self) -> None:
        argv = ["cat", "/proc/uptime"]
        while float(self.drill.fleet.exec(NODE, argv).stdout.split()[0]) < _SETTLE_S:
            time.sleep(1)  # a node that has just booted is not rebooted
        super().base()
        self.boot = self.drill.fleet.boot_id(NODE)

    def during(self) -> tuple[str, bool]:
        since = time.monotonic()
        boot = self.boot
        while boot == self.boot and time.monotonic() < since + _REBOOT_S:
            time.sleep(0.5)
            with suppress(ChaosError):
                boot = self.drill.fleet.boot_id(NODE)
        back = time.monotonic() - since
        provision.wait_connected(self.drill.fleet)
        answers = self.answers.clean_after(time.monotonic(), delayed(250), _BACK_S) < _BACK_S
        new = boot != self.boot
        return f"another boot: {new}, after {back:.0f} s; its service answers: {answers}", new


class Held(Service):
    """Connections to it that are open, counted on the node."""

    COUNT = 100

    def during(self) -> tuple[str, bool]:
        held = self.held()
        return f"{held} open", held == self.COUNT

    def held(self) -> int:
        words = ["ss", "-Htn", "state", "established", f"dport = {PORT}"]
        return len(self.drill.fleet.exec(NODE, words).stdout.splitlines())

    def gone_after(self, since: float) -> float:
        while time.monotonic() < since + _BACK_S:
            now = time.monotonic()
            if self.held() == 0:
                return now - since
        return _BACK_S


MEASURES = (
    Measure("process.pause", "unit=app", "no answer", Down),
    Measure("process.pause", "unit=app cmdline=http.server", "no answer", Down),
    Measure("unit.stop", "unit=app", "no answer", Down),
    Measure("http.fault", f"port={PORT} status=503", "no answer but 503", Down),
    Measure(
        "connections.hold",
        f"to=127.0.0.1:{PORT} count={Held.COUNT}",
        f"{Held.COUNT} open connections",
        Held,
    ),
    Measure("unit.restart", "unit=app", "another main process", Anew, lasts=False),
    Measure("process.kill", "unit=app", "another main process", Anew, lasts=False),
    Measure("process.kill", f"port={PORT}", "another main process", Anew, lasts=False),
    Measure("host.reboot", "", "another boot", Rebooted, lasts=False, reboots=True),
)
