"""What the product's code takes from the outside, replaced: clocks, chance, disks, asyncio.

``Outside`` holds what is true for the piece of code that runs now: its machine's
clock, its world. ``installed`` puts the stand-ins in place for the life of a process
or of a test; nothing of it is undone between seeds but the fields of ``Outside``.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

from tests.sim.loop import Loop, Pause, Timeout

import chaos_agent.effects
import chaos_agent.effects.leased_set
import chaos_agent.engine
import chaos_agent.journal
import chaos_agent.supervisor
import chaos_controller.aborts
import chaos_controller.clock
import chaos_controller.fleet
import chaos_controller.runs
from chaos_agent.effects import leased_set
from chaos_core import faults
from chaos_core.effects import Effect, LeasedSet
from chaos_core.log import Log
from chaos_core.units import Quantity


@dataclass(slots=True)
class Outside:
    """``boottime`` is what the code that runs now gets from its clock, ``wall`` a wall clock."""

    boottime: int = 0
    wall: int = 0
    loop: Loop = field(default_factory=Loop)
    rng: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311
    files: dict[Path, Any] = field(default_factory=dict)
    queued: int = 0  # messages in outboxes

    def now(self) -> int:
        return self.boottime

    def text(self, _moment: object = None) -> str:
        """Wall time as text: for people, so a world may set it as it likes."""
        return f"{self.wall:024d}"

    def choice(self, among: str) -> str:
        return self.rng.choice(among)

    def token_hex(self, size: int) -> str:
        return f"{self.rng.getrandbits(8 * size):0{2 * size}x}"


class Event:
    """Stands in for ``asyncio.Event``: nobody is woken, whoever waits polls by his timeout."""

    def set(self) -> None:
        return None

    async def wait(self) -> None:
        await Pause(3_600_000_000)


class Lock:
    """Stands in for ``asyncio.Lock``."""

    def __init__(self) -> None:
        self.held = False

    async def __aenter__(self) -> None:
        while self.held:
            await Pause(20_000)
        self.held = True

    async def __aexit__(self, *_: object) -> None:
        self.held = False


class Queue:
    """Stands in for the bounded ``asyncio.Queue`` of an outbox."""

    def __init__(self, outside: Outside, size: int) -> None:
        self.outside = outside
        self.size = size
        self.items: list[Any] = []

    def put_nowait(self, item: Any) -> None:
        if len(self.items) >= self.size:
            raise asyncio.QueueFull
        self.items.append(item)
        self.outside.queued += 1


class Silent(Log):
    """A log that goes to a trace, or nowhere."""

    def __init__(self, sink: Any = None, **bound: object) -> None:
        self._sink = sink
        self._bound = bound

    def bind(self, **fields: object) -> Log:
        return Silent(self._sink, **{**self._bound, **fields}) if self._sink else self

    def _write(self, level: int, event: str, fields: dict[str, object]) -> None:
        if self._sink:
            words = [f"{key}={value}" for key, value in {**self._bound, **fields}.items()]
            self._sink(" ".join(["!" if level > 20 else "·", event, *words]))

    def debug(self, event: str, **fields: object) -> None:
        if self._sink:
            self._write(10, event, fields)

    info = warning = error = debug


class Nothing:
    """The verbs of effects that hold no lease by themselves: always as asked."""

    def apply(self, *_: object) -> None:
        return None

    def verify(self, *_: object) -> None:
        return None

    renew = revert = absent = apply


def _ops(effect: Effect) -> Any:
    return leased_set.OPS if isinstance(effect, LeasedSet) else _NOTHING


_NOTHING = Nothing()
SNAPSHOT = SimpleNamespace(
    **dict.fromkeys(("take", "without", "foreign"), lambda *_: {}),
    scope_of=lambda _: None,
    **dict.fromkeys(("diff", "our_doing"), lambda *_: []),
)


def _remembered() -> list[tuple[Any, str, Any]]:
    """Pure functions that would take a third of the time: same text in, same value out."""
    parse = faults.parse

    @cache
    def from_text(kind: str, params: str) -> Any:
        return parse(kind, json.loads(params))

    def remembering(kind: str, params: Any) -> Any:
        return from_text(kind, json.dumps(params))

    return [
        (faults, "parse", remembering),
        (chaos_agent.supervisor, "parse", remembering),
        (ipaddress, "ip_network", cache(ipaddress.ip_network)),
        (Quantity, "parse", classmethod(cast(Any, cache(cast(Any, Quantity.parse).__func__)))),
    ]


@contextmanager
def installed() -> Iterator[Outside]:
    """Put the stand-ins in place."""
    outside = Outside()

    class File:
        """A StateFile in memory: it outlives its process, as a disk does."""

        def __init__(self, path: Path, _kind: object = None) -> None:
            self.path = path

        def read(self, default: Any) -> Any:
            return outside.files.get(self.path, default)

        def write(self, value: Any) -> None:
            outside.files[self.path] = value

    async def sleep(seconds: float) -> None:
        await Pause(int(seconds * 1_000_000))

    with ExitStack() as stack:
        for module, name, value in _stand_ins(outside, File, sleep):
            stack.enter_context(patch.object(module, name, value))
        yield outside


def _stand_ins(outside: Outside, file: type, sleep: Any) -> list[tuple[Any, str, Any]]:
    """(where, which name, what instead)"""
    aio = SimpleNamespace(
        Event=Event,
        Lock=Lock,
        Queue=lambda size: Queue(outside, size),
        QueueFull=asyncio.QueueFull,
        sleep=sleep,
        timeout=lambda span: Timeout(outside.loop, span),
    )
    return [
        (chaos_controller.clock, "now", outside.now),
        (chaos_controller.clock, "rfc3339", outside.text),
        (chaos_controller.runs, "secrets", outside),
        (chaos_controller.runs, "asyncio", aio),
        (chaos_controller.fleet, "asyncio", aio),
        (chaos_controller.aborts, "asyncio", aio),
        (chaos_agent.effects.leased_set, "now_us", outside.now),
        (chaos_agent.journal, "StateFile", file),
        (chaos_agent.engine, "ops", _ops),
        (chaos_agent.effects, "ops", _ops),
        (chaos_agent.engine, "snapshot", SNAPSHOT),
        *_remembered(),
    ]
