"""systemd's timers undo what the kernel cannot time out, when nothing of the agent runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

_UNIT = Path("/run/systemd/system/victim.service")


@pytest.fixture
def victim(sh: Callable[..., str]) -> Iterator[str]:
    """A service of the user's that runs."""
    _UNIT.write_text("[Service]\nExecStart=/bin/sleep infinity\n")
    sh("systemctl", "daemon-reload")
    sh("systemctl", "start", "victim")
    try:
        yield "victim"
    finally:
        sh("systemctl", "thaw", "victim", check=False)
        sh("systemctl", "stop", "victim", check=False)
        _UNIT.unlink()
        sh("systemctl", "daemon-reload")


def state(sh: Callable[..., str]) -> str:
    shown = ("systemctl", "show", "victim", "-p", "ActiveState,FreezerState", "--value")
    return " ".join(sh(*shown).split())


def timers(sh: Callable[..., str]) -> str:
    return sh("systemctl", "list-units", "--all", "--no-legend", "--plain", "chs-*").strip()


@pytest.mark.parametrize(
    ("kind", "hurt"), [("unit.stop", "inactive running"), ("process.pause", "active frozen")]
)
def test_a_lease_that_is_not_renewed_is_undone_by_systemd(
    node: Any,
    sh: Callable[..., str],
    victim: str,
    kind: str,
    hurt: str,
) -> None:
    assert state(sh) == "active running"
    fault = node.apply(kind, unit=victim)
    node.await_in_force(fault)
    assert state(sh) == hurt
    assert "chs-" in timers(sh)
    # Nothing renews the lease from here on, and nothing of ours looks at it.
    deadline = time.monotonic() + 60
    while state(sh) != "active running" or timers(sh):
        assert time.monotonic() < deadline, (state(sh), timers(sh))
        time.sleep(0.5)
