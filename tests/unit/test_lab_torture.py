"""The pure parts of the kill matrix, and the tracer around a keeper of straw."""

from __future__ import annotations

import json
import random
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from chaos_lab import cli
from chaos_lab.torture import tracer as tracing
from chaos_lab.torture.cases import (
    HITS,
    KINDS,
    NOT_PLAYED,
    SIGNALS,
    Case,
    Deck,
    Hit,
    Kind,
    Step,
    chosen,
    draw,
)
from chaos_lab.torture.report import Report, Result
from chaos_lab.torture.tracer import Traced, Tracer

STEPS = (
    Step("before journal.intent", 1, "start", holder=False),
    Step("after Holder.apply", 1, "start", holder=True),
    Step("after Holder.renew", 1, "hold", holder=True),
    Step("before Holder.revert", 1, "end", holder=True),
    Step("after journal.done", 1, "end", holder=False),
)
ALL_STEPS = {kind.name: STEPS for kind in KINDS}


def cases(rounds: int = 300, seed: int = 1) -> tuple[Case, ...]:
    return tuple(draw(seed, rounds, ALL_STEPS))


# ── drawing ───────────────────────────────────────────────────────────────────────────────


def test_a_seed_draws_the_same_cases_again_and_another_draws_others() -> None:
    assert cases() == cases()
    assert cases()[:20] == cases(20)
    assert cases(seed=1) != cases(seed=2)


def test_a_sample_has_each_hit_once_and_a_campaign_each_kind_step_and_hit_alike() -> None:
    assert {case.hit for case in cases(len(HITS))} == set(HITS)
    drawn = cases(20 * len(HITS))
    assert {drawn.count(case) for case in drawn} == {1}
    for hit in HITS:
        assert sum(case.hit == hit for case in drawn) == 20
    many = cases(60 * len(HITS))
    for kind in KINDS:
        moments = {*STEPS} if kind.where == "once" else {*STEPS, None}
        assert {case.step for case in many if case.kind.name == kind.name} == moments


def test_hits_are_every_signal_on_every_process_and_both_ways_to_lose_a_machine() -> None:
    targets = {"keeper", "link", "both", "holder", "controller"}
    active = {(hit.target, hit.signal) for hit in HITS if not hit.alone}
    assert active == {(t, s) for t in targets for s in SIGNALS} | {("power", ""), ("reboot", "")}
    alone = {(hit.target, hit.signal) for hit in HITS if hit.alone}
    assert alone == {(t, s) for t in ("keeper", "link", "both", "all") for s in SIGNALS}


def test_a_holder_is_hit_only_where_there_is_one() -> None:
    holders = [case for case in cases() if case.hit.target in ("holder", "all")]
    assert holders
    assert all(case.kind.holder and (case.step is None or case.step.holder) for case in holders)


def test_a_fault_is_asked_for_longer_than_the_bound_unless_its_end_is_what_is_hit() -> None:
    for case in cases():
        ends = case.step is not None and case.step.stage == "end"
        renewed = case.hit.target == "link" and not case.hit.alone and case.hit.signal != "SIGSTOP"
        assert case.seconds == (4 if renewed else 8 if ends else 60)


def test_a_deck_deals_each_card_once_before_any_twice_and_keeps_what_does_not_fit() -> None:
    deck = Deck(random.Random(5), "abcde")  # noqa: S311 - not for secrets
    assert deck.deal(lambda card: card == "e") == "e"
    assert sorted(deck.deal() for _ in range(4)) == list("abcd")
    with pytest.raises(ValueError, match="no card fits"):
        deck.deal(lambda card: card == "z")


def test_a_round_is_chosen_by_its_number_or_a_part_of_its_name() -> None:
    drawn = cases()
    assert chosen(drawn, "#17") == (drawn[16],)
    assert chosen(drawn, "#0") == ()
    assert all(case.hit.target == "power" for case in chosen(drawn, ", power,"))
    assert chosen(drawn, "cpu.stress*SIGSEGV*Holder.revert")
    assert chosen(drawn, "") == drawn


# ── the report ────────────────────────────────────────────────────────────────────────────


def result(number: int, hit: Hit, **values: Any) -> Result:
    return Result(Case(number, KINDS[0], hit, STEPS[0], 0.0), "n1", **values)


def report(*results: Result, unplayed: int = 0) -> Report:
    return Report(7, 300, results, {"network.latency": 5}, 60.0, "2026-11-20", unplayed)


def test_a_report_groups_by_hit_and_counts_the_worst() -> None:
    keeper, power = Hit("keeper", "SIGKILL"), Hit("power")
    made = report(
        result(1, keeper, seen=True, gone=1.0, recovered=4.0),
        result(2, keeper, gone=2.5, recovered=3.0),
        result(3, power, recovered=9.0),
    )
    first, second, total = made.groups
    assert (first.name, first.rounds, first.seen, first.worst_gone) == (str(keeper), 2, 1, 2.5)
    assert (second.name, second.worst_gone, second.worst_recovered) == ("power", None, 9.0)
    assert (total.rounds, total.worst_gone, total.failed) == (3, 2.5, 0)
    assert made.passed
    assert "3 of 3 rounds held, worst time to gone 2.50 s, 0 residues" in made.summary
    assert json.loads(made.as_json())["groups"][-1]["rounds"] == 3


def test_a_failed_round_fails_the_campaign_and_says_how_to_play_it_alone() -> None:
    bad = result(2, HITS[0], residue=("+ipset chs-1",), why="after 40 s: +ipset chs-1")
    made = report(result(1, HITS[0]), bad)
    assert not made.passed
    assert made.groups[-1].residue == made.groups[-1].failed == 1
    assert "chaosctl lab torture --seed 7 --rounds 300 --only '#2'" in made.as_markdown()
    assert json.loads(made.as_json())["rounds"][1]["failure"] == bad.why


def test_no_round_at_all_is_no_success() -> None:
    assert not report().passed


def test_an_interrupted_campaign_is_no_success_and_says_what_it_has_not_played() -> None:
    made = report(result(1, HITS[0]), unplayed=299)
    assert not made.passed
    assert "1 of 1 rounds held" in made.summary
    assert "Interrupted: 299 were not played." in made.as_markdown()
    assert json.loads(made.as_json())["unplayed"] == 299


def test_a_report_is_written_for_machines_and_for_people(tmp_path: Path) -> None:
    report(result(1, HITS[0])).write(tmp_path / "torture")
    assert json.loads((tmp_path / "torture/report.json").read_text())["passed"]
    assert "1 of 1 rounds held" in (tmp_path / "torture/report.md").read_text()


def test_the_table_is_at_most_80_columns_wide(capsys: pytest.CaptureFixture[str]) -> None:
    results = (result(n, hit, gone=14.99, recovered=41.0) for n, hit in enumerate(HITS))
    cli._show_rounds(report(*results))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > len(HITS)
    assert max(map(len, lines[: len(HITS) + 2])) <= 80
    assert Console().width >= 80


def test_a_campaign_of_no_rounds_is_refused() -> None:
    assert CliRunner().invoke(cli.app, ["torture", "--rounds", "0"]).exit_code == 2


# ── the tracer ────────────────────────────────────────────────────────────────────────────


class Warden:
    """Gives one keeper its orders and keeps what it says."""

    def __init__(self, path: Path, orders: dict[str, Any]) -> None:
        self.door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.door.bind(str(path))
        self.door.listen()
        self.orders = orders
        self.heard: list[dict[str, Any]] = []
        self.halted = threading.Event()
        self.go = threading.Event()
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        keeper, _ = self.door.accept()
        with keeper:
            keeper.send(json.dumps(self.orders).encode())
            while data := keeper.recv(4096):
                self.heard.append(json.loads(data))
                if "name" in self.orders:
                    self.halted.set()
                    self.go.wait(10)
                    keeper.send(b"go")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tracing, "SOCKET", str(tmp_path / "socket"))
    return tmp_path / "socket"


def play(tracer: Tracer) -> list[str]:
    """A fault of one effect, whose apply makes two calls of an adapter."""
    done: list[str] = []

    class Adapter:
        def poke(self, what: str) -> None:
            done.append(what)

    def seen(name: str, call: Any) -> Any:
        def wrapped(*args: Any) -> Any:
            call(*args)
            tracer.step(f"after adapter.{name}")

        return wrapped

    adapter = Traced(Adapter(), seen)

    def apply() -> None:
        adapter.poke("one")
        adapter.poke("two")

    tracer.begin()
    tracer.wrap("start", tracer.wrap("Effect.apply", apply, changing=True), stage="start")()
    return done


def test_every_step_of_a_fault_is_named_and_counted(path: Path) -> None:
    warden = Warden(path, {"record": True})
    tracer = Tracer()
    assert play(tracer) == ["one", "two"]
    path.unlink()
    tracer.begin()  # the next fault: the connection for this one is closed
    warden.thread.join(10)
    assert [(step["name"], step["nth"]) for step in warden.heard] == [
        ("before start", 1),
        ("before Effect.apply", 1),
        ("after adapter.poke", 1),
        ("after adapter.poke", 2),
        ("after Effect.apply", 1),
        ("after start", 1),
    ]
    assert {step["stage"] for step in warden.heard} == {"start"}


def test_a_keeper_halts_at_the_named_step_until_it_is_told_to_go_on(path: Path) -> None:
    warden = Warden(path, {"name": "after adapter.poke", "nth": 1})
    done: list[list[str]] = []
    keeper = threading.Thread(target=lambda: done.append(play(Tracer())), daemon=True)
    keeper.start()
    assert warden.halted.wait(10)
    assert not done
    warden.go.set()
    keeper.join(10)
    assert done == [["one", "two"]]


def test_without_a_warden_nothing_is_different(path: Path) -> None:
    assert not path.exists()
    assert play(Tracer()) == ["one", "two"]


def test_every_kind_is_played_or_it_is_said_why_it_is_not() -> None:
    from chaos_core import faults

    assert sorted([*(kind.name for kind in KINDS), *NOT_PLAYED]) == sorted(faults.kinds())
    assert all(NOT_PLAYED.values())


def test_what_is_played_has_parameters_that_the_product_takes() -> None:
    from chaos_core import envelope, faults
    from chaos_core.units import Duration

    def check(kind: Kind) -> None:
        fault = faults.parse(kind.name, faults.from_words(kind.params))
        envelope.check(envelope.PROFILES["lab"], fault.draw(), Duration.parse("60s"), ())

    for kind in KINDS:
        check(kind)
