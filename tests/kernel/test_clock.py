"""The wall clock is moved and moved back, by whomever, how often and whenever.

Only in the guest: the host's clock is not ours to move.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chaos_agent.effects import Pulsing, ops
from chaos_agent.engine import Engine
from chaos_agent.journal import Journal
from chaos_agent.linux import clock
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.host import Host
from chaos_agent.recover import recover
from chaos_core.effects import ClockShift, ClockStrobe
from chaos_core.errors import NotInForce, Refused, Unsupported
from chaos_core.faults import parse
from chaos_core.lease import Lease
from chaos_core.log import Log
from chaos_core.node import NodeView

pytestmark = pytest.mark.guest
SECOND = 1_000_000
NOISE_US = 20_000  # of a reading in a guest that shares its CPU


@pytest.fixture(autouse=True)
def unmoved() -> Iterator[int]:
    """REALTIME − BOOTTIME as it is, and as it must be again."""
    assert "CHAOS_GUEST" in os.environ, "never on the host's clock"
    before = clock.difference_us()
    yield before
    clock._step(before - clock.difference_us())


def shift(offset: int, **given: Any) -> ClockShift:
    facts = clock.facts()
    return ClockShift(**{"offset": offset, "before": facts.difference, "boot": facts.boot,
                         "after": (), **given})  # fmt: skip


def moved(before: int) -> int:
    return clock.difference_us() - before


@pytest.mark.parametrize("offset", [3600 * SECOND, -3600 * SECOND, -1_500_000, 10_000])
def test_a_step_is_exact_and_so_is_its_undo(host: Host, unmoved: int, offset: int) -> None:
    effect = shift(offset)
    noise = min(NOISE_US, abs(offset) // 4)
    assert ops(effect).verify(host, effect) == "the clock is not moved"
    wall, mono = time.time(), time.monotonic()
    ops(effect).apply(host, effect, now_us() + 3 * SECOND)
    assert (time.time() - wall) - (time.monotonic() - mono) == pytest.approx(offset / 1e6, abs=0.1)
    assert abs(moved(unmoved) - offset) < noise
    assert ops(effect).verify(host, effect) is None
    ops(effect).apply(host, effect, now_us() + 3 * SECOND)
    assert abs(moved(unmoved) - offset) < noise, "applied twice"
    for _ in range(3):
        ops(effect).revert(host, effect)
        assert ops(effect).absent(host, effect) is None
    assert abs(moved(unmoved)) < noise


def _revert(effect: ClockShift, at: float) -> None:
    time.sleep(max(0, at - time.monotonic()))
    with Host() as host:
        ops(effect).revert(host, effect)


def test_many_who_undo_at_once_undo_once(host: Host, unmoved: int) -> None:
    """The keeper, its timer and recover."""
    processes = multiprocessing.get_context("fork")
    for _ in range(10):
        effect = shift(600 * SECOND)
        ops(effect).apply(host, effect, now_us() + 3 * SECOND)
        at = time.monotonic() + 0.1
        undoers = [processes.Process(target=_revert, args=(effect, at)) for _ in range(4)]
        for undoer in undoers:
            undoer.start()
        for undoer in undoers:
            undoer.join(10)
            assert undoer.exitcode == 0
        assert abs(moved(unmoved)) < NOISE_US


def _stopped_before_its_step(effect: ClockShift) -> None:
    """Looks at the clock, is stopped with the lock in its hand, and then goes on."""
    step = clock._step

    def late(microseconds: int) -> None:
        clock._step = step
        os.kill(os.getpid(), signal.SIGSTOP)
        step(microseconds)

    clock._step = late
    clock.bring(effect, 0)


def test_one_who_was_stopped_in_the_middle_neither_blocks_nor_undoes_twice(
    host: Host, unmoved: int
) -> None:
    effect = shift(600 * SECOND)
    ops(effect).apply(host, effect, now_us() + 3 * SECOND)
    late = multiprocessing.get_context("fork").Process(
        target=_stopped_before_its_step, args=(effect,)
    )
    late.start()
    assert late.pid is not None
    os.waitpid(late.pid, os.WUNTRACED)
    began = time.monotonic()
    ops(effect).revert(host, effect)
    assert time.monotonic() - began < 2
    assert abs(moved(unmoved)) < NOISE_US
    os.kill(late.pid, signal.SIGCONT)
    late.join(10)
    assert late.exitcode == 0
    assert abs(moved(unmoved)) < NOISE_US


def test_one_who_died_right_after_an_undo_too_many_is_made_good(host: Host, unmoved: int) -> None:
    effect = shift(600 * SECOND)
    clock._step(-600 * SECOND)
    assert ops(effect).absent(host, effect) == "the clock is still moved"
    ops(effect).revert(host, effect)
    assert abs(moved(unmoved)) < NOISE_US


@pytest.mark.parametrize(
    ("theirs", "left"),
    [
        (-600 * SECOND + 40_000, 40_000),  # set right: theirs is better than what was before
        (30_000, 30_000),  # a small correction on top of ours stays when ours goes
        (86_400 * SECOND, 87_000 * SECOND),  # another time altogether: left alone
        (-1_100 * SECOND, -500 * SECOND),
    ],
)
def test_what_another_has_set_meanwhile_stays(
    host: Host, unmoved: int, theirs: int, left: int
) -> None:
    effect = shift(600 * SECOND)
    ops(effect).apply(host, effect, now_us() + 3 * SECOND)
    clock._step(theirs)
    for _ in range(3):
        ops(effect).revert(host, effect)
    assert ops(effect).absent(host, effect) is None
    assert abs(moved(unmoved) - left) < NOISE_US


def test_another_boots_shift_is_over(host: Host, unmoved: int) -> None:
    effect = shift(600 * SECOND, boot="another")
    clock._step(600 * SECOND)
    assert ops(effect).absent(host, effect) is None
    ops(effect).revert(host, effect)
    assert abs(moved(unmoved) - 600 * SECOND) < NOISE_US


def test_a_clock_that_was_set_since_it_was_looked_at_is_not_moved(host: Host, unmoved: int) -> None:
    effect = shift(60 * SECOND)
    clock._step(-86_400 * SECOND)
    with pytest.raises(Unsupported, match="just set the clock"):
        ops(effect).apply(host, effect, now_us() + 3 * SECOND)
    assert abs(moved(unmoved) + 86_400 * SECOND) < NOISE_US


def strobe(offset: int, span: int = SECOND, **given: Any) -> ClockStrobe:
    facts = clock.facts()
    return ClockStrobe(**{"offset": offset, "before": facts.difference, "boot": facts.boot,
                          "after": (), "since": now_us(), "span": span, **given})  # fmt: skip


def test_a_strobe_goes_to_and_fro_and_its_undo_is_exact_from_either_turn(
    host: Host, unmoved: int
) -> None:
    effect = strobe(600 * SECOND)
    verbs = ops(effect)
    assert isinstance(verbs, Pulsing)
    expires = now_us() + 60 * SECOND
    verbs.apply(host, effect, expires)
    for number in range(4):
        next_turn = verbs.turn(host, effect, expires)
        assert next_turn == effect.since + (number + 1) * SECOND
        assert abs(moved(unmoved) - (number % 2 == 0) * 600 * SECOND) < NOISE_US, number
        assert verbs.verify(host, effect) is None
        time.sleep(max(0, next_turn - now_us()) / SECOND)
    for moved_now in (1, 0):
        clock.bring(effect, moved_now)
        verbs.revert(host, effect)
        assert verbs.absent(host, effect) is None
        assert abs(moved(unmoved)) < NOISE_US


def test_a_strobe_that_hangs_in_a_turn_is_seen(host: Host) -> None:
    effect = strobe(60 * SECOND, 10 * SECOND, since=now_us() - 11 * SECOND)
    clock.bring(effect, 1)
    assert "the clock is moved, 1." in str(ops(effect).verify(host, effect))
    effect = replace(effect, since=now_us() - SECOND)
    clock.bring(effect, 0)
    assert "the clock is not moved, 1." in str(ops(effect).verify(host, effect))
    clock._step(86_400 * SECOND)
    assert "somebody else" in str(ops(effect).verify(host, effect))


def _turns_late(effect: ClockStrobe) -> None:
    """Is stopped right before the step of a turn, and goes on when the lease is over."""
    step = clock._step

    def late(microseconds: int) -> None:
        clock._step = step
        os.kill(os.getpid(), signal.SIGSTOP)
        step(microseconds)

    clock._step = late
    verbs = ops(effect)
    assert isinstance(verbs, Pulsing)
    with Host() as host:
        verbs.turn(host, effect, now_us() + SECOND)


def test_a_turn_that_comes_after_the_lease_is_taken_back_by_who_made_it(
    host: Host, unmoved: int
) -> None:
    """The undo timer ran meanwhile, and found a clock that was right."""
    effect = strobe(600 * SECOND, 30 * SECOND)
    late = multiprocessing.get_context("fork").Process(target=_turns_late, args=(effect,))
    late.start()
    assert late.pid is not None
    os.waitpid(late.pid, os.WUNTRACED)
    time.sleep(1.1)
    ops(effect).revert(host, effect)
    assert abs(moved(unmoved)) < NOISE_US
    os.kill(late.pid, signal.SIGCONT)
    late.join(10)
    assert late.exitcode == 0
    assert abs(moved(unmoved)) < NOISE_US


# ── under the engine ──────────────────────────────────────────────────────────────────────


@pytest.fixture
def engine(host: Host, tmp_path: Path) -> Engine:
    def view(_: object) -> NodeView:
        return replace(
            NodeView.example(), profile="lab", systemd=False, units={}, clock=clock.facts(),
            now=now_us(),
        )  # fmt: skip

    return Engine(host, Journal(tmp_path / "state"), view, now_us)


def start(engine: Engine, fault: str, offset: str, **given: str) -> Callable[[], tuple[str, ...]]:
    now = now_us()
    lease = Lease(fault, "r-1", 1, now, now + 3 * SECOND, now + 60 * SECOND)
    engine.start("r-1", parse("clock.skew", {"offset": offset, **given}), lease)
    assert engine.standing[fault].state == "in_force"
    return lambda: engine.end(fault, "duration").difference


def test_a_skew_of_an_hour_moves_no_lease_and_leaves_nothing(engine: Engine, unmoved: int) -> None:
    before = now_us()
    end = start(engine, "000000a1", "+1h")
    assert abs(moved(unmoved) - 3600 * SECOND) < NOISE_US
    assert now_us() - before < 60 * SECOND
    assert "+3600 s" not in engine.residue()
    with pytest.raises(Refused, match="holds the clock already"):
        start(engine, "000000a2", "-1s")
    assert end() == ()
    assert abs(moved(unmoved)) < NOISE_US


def test_a_clock_set_by_another_is_disturbed_and_no_residue(engine: Engine) -> None:
    end = start(engine, "000000a1", "-10m")
    clock._step(600 * SECOND)
    with pytest.raises(NotInForce, match="not moved"):
        engine.check(engine.standing["000000a1"])
    assert end() == ()
    end = start(engine, "000000a2", "-10m")
    clock._step(7_200 * SECOND)
    with pytest.raises(NotInForce, match="somebody else"):
        engine.check(engine.standing["000000a2"])
    assert end() == ()


@pytest.mark.parametrize("turns", [0, 1])
def test_a_strobe_leaves_nothing_whenever_it_ends(engine: Engine, unmoved: int, turns: int) -> None:
    end = start(engine, "000000a1", "-10m", strobe="1s")
    standing = engine.standing["000000a1"]
    for number in range(turns):
        assert standing.next_turn is not None
        time.sleep(max(0, standing.next_turn - now_us()) / SECOND)
        engine.turn(standing, now_us() + 3 * SECOND)
        engine.check(standing)
        assert abs(moved(unmoved) + (number % 2) * 600 * SECOND) < NOISE_US
    assert end() == ()
    assert abs(moved(unmoved)) < NOISE_US


@pytest.mark.parametrize("phase", [1, 0])
def test_recover_sets_a_strobe_right_from_either_turn(
    engine: Engine, unmoved: int, tmp_path: Path, phase: int
) -> None:
    start(engine, "000000a1", "+10m", strobe="30s")
    (effect,) = engine.standing["000000a1"].effects
    assert isinstance(effect, ClockStrobe)
    clock.bring(effect, phase)
    engine.journal.close()
    report = recover(engine.host, tmp_path / "state", now_us, Log.to_stderr("test"))
    assert (len(report.faults), report.difference) == (1, [])
    assert abs(moved(unmoved)) < NOISE_US


def test_recover_moves_back_what_a_dead_keeper_left(
    engine: Engine, unmoved: int, tmp_path: Path
) -> None:
    start(engine, "000000a1", "+10m")
    engine.journal.close()
    for times in (1, 0):
        report = recover(engine.host, tmp_path / "state", now_us, Log.to_stderr("test"))
        assert (len(report.faults), report.difference) == (times, [])
        assert abs(moved(unmoved)) < NOISE_US


def test_it_is_a_residue_when_the_clock_does_not_go_back(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = start(engine, "000000a1", "+10m")
    with monkeypatch.context() as patched:
        patched.setattr(clock, "_step", lambda _: None)
        difference = end()
    assert any("still moved" in line for line in difference), difference
    assert any(line.startswith("+ clock: moved by 1") for line in difference), difference
