"""A sample of what ``make fuzz`` plays for minutes: see tests/fuzz."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
from tests.fuzz import controller_wire, floods, targets
from tests.fuzz.controller_wire import stage
from tests.fuzz.dice import Dice
from tests.fuzz.harness import Check, Finding, Target, play

SAMPLE = {
    "fault_params": 300,
    "keeper_messages": 15,
    "agent_files": 60,
    "record_files": 30,
    "link_wire": 1,
}
TARGETS = {target.name: target for target in targets()}


@pytest.mark.parametrize("name", SAMPLE)
def test_nothing_breaks_in_the_sample(name: str) -> None:
    assert play(TARGETS[name], 1, SAMPLE[name]) == SAMPLE[name]


def test_attacks_on_a_controller_are_not_noticed_by_those_who_are_honest() -> None:
    assert {*SAMPLE, "controller_wire"} == TARGETS.keys()
    with stage() as made:
        for seed in range(3):
            made.run(made.check(controller_wire.TARGET.make(Dice(seed))))
        assert len(made.run(floods.play(made, 20))) == len(floods.FLOODS)


MUTANTS: dict[str, tuple[str, str, Any]] = {
    "parameters nest without end": (
        *("keeper_messages", "chaos_agent.supervisor.read_params"),
        lambda text, _: json.loads(text),
    ),
    "ceilings are not checked": (
        *("keeper_messages", "chaos_core.envelope.check"),
        lambda *_: None,
    ),
    "runs are not counted": (
        *("keeper_messages", "chaos_core.envelope.check_runs"),
        lambda *_: None,
    ),
    "leases do not end": ("keeper_messages", "chaos_core.lease.LeaseTable.tick", lambda *_: ()),
    "nothing is protected": (
        *("fault_params", "chaos_core.faults._network._protected_rules"),
        lambda *_: (),
    ),
    "texts are markup": (
        *("record_files", "xml.etree.ElementTree._escape_cdata"),
        lambda text, *_: text,
    ),
    "a damaged line is passed over": (
        *("agent_files", "chaos_agent.journal.Journal.damaged"),
        property(lambda _: 0, lambda *_: None),
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_judges_notice_what_is_broken(name: str) -> None:
    target, where, instead = MUTANTS[name]
    with (
        patch(where, instead, create=True),
        patch("tests.fuzz.harness._SHRINK_S", 0.0),
        pytest.raises(Finding),
    ):
        play(TARGETS[target], 1, 400)


def test_the_judge_knows_the_sets_that_protect_from_those_that_choose() -> None:
    chosen = '{"peers": "10.9.0.0/30", "local_ports": "443", "delay": "49ms", "direction": "both"}'
    example = ("network.latency", chosen, "staging", 30_000_000, 1)
    with TARGETS["fault_params"].open() as check:
        check(example)
        with (
            patch("chaos_core.faults._network._protected_ports", lambda *_: ("0.0.0.0/1,tcp:1",)),
            pytest.raises(AssertionError, match="chs-0a1b2c3d-42"),
        ):
            check(example)


def test_a_finding_is_told_with_the_shortest_input_that_breaks_it() -> None:
    @contextmanager
    def opened() -> Iterator[Check]:
        def check(steps: list[int]) -> None:
            assert 7 not in steps

        yield check

    def make(dice: Dice) -> list[int]:
        return [dice.randrange(10) for _ in range(30)]

    with pytest.raises(Finding, match=r"example: \[7\]"):
        play(Target("toy", make, opened), 1, 100)
