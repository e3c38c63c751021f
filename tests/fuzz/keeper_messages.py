"""A taken-over link's messages: bytes, half truths, replays, wrong epochs, in any order.

The judge asks after each message what holds in the (pretended) kernel: never more than
the envelope, never past its lease or its duration, never of two runs where one may be,
and always a heartbeat that fits.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.fuzz import fault_params, judge
from tests.fuzz.dice import Dice, dumped
from tests.fuzz.harness import Check, Target
from tests.fuzz.pretend import VIEW, Kernel, supervisor

from chaos_agent.effects import FAILED
from chaos_agent.supervisor import Supervisor
from chaos_core.envelope import MAX_FAULTS, PROFILES, Envelope
from chaos_core.errors import InvalidInput
from chaos_core.faults import kinds
from chaos_core.messages import MAX_FROM_KEEPER, from_keeper, to_keeper

_S = 1_000_000
_TTL = 3 * _S
_LONGEST = 300 * _S
_MANY = 1 << 32
Step = tuple[str, Any]


def message(dice: Dice) -> dict[str, Any]:
    """What a link may say, true or not."""
    made: dict[str, Any]
    match dice.choices(("apply", "grant", "revert", "release"), (10, 6, 1, 1))[0]:
        case "apply":
            kind = dice.choice(sorted(kinds()))
            made = {
                "type": "apply",
                "epoch": _epoch(dice),
                "seq": _seq(dice),
                "ttl_us": _ttl(dice),
                "run": _run(dice),
                "fault": dice.rarely(f"{dice.randrange(200):08x}", dice.text(), sides=20),
                "kind": dice.rarely(kind, dice.text(), sides=20),
                "params": fault_params.text(dice, kind),
                "duration_us": dice.rarely(
                    dice.choice((2, 9, 59, 60, 299, 300)) * _S, dice.number(), 301 * _S
                ),
            }
        case "grant":
            made = {"type": "grant", "epoch": _epoch(dice), "seq": _seq(dice), "ttl_us": _ttl(dice)}
            made["runs"] = dice.rarely(["r-1", "r-2", "r-3"], [_run(dice)], ["r-1"] * 17, [])
        case "revert":
            made = {"type": "revert", "reason": dice.text()}
            made["fault"] = dice.choice(("", f"{dice.randrange(200):08x}", dice.text()))
        case _:
            made = {"type": "release", "epoch": _epoch(dice), "reason": dice.text()}
    if dice.one_in(12):
        made[dice.choice((*made, "command"))] = dice.value()
    return made


# The last heartbeat's number, that of some before, or one that was made up.
def _seq(dice: Dice) -> Any:
    return dice.rarely("last", -1, -2, -9, 1, 2, 9, dice.number())


def _epoch(dice: Dice) -> int:
    return dice.rarely(1, 0, 2, 3, 10**6, 10**12, dice.number(), sides=30)


def _ttl(dice: Dice) -> int:
    return dice.rarely(_TTL, dice.number())


def _run(dice: Dice) -> str:
    return dice.rarely("r-1", "r-1", "r-2", "r-2", "r-3", dice.text(), sides=4)


def steps(dice: Dice) -> list[Step]:
    """A session: messages (whole, damaged, said again), pauses."""
    return [_step(dice) for _ in range(dice.randrange(1, 60))]


def _make(dice: Dice) -> list[Step]:
    """The first step chooses the profile; without one it is the strictest."""
    return [("profile", dice.choice(sorted(PROFILES))), *steps(dice)]


def _step(dice: Dice) -> Step:
    match dice.choices(("say", "damage", "again", "raw", "wait"), (16, 2, 2, 1, 4))[0]:
        case "say":
            return "say", message(dice)
        case "damage":
            return "damage", (message(dice), dice.randrange(_MANY))
        case "again":
            return "again", dice.randrange(20)
        case "raw":
            return "raw", dice.choice((dice.randbytes(dice.randrange(80)), dice.nested().encode()))
        case _:
            return "wait", dice.choice((dice.randrange(_S), dice.randrange(4 * _S)))


class Hostile:
    """Turns steps into bytes: knows the heartbeats' numbers, and what it has said before."""

    def __init__(self) -> None:
        self.seqs: list[int] = []
        self.said: list[bytes] = []

    def spoken(self, step: Step) -> bytes:
        how, what = step
        match how:
            case "say":
                data = self._dump(what)
            case "damage":
                data = Dice(what[1]).damaged(self._dump(what[0]))
            case "again":
                data = self.said[-1 - what % len(self.said)] if self.said else b""
            case _:
                data = what
        self.said.append(data)
        return data

    def _dump(self, message: dict[str, Any]) -> bytes:
        seq = message.get("seq")
        if seq == "last":
            message = {**message, "seq": self.seqs[-1] if self.seqs else 0}
        elif isinstance(seq, int) and -9 <= seq < 0:
            message = {**message, "seq": self.seqs[seq] if len(self.seqs) >= -seq else 0}
        elif isinstance(seq, int) and seq < 10:
            message = {**message, "seq": (self.seqs[-1] if self.seqs else 0) + seq}
        return dumped(message).encode()


class _Node:
    """One keeper's decisions, judged after every step."""

    def __init__(self, made: Supervisor, kernel: Kernel, ceilings: Envelope) -> None:
        self.made = made
        self.kernel = kernel
        self.ceilings = ceilings
        self.hostile = Hostile()
        self.since: dict[str, int] = {}
        self.beat()

    def step(self, step: Step) -> None:
        if step[0] == "wait":
            self.wait(step[1])
        elif step[0] != "profile":
            with suppress(InvalidInput):
                self.made.obey(to_keeper(self.hostile.spoken(step)), self.kernel.now)
        self.judge()
        self.beat()

    def wait(self, span: int) -> None:
        """As the keeper's loop: it wakes when something is due."""
        end = self.kernel.now + span
        while self.kernel.now < end:
            due = self.made.next_wakeup() or end
            self.kernel.now = max(self.kernel.now + 1_000, min(due, end))
            self.made.tick(self.kernel.now)
            self.judge()

    def beat(self) -> None:
        beat = self.made.heartbeat(self.kernel.now)
        data = beat.model_dump_json().encode()
        assert len(data) <= MAX_FROM_KEEPER, f"a heartbeat of {len(data)} bytes"
        assert from_keeper(data) == beat
        failed = [status.detail for status in beat.faults if FAILED in status.detail]
        assert not failed, failed[0]  # the keeper lives on, and yet it is a defect
        self.hostile.seqs.append(beat.seq)

    def judge(self) -> None:
        now = self.kernel.now
        holding = self.kernel.in_force()
        faults = {judge.fault_of(effect) for effect in holding} - {""}
        self.since = {fault: self.since.get(fault, now) for fault in faults}
        judge.within(self.ceilings, VIEW, holding)
        assert len(faults) <= MAX_FAULTS, f"{len(faults)} faults at once"
        runs = {self.made.engine.standing[fault].run for fault in faults}
        assert len(runs) <= self.ceilings.runs, f"runs {runs} at once"
        for effect in holding:
            left = self.kernel.until[effect] - now
            assert left <= _TTL, f"{effect} holds for {left} µs without a word"
        for fault, since in self.since.items():
            assert now - since <= _LONGEST, f"fault {fault} for {now - since} µs"


@contextmanager
def _open() -> Iterator[Check]:
    with tempfile.TemporaryDirectory() as directory:
        count = 0

        def check(steps: list[Step]) -> None:
            nonlocal count
            name = next((what for how, what in steps if how == "profile"), "production")
            count += 1
            state = Path(directory, str(count))
            state.mkdir()
            with supervisor(PROFILES[name], state) as (made, kernel):
                node = _Node(made, kernel, PROFILES[name])
                for step in steps:
                    node.step(step)
                node.wait(_TTL)  # nobody renews any more
                assert not kernel.until, "something outlived its lease"

        yield check


TARGET = Target("keeper_messages", _make, _open)
