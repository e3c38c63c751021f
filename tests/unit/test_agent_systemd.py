"""Undo timers: taken off last, and not at all while something is left for them to undo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.fuzz.pretend import supervisor

from chaos_agent import effects
from chaos_agent.effects import revert_all
from chaos_agent.engine import Engine
from chaos_agent.linux import systemd
from chaos_agent.linux.host import Host
from chaos_agent.linux.systemd import Systemd
from chaos_core.effects import Effect, UndoTimer, Unit, to_text
from chaos_core.envelope import PROFILES
from chaos_core.errors import Unsupported
from chaos_core.faults import parse
from chaos_core.lease import Lease
from chaos_core.units import SECOND


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


class _Verbs:
    """An effect's verbs, of which ``done`` keeps what was called. ``left`` is what stays."""

    def __init__(self, done: list[str], left: str | Exception | None) -> None:
        self.done, self.left = done, left

    def revert(self, host: Host, effect: Effect) -> None:  # noqa: ARG002
        self.done.append(f"revert {type(effect).__name__}")
        if isinstance(self.left, Exception):
            raise self.left

    def absent(self, host: Host, effect: Effect) -> Any:  # noqa: ARG002
        self.done.append(f"absent {type(effect).__name__}")
        return self.left


@pytest.mark.parametrize("left", [None, "app.service is still frozen", Unsupported("no bus")])
def test_a_timer_is_disarmed_only_when_what_it_undoes_was_seen_to_be_gone(
    monkeypatch: pytest.MonkeyPatch, left: str | Exception | None
) -> None:
    unit = Unit("app.service", "frozen")
    timer = UndoTimer("chs-0a1b2c3d", (to_text(unit),))
    done: list[str] = []
    verbs = {Unit: _Verbs(done, left), UndoTimer: _Verbs(done, None)}
    monkeypatch.setattr(effects, "ops", lambda effect: verbs[type(effect)])
    with Host() as host:
        told = revert_all(host, (timer, unit))
    assert bool(told) == bool(left)
    if left is None:
        assert done == ["revert Unit", "absent Unit", "revert UndoTimer", "absent UndoTimer"]
    else:
        assert not any("UndoTimer" in one for one in done)


GONE = "- links: near veth up"


@pytest.mark.parametrize(
    ("going_down", "differs", "ours", "left_open"),
    [
        (True, [GONE], None, True),
        (False, [GONE], None, False),
        (True, [GONE, "+ qdiscs: near netem"], None, False),
        (True, [GONE], "our rule is still there", False),
        (True, [], "our rule is still there", False),
    ],
)
def test_what_goes_while_the_machine_goes_down_quarantines_nobody(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    going_down: bool,
    differs: list[str],
    ours: str | None,
    left_open: bool,
) -> None:
    """A service took its link along as the fault on it was reverted; the next boot has it again.
    But what is still there is told, whatever the machine does."""
    monkeypatch.setattr(Systemd, "going_down", lambda _: going_down)
    monkeypatch.setattr(Engine, "_our_doing", lambda *_: differs)
    with supervisor(PROFILES["lab"], tmp_path) as (node, kernel):
        fault = parse("network.latency", {"peers": ["10.0.0.9"], "delay": "50ms"})
        lease = Lease("00000001", "r", 1, kernel.now, kernel.now + 3 * SECOND, kernel.now + SECOND)
        node.engine.start("r", fault, lease)
        monkeypatch.setattr(kernel, "absent", lambda *_: ours)
        outcome = node.engine.end("00000001", "duration")
        assert (outcome.left_open, outcome.again) == (left_open, not left_open)
        assert bool(outcome.difference) == (not left_open)
        if outcome.again:
            outcome = node.engine.end("00000001", "duration", last=True)
            assert outcome.difference
        assert not node.engine.standing
