"""The controller's store without a database: the same transactions, on values that can be copied.

Each write takes a while before and after the instant at which it is durable, so that a
crash or an abort may fall on either side of it.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.sim.loop import Pause

from chaos_controller.store import LatchRow, NewRun, Occupied, epochs

if TYPE_CHECKING:
    from tests.sim.world import World


@dataclass(slots=True)
class Database:
    """What is on disk. ``verdicts`` has "" for a run that is open."""

    epoch: int = 0
    nodes: dict[str, dict[str, str]] = field(default_factory=dict)
    verdicts: dict[str, str] = field(default_factory=dict)
    occupied: dict[tuple[str, str], str] = field(default_factory=dict)
    latch: LatchRow | None = None

    def copy(self) -> Database:
        return copy.deepcopy(self)


class Store:
    """One controller's connection to a Database; has those methods of the real one that it uses."""

    def __init__(self, world: World, database: Database) -> None:
        self._world = world
        self.database = database

    async def _disk(self) -> None:
        await Pause(self._world.disk_latency())

    async def next_epoch(self, at_least: int = 0) -> int:
        await self._disk()
        chance = self._world.rng.getrandbits(32)
        self.database.epoch = epochs.following(self.database.epoch, at_least, chance=chance)
        return self.database.epoch

    async def epoch(self) -> int:
        return self.database.epoch

    async def keep_node(self, name: str, **columns: str) -> None:
        await self._disk()
        self.database.nodes[name] = columns

    async def nodes(self) -> dict[str, dict[str, str]]:
        await self._disk()
        return dict(self.database.nodes)

    async def begin_run(
        self,
        run: NewRun,
        request: str,  # noqa: ARG002
        check: Callable[[LatchRow | None, Sequence[Occupied]], None],
    ) -> None:
        await self._disk()
        database = self.database
        epochs.check_newest(run.epoch, database.epoch)
        check(database.latch, _rows(database))
        database.verdicts[run.id] = ""
        database.occupied.update({(run.id, node): fault for node, fault in run.faults.items()})
        await self._disk()

    async def add_event(self, event: Mapping[str, Any]) -> None:
        if event["verdict"]:
            self.database.verdicts[event["run"]] = event["verdict"]

    async def release(self, run: str, node: str) -> None:
        self.database.occupied.pop((run, node), None)

    async def occupied(self) -> list[Occupied]:
        return _rows(self.database)

    async def interrupt_runs(self) -> list[str]:
        await self._disk()
        found = [run for run, verdict in self.database.verdicts.items() if not verdict]
        self.database.verdicts.update(dict.fromkeys(found, "interrupted"))
        return found

    async def latch(self) -> LatchRow | None:
        await self._disk()
        return self.database.latch

    async def set_latch(self, latch: LatchRow) -> None:
        await self._disk()
        self.database.latch = latch
        await self._disk()

    async def clear_latch(self, _actor: str, _reason: str) -> LatchRow | None:
        await self._disk()
        was, self.database.latch = self.database.latch, None
        await self._disk()
        return was


class Recorder:
    """Writes behind the controller's back, in order; what was not written dies with it."""

    def __init__(self, spawn: Callable[[Any], None], store: Store) -> None:
        self._spawn = spawn
        self._store = store
        self._jobs: list[Callable[[], Awaitable[None]]] = []

    def later(self, job: Callable[[], Awaitable[None]]) -> None:
        self._jobs.append(job)
        if len(self._jobs) == 1:
            self._spawn(self._write())

    async def _write(self) -> None:
        while self._jobs:
            await self._store._disk()
            await self._jobs[0]()
            del self._jobs[0]


def _rows(database: Database) -> list[Occupied]:
    return [Occupied(run, node, fault) for (run, node), fault in database.occupied.items()]
