"""The rig, started."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chaos_controller import fleet
from chaos_controller.store import Store
from chaos_core.units import Duration

from .rig import Rig


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database with all tables: migrating one takes longer than most tests."""
    path = tmp_path_factory.mktemp("database") / "controller.db"

    async def make() -> None:
        await (await Store.open(f"sqlite+aiosqlite:///{path}")).close()

    asyncio.run(make())
    return path


@pytest.fixture
async def rig(
    tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Rig]:
    # The pretended effects need no second to be taken back.
    monkeypatch.setattr(fleet, "REVERT_BUDGET", Duration.parse("200ms"))
    rig = Rig(tmp_path, database)
    await rig.start()
    yield rig
    await rig.close()
