"""A keeper's Supervisor and Engine whose effects are only remembered, on a clock of ours.

The leases, limits, messages and state files are the product's; a kernel is pretended
as far as a lease can tell: what holds one lets go when its time is over.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.sim.node import Immediate
from tests.sim.outside import SNAPSHOT

import chaos_agent.effects
import chaos_agent.engine
from chaos_agent.config import AgentConfig
from chaos_agent.engine import Engine
from chaos_agent.linux.host import Host
from chaos_agent.supervisor import Supervisor
from chaos_core.effects import Effect
from chaos_core.envelope import Envelope
from chaos_core.faults import Fault
from chaos_core.log import Log
from chaos_core.node import Asks, Device, NodeView, Protected, Way

VIEW = NodeView(
    directory=NodeView.example(Asks(directory="/")).directory,
    name="n1",
    cpus=2,
    memory_total=4 << 30,
    devices=(Device("lo", ("127.0.0.1",), loopback=True), Device("eth0", ("10.0.0.1",))),
    elsewhere=Way(("eth0",)),
    protected=Protected(("10.0.0.7",)),
)


class Kernel:
    """The verbs of every effect, and until when each holds. ``now`` is in µs."""

    def __init__(self) -> None:
        self.now = 1_000_000_000
        self.until: dict[Effect, int] = {}

    def clock(self) -> int:
        return self.now

    def in_force(self) -> list[Effect]:
        return [effect for effect, until in self.until.items() if until > self.now]

    def apply(self, _host: Host, effect: Effect, expires: int, deadline: int) -> None:
        self.until[effect] = min(expires, deadline)

    def renew(self, _host: Host, effect: Effect, expires: int) -> None:
        self.until[effect] = expires

    def verify(self, _host: Host, effect: Effect) -> str | None:
        return None if self.until.get(effect, 0) > self.now else "lapsed"

    def revert(self, _host: Host, effect: Effect) -> None:
        self.until.pop(effect, None)

    def absent(self, _host: Host, effect: Effect) -> str | None:
        return "still there" if effect in self.until else None


class _Journal:
    """Keeps nothing; says that all was kept."""

    disk = Immediate()

    def intent(self, *_: object, **__: object) -> None:
        return None

    def done(self, *_: object, **__: object) -> str:
        return ""

    def knows(self, _: str) -> bool:
        return False


class Quiet(Log):
    """Formats each line, as the real one does, and writes it nowhere."""

    def __init__(self) -> None:
        import logging

        logger = logging.Logger("quiet")
        logger.addHandler(logging.NullHandler())
        super().__init__(logger)


def _view(fault: Fault) -> NodeView:
    """What a fault asks for is there."""
    return replace(
        NodeView.example(fault.asks()),
        name=VIEW.name,
        cpus=VIEW.cpus,
        memory_total=VIEW.memory_total,
        devices=VIEW.devices,
        elsewhere=VIEW.elsewhere,
        protected=VIEW.protected,
        systemd=True,
    )


@contextmanager
def supervisor(ceilings: Envelope, state: Path) -> Iterator[tuple[Supervisor, Kernel]]:
    """A node whose kernel is pretended. ``state`` is a directory for epoch and quarantine."""
    kernel = Kernel()
    config = AgentConfig("n1", envelope=ceilings, state=state)
    journal: Any = _Journal()
    with (
        patch.object(chaos_agent.engine, "ops", lambda _: kernel),
        patch.object(chaos_agent.effects, "ops", lambda _: kernel),
        patch.object(chaos_agent.engine, "snapshot", SNAPSHOT),
        Host() as host,
    ):
        engine = Engine(host, journal, _view, kernel.clock)
        yield Supervisor(config, engine, Quiet(), VIEW.memory_total), kernel
