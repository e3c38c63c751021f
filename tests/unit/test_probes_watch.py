"""When probes look, whatever the system does."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any, ClassVar

import pytest

from chaos_core.errors import InvalidInput
from chaos_core.units import Duration
from chaos_experiment.probes import Context, Look, Probe, Seen
from chaos_experiment.probes._reasons import reason
from chaos_experiment.probes._watch import once, watch
from chaos_experiment.series import Observation


def clock() -> int:
    return time.monotonic_ns() // 1000


class Script(Probe):
    """Looks every 10 ms; look n does what ``DOES[n]`` says, the last for ever."""

    summary = "for the tests"
    example: ClassVar[Mapping[str, Any]] = {}
    does: tuple[Any, ...] = ()
    is_latency: bool = True

    @property
    def latency(self) -> bool:
        return self.is_latency

    def due(self, number: int) -> int:
        return number * 10_000

    def hosts(self) -> tuple[str, ...]:
        return ()

    async def measure(self, context: Context) -> Seen:
        raise NotImplementedError

    @asynccontextmanager
    async def session(self, context: Context) -> AsyncIterator[Look]:
        del context
        looks = 0

        async def look() -> Seen:
            nonlocal looks
            looks += 1
            what = self.does[min(looks, len(self.does)) - 1]
            if isinstance(what, Exception):
                raise what
            if isinstance(what, Seen):
                return what
            await asyncio.sleep(what)
            return Seen(True, what * 1e6)

        yield look


async def seen_by(probe: Probe, looks: int) -> list[Observation]:
    """The first observations, by when they were due."""
    rows: list[Observation] = []
    done = asyncio.Event()

    def emit(row: Observation) -> None:
        rows.append(row)
        if len(rows) >= looks:
            done.set()

    task = asyncio.create_task(watch("it", probe, emit, clock))
    async with asyncio.timeout(10):
        await done.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return sorted(rows, key=lambda row: row.at)


async def test_looks_are_due_at_absolute_times_however_long_one_takes() -> None:
    rows = await seen_by(Script(does=(0.1, 0.0)), 20)
    steps = {later.at - earlier.at for earlier, later in pairwise(rows)}
    assert steps == {10_000}


async def missed_by_a_stall(probe: Script) -> list[Observation]:
    """What was due while this process did not get a processor, for 0.3 s."""
    rows: list[Observation] = []
    task = asyncio.create_task(watch("it", probe, rows.append, clock))
    await asyncio.sleep(0.05)
    begun = clock()
    time.sleep(0.3)  # noqa: ASYNC251
    ended = clock()
    await asyncio.sleep(0.1)
    task.cancel()
    return [row for row in rows if begun < row.at < ended]


async def test_that_the_prober_was_held_up_is_not_taken_for_the_systems_latency() -> None:
    missed = await missed_by_a_stall(Script(does=(0.0,)))
    assert len(missed) >= 29
    assert all(row.ok for row in missed)
    assert min(row.value for row in missed if row.value is not None) < 100_000


async def test_a_look_that_the_prober_missed_altogether_has_failed() -> None:
    missed = await missed_by_a_stall(Script(does=(0.0,), timeout=Duration.parse("100ms")))
    failed = [row for row in missed if "late: the machine that looks is too busy" in row.text]
    assert len(failed) >= 15
    assert not any(row.ok for row in failed)


async def test_what_is_no_latency_is_left_as_it_is() -> None:
    rows = await seen_by(Script(does=(Seen(True, 7.0),), is_latency=False), 3)
    assert {row.value for row in rows} == {7.0}


async def test_a_look_that_takes_too_long_has_failed() -> None:
    probe = Script(does=(5, 0.0), timeout=Duration.parse("50ms"))
    rows = await seen_by(probe, 10)
    assert (rows[0].ok, rows[0].value, rows[0].text) == (False, None, "timed out after 50ms")
    assert rows[1].ok


async def test_a_failure_counts_only_after_its_retries_and_they_take_their_time() -> None:
    probe = Script(does=(OSError(111, "x"), 0.05, 0.0), retries=1)
    seen = await once("it", probe, clock)
    assert seen.ok
    assert seen.value is not None
    assert seen.value >= 50_000
    failed = await once("it", Script(does=(OSError(111, "x"),), retries=3), clock)
    assert (failed.ok, failed.text) == (False, "connection refused")


async def test_the_time_before_the_first_look() -> None:
    begun = clock()
    rows = await seen_by(Script(does=(0.0,), initial_delay=Duration.parse("60ms")), 1)
    assert rows[0].at >= begun + 60_000


async def test_what_strangers_write_is_one_short_line() -> None:
    seen = await once("it", Script(does=(Seen(False, None, "a\n\x1b[2J" + "b" * 999),)), clock)
    assert seen.text.isprintable()
    assert len(seen.text.encode()) <= 300


@pytest.mark.parametrize("error", [ValueError("odd"), RuntimeError(), KeyError("k")])
async def test_no_exception_escapes(error: Exception) -> None:
    rows = await seen_by(Script(does=(error, 0.0)), 2)
    assert not rows[0].ok
    assert rows[0].text
    assert rows[1].ok


async def test_nothing_runs_on_once_it_is_cancelled() -> None:
    before = asyncio.all_tasks()
    await seen_by(Script(does=(0.0, 0.0, 5)), 2)
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(111, "x"), "connection refused"),
        (ConnectionResetError(), "connection reset"),
        (socket.gaierror(-2, "Name or service not known"), "name not resolved: Name or service"),
        (FileNotFoundError(2, "No such file or directory", "/x"), "/x: No such file or directory"),
        (asyncio.IncompleteReadError(b"", 4), "connection closed before an answer"),
        (InvalidInput("no such secret"), "no such secret"),
    ],
)
def test_reasons_are_an_operators_words(error: Exception, words: str) -> None:
    assert reason(error).startswith(words)
    outer = RuntimeError("wrapped")
    outer.__cause__ = error
    assert reason(outer).startswith(words)


def test_a_secret_is_the_controllers(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop").write_text("hush\n")
    context = Context(secrets=tmp_path)
    assert context.secret("shop") == "hush"
    monkeypatch.setenv("CHAOS_SECRET_OTHER_ONE", "psst")
    assert context.secret("other-one") == "psst"
    with pytest.raises(InvalidInput, match="no secret 'none'"):
        context.secret("none")
