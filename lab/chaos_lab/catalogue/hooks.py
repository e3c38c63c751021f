"""Hooks of the node's own list, measured by what they do to a service."""

from __future__ import annotations

from typing import Self

from chaos_lab.catalogue.limits import Watched
from chaos_lab.catalogue.probe import NODE, Measure
from chaos_lab.catalogue.services import Down

LISTED = """
[hooks.stall]
run = ["/usr/bin/systemctl", "kill", "-s", "STOP", "app.service"]
undo = ["/usr/bin/systemctl", "kill", "-s", "CONT", "app.service"]
user = "root"
[hooks.gc]
run = ["/usr/bin/systemctl", "kill", "-s", "USR1", "litter.service"]
user = "root"
"""
_LITTER_MIB = 40
# Garbage that only a collection finds: rings, in a runtime that collects when it is told to.
_PROGRAM = f"""
import gc, signal
gc.disable()
class Ring: pass
for _ in range({_LITTER_MIB}):
    ring = Ring()
    ring.itself, ring.data = ring, bytearray(2**20)
signal.signal(signal.SIGUSR1, lambda *_: gc.collect())
while True: signal.pause()
"""
_UNIT = "[Service]\nExecStart=/usr/bin/python3 /etc/litter.py\n"


class Garbage(Watched):
    """MiB that ``litter.service`` has, most of which it would not need."""

    def __enter__(self) -> Self:
        self.drill.fleet.put(NODE, "/etc/litter.py", _PROGRAM)
        self.drill.fleet.put(NODE, "/run/systemd/system/litter.service", _UNIT)
        self.sh("systemctl", "daemon-reload")
        self.sh("systemctl", "start", "litter")
        return self

    def __exit__(self, *_: object) -> None:
        self.sh("systemctl", "stop", "litter")
        self.sh("rm", "/run/systemd/system/litter.service", "/etc/litter.py")
        self.sh("systemctl", "daemon-reload")

    def settled(self) -> str:
        pid = self.sh("systemctl", "show", "litter", "-p", "MainPID", "--value").strip()
        words = self.sh("cat", f"/proc/{pid}/status").split()
        return str(int(words[words.index("VmRSS:") + 1]) // 1024)

    def base(self) -> None:
        self.drill.wait_for(lambda: int(self.settled()) > _LITTER_MIB, "the garbage")
        super().base()

    def during(self) -> tuple[str, bool]:
        now = self.settled()
        collected = int(self.before) - int(now)
        return (
            f"{self.before} MiB before, {now} MiB after",
            _LITTER_MIB * 0.75 <= collected <= _LITTER_MIB + 2,
        )


MEASURES = (
    Measure("hook.run", "hook=stall", "no answer of the service that it stops", Down),
    Measure(
        "gc.pressure",
        "hook=gc",
        f"{_LITTER_MIB} MiB of garbage collected",
        Garbage,
        lasts=False,
    ),
)
