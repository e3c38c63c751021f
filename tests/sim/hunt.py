"""Plays seeds, and makes what a broken one did readable."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tests.sim.outside import Outside
from tests.sim.plan import NODES, Plan, draw
from tests.sim.world import Result, World

_COLLECT_EVERY = 100


@dataclass(slots=True)
class Tally:
    """What some seeds came to."""

    seeds: int = 0
    events: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    broken: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.seeds += other.seeds
        self.events += other.events
        self.counts += other.counts
        self.broken += other.broken


def play(outside: Outside, plan: Plan, *, tracing: bool = False) -> Result:
    return World(outside, plan, tracing=tracing).play()


def tally(outside: Outside, seeds: Iterable[int]) -> Tally:
    """Play these seeds. Worlds are full of cycles: collecting them now and then is quicker."""
    found = Tally()
    was_on = gc.isenabled()
    gc.disable()
    try:
        for seed in seeds:
            result = play(outside, draw(seed))
            found.seeds += 1
            found.events += result.events
            found.counts += result.counts
            if result.violation:
                found.broken.append((seed, str(result.violation)))
            if found.seeds % _COLLECT_EVERY == 0:
                gc.collect()
    finally:
        if was_on:
            gc.enable()
    return found


def shrink(outside: Outside, plan: Plan) -> Plan:
    """A smaller plan that breaks the same rule: without each action that is not needed for it."""
    violation = play(outside, plan).violation
    rule = violation.rule if violation else ""
    index = len(plan.actions)
    while rule and index:
        index -= 1
        less = plan.less(index)
        still = play(outside, less).violation
        if still and still.rule == rule:
            plan = less
    return plan


def readable(result: Result) -> Iterator[str]:
    """The trace, line by line; of a broken world only what concerns the nodes where it broke."""
    where = set(result.violation.where) if result.violation else set(NODES)
    others = set(NODES) - where
    for at, who, text in result.trace:
        idle = "gets grant" in text and "runs=()" in text
        if who in others or idle or any(f"on={node}" in text for node in others):
            continue
        yield f"{at / 1e6:10.6f}  {who:5}  {text}"
