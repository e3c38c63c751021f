"""Undo timers that end by themselves at the wrong moment."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos_agent.linux import systemd
from chaos_agent.linux.systemd import Systemd
from chaos_core.errors import Unsupported


@pytest.fixture
def transient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(systemd, "TRANSIENT", tmp_path)
    return tmp_path


@pytest.mark.parametrize("suffix", ["timer", "service"])
def test_an_undo_that_ends_while_it_is_disarmed_is_disarmed(
    transient: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """Its lease ran out as the keeper reverted; the node was quarantined for it."""

    def ended_just_now(_: Systemd, unit: str) -> None:
        (transient / unit).unlink()
        raise Unsupported(f"systemd refuses StopUnit: Unit {unit} not loaded.")

    (transient / f"chs-0a1b2c3d-1.{suffix}").touch()
    monkeypatch.setattr(Systemd, "stop", ended_just_now)
    Systemd().disarm("chs-0a1b2c3d-1")


def test_an_undo_that_systemd_will_not_stop_is_not_disarmed(
    transient: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: Systemd, unit: str) -> None:
        raise Unsupported(f"systemd refuses StopUnit: {unit}")

    (transient / "chs-0a1b2c3d-1.timer").touch()
    monkeypatch.setattr(Systemd, "stop", refused)
    with pytest.raises(Unsupported, match="refuses"):
        Systemd().disarm("chs-0a1b2c3d-1")
