"""process.pause of chosen processes, as it compiles; what it has of process.kill is there."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest

from chaos_core import effects, faults
from chaos_core.effects import Stop, UndoTimer, Unit
from chaos_core.errors import InvalidInput, Refused
from chaos_core.node import NodeView, ProcessFacts, ProcessQuery

OLD = ProcessFacts(70, 100, "worker", "app.service")
NEW = ProcessFacts(60, 200, "worker")
NODE = replace(NodeView.example(), processes=(NEW, OLD))


def test_chosen_processes_are_stopped_under_a_timer() -> None:
    fault = faults.parse("process.pause", {"cmdline": "work", "unit": "app"})
    assert fault.asks().processes == ProcessQuery("app.service", "work", 0)
    timer, stop = fault.compile(NODE, "0123abcd")
    assert stop == Stop(((70, 100), (60, 200)))
    assert timer == UndoTimer("chs-0123abcd", (effects.to_text(stop),))
    assert effects.from_text(timer.undo[0]) == stop
    assert effects.describe(stop) == "stop   processes 70, 60"
    assert effects.changes((stop,)) == {"process 60", "process 70"}


def test_who_listens_at_a_port_is_asked_for_and_stopped_as_processes() -> None:
    fault = faults.parse("process.pause", {"port": "5432", "unit": "app"})
    assert fault.asks().processes == ProcessQuery("app.service", port=5432)
    assert fault.compile(NODE, "0123abcd")[1] == Stop(((70, 100), (60, 200)))


def test_a_service_alone_is_frozen_as_a_whole() -> None:
    fault = faults.parse("process.pause", {"unit": "app"})
    assert fault.asks().units == ("app.service",)
    assert fault.compile(NodeView.example(fault.asks()), "0123abcd")[1] == Unit(
        "app.service", "frozen"
    )


def test_who_is_stopped_already_stays_so() -> None:
    fault = faults.parse("process.pause", {"cmdline": "work"})
    asleep = replace(OLD, stopped=True)
    assert fault.compile(replace(NODE, processes=(NEW, asleep)), "0123abcd")[1] == Stop(
        ((60, 200),)
    )
    with pytest.raises(Refused, match="stopped already"):
        fault.compile(replace(NODE, processes=(asleep,)), "0123abcd")


@pytest.mark.parametrize(
    ("process", "why"),
    [
        (ProcessFacts(1, 1, "systemd"), "PID 1"),
        (replace(NEW, kernel=True), "kernel"),
        (replace(NEW, unit="ssh.service"), "protected"),
    ],
)
def test_one_process_that_matters_refuses_the_whole_pause(process: ProcessFacts, why: str) -> None:
    fault = faults.parse("process.pause", {"cmdline": "."})
    with pytest.raises(Refused, match=why):
        fault.compile(replace(NODE, processes=(OLD, process)), "0123abcd")


def test_a_pause_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidInput, match="which processes"):
        faults.parse("process.pause", {})
    with pytest.raises(InvalidInput, match="no process"):
        faults.parse("process.pause", {"pid": 5}).compile(replace(NODE, processes=()), "0123abcd")


@pytest.mark.parametrize(
    ("repeat", "every"), [(None, None), ("1s", 1_000_000), ("90s", 90_000_000)]
)
def test_a_kill_is_done_once_or_every_so_often(repeat: str | None, every: int | None) -> None:
    fault = faults.parse("process.kill", {"cmdline": "x", **({"repeat": repeat} if repeat else {})})
    assert fault.again() == every
    assert faults.parse("process.kill", fault.model_dump(mode="json")) == fault
    with pytest.raises(InvalidInput, match="at least 1s"):
        faults.parse("process.kill", {"cmdline": "x", "repeat": "999ms"})


def test_nothing_that_must_be_undone_is_done_again() -> None:
    for kind, cls in faults.kinds().items():
        fault = faults.parse(kind, faults.from_words(shlex.split(cls.example)))
        if type(fault).again is not faults.Fault.again:
            done = fault.compile(NodeView.example(fault.asks()), "0123abcd")
            assert all(isinstance(effect, effects.AT_ONCE) for effect in done), kind


def test_a_port_selects_and_is_paused_process_by_process() -> None:
    kill = faults.parse("process.kill", {"port": "8080", "unit": "app"})
    assert kill.asks().processes == ProcessQuery(unit="app.service", port=8080)
    pause = faults.parse("process.pause", {"port": "8080"})
    assert pause.asks().processes == ProcessQuery(port=8080)
    with pytest.raises(InvalidInput, match="give unit, cmdline, port or pid"):
        faults.parse("process.kill", {})
    with pytest.raises(InvalidInput, match="port"):
        faults.parse("process.kill", {"port": "65536"})
