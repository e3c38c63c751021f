"""What goes wrong in one world, and when: drawn from the seed, before anything runs.

A plan is a value, so that a shrunk one (``less``) is played in the same way as a
whole one.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

S = 1_000_000
NODES = tuple(f"n{number}" for number in range(1, 6))

# Name and weight; how its arguments are drawn stands in ``_arguments``.
_NOBODY = ("",) * 8
_NEMESES = (
    ("cut", 5),
    ("pause_agent", 3),
    ("pause_waiting", 2),
    ("kill_agent", 4),
    ("reboot", 2),
    ("suspend", 3),
    ("unlink", 3),
    ("pause_controller", 3),
    ("kill_controller", 5),
    ("stop_controller", 1),
    ("second_controller", 3),
    ("backup", 2),
    ("wall", 2),
    ("stall_disk", 1),
)


@dataclass(frozen=True, slots=True)
class Action:
    """Something that happens at ``at`` µs."""

    at: int
    name: str
    args: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """One world. ``loss`` and ``twice`` are shares of messages; ``slow`` of them take long.

    ``victim`` is a kind of message that hardly ever arrives. ``split``: with
    two controllers up, each agent dials either, else all dial the newer one.
    """

    seed: int
    horizon: int
    profiles: tuple[str, ...]
    loss: float
    twice: float
    slow: float
    slowest: int
    victim: str
    split: bool
    actions: tuple[Action, ...]

    def less(self, index: int) -> Plan:
        """The same without one action."""
        return replace(self, actions=self.actions[:index] + self.actions[index + 1 :])


def draw(seed: int) -> Plan:
    """The world of this seed."""
    rng = random.Random(seed)  # noqa: S311
    long = rng.random() < 0.001
    story = _story(rng, rng.randint(1_800_000, 4 * S)) if rng.random() < 0.5 else []
    horizon = 310 * S if long else rng.randint(9 if story else 5, 11) * S
    profile = rng.choices(("production", "staging", "lab"), (75, 20, 5))[0]
    mixed = tuple(rng.choice(("production", "staging", "lab")) for _ in NODES)
    calm = rng.random() < 0.25
    chance = _actions(rng, horizon, long, rng.randint(0, 2) if story else rng.randint(1, 6))
    return Plan(
        seed=seed,
        horizon=horizon,
        profiles=mixed if rng.random() < 0.1 else (profile,) * len(NODES),
        loss=0.0 if calm else rng.choice((0.0, 0.0, 0.02, 0.1, 0.3)),
        twice=0.0 if calm else rng.choice((0.0, 0.0, 0.05, 0.3, 0.6)),
        slow=0.0 if calm else rng.choice((0.0, 0.0, 0.05, 0.3, 0.6)),
        slowest=rng.choice((300_000, S, 3 * S, 8 * S)),
        victim=rng.choice((*_NOBODY, "grant", "apply", "revert", "revert", "heartbeat")),
        split=rng.random() < 0.3,
        actions=tuple(sorted((*story, *chance), key=lambda action: action.at)),
    )


def _actions(rng: random.Random, horizon: int, long: bool, disasters: int) -> list[Action]:
    """An operator who tries again and again, a few aborts, and a few disasters."""
    found: list[Action] = []
    at = rng.randint(200_000, 900_000)
    while at < horizon:
        found.append(Action(at, "inject", _injection(rng, long)))
        at += rng.randint(100_000, 1_500_000) * (20 if long else 1)
    for _ in range(rng.choices((0, 1, 2), (60, 30, 10))[0]):
        at = rng.randint(3 * S // 2, max(2 * S, horizon - 6 * S))
        found.append(Action(at, "abort", (rng.random() < 0.3,)))
        if rng.random() < 0.7:
            at += rng.choice((1, S, 4 * S, 6 * S))
            found.append(Action(at, "resume"))
            if rng.random() < 0.3:  # somebody else aborts while the resume is being written
                found.append(Action(at + rng.randint(1, 20_000), "abort", (False,)))
    names = [name for name, _ in _NEMESES]
    weights = [weight for _, weight in _NEMESES]
    return found + [
        Action(rng.randint(0, horizon), name, _arguments(rng, name))
        for name in rng.choices(names, weights, k=disasters)
    ]


def _story(rng: random.Random, at: int) -> list[Action]:
    """A fault, and then disasters in an order that chance alone seldom finds."""
    fault = Action(at - rng.randint(100_000, 900_000), "inject", (1, rng.randrange(5), 30 * S))
    return [fault, *_disasters(rng, at)]


def _disasters(rng: random.Random, at: int) -> list[Action]:
    soon, later = (at + rng.randint(1_000, span) for span in (400_000, 5 * S))
    short = rng.randint(50_000, 600_000)
    again = rng.choice(("same", "standby", "stale", "stale standby"))
    shared = rng.choice(("shared", "shared", "stale"))
    match rng.choice(("restore", "takeover", "stale stream", "orphan", "limp", "sleep")):
        case "restore":  # an old copy comes back when a later start has been counted already
            old = rng.choice(
                (
                    ("second_controller", ("stale", False)),
                    ("kill_controller", (short, "stale", False)),
                )
            )
            kill = Action(soon, "kill_controller", (short, again, False))
            return [Action(at, "backup"), kill, Action(later, *old)]
        case "takeover":  # two controllers, and nodes that go from one to the other or stay
            flaps = [at + rng.randint(1, 6 * S) for _ in range(rng.choice((0, 4)))]
            second = Action(at, "second_controller", (shared, False))
            return [second, *(Action(flap, "unlink", (9, 0)) for flap in flaps)]
        case "stale stream":  # the old one stops, is replaced, and answers what it finds then
            again = rng.choice(("stale", "stale", "shared"))
            leaves = rng.randint(100_000, 900_000)
            return [
                Action(at, "pause_controller", (leaves + rng.randint(530_000, 950_000),)),
                Action(at - S, "backup"),
                Action(at + 1_000, "second_controller", (again, False)),
                Action(at + leaves, "unlink", (9, 0)),
            ]
        case "orphan":  # a node is out of reach when its controller dies
            lonely = rng.choice((("cut", (9, 4 * S, "both")), ("kill_agent", (9, 4 * S))))
            return [
                Action(at, *lonely),
                Action(soon, "kill_controller", (short, again, rng.random() < 0.5)),
            ]
        case "sleep":
            return [Action(at, "suspend", (9, rng.randint(S // 2, 5 * S)))]
        case _:  # an agent that stops with an answer on its way, for about as long as its lease
            return [
                Action(at + turn * 3 * S, "pause_waiting", (9, rng.randint(1_500_000, 3 * S)))
                for turn in range(3)
            ]


def _injection(rng: random.Random, long: bool) -> tuple[Any, ...]:
    """How many nodes, from which on, and for how long."""
    wanted = rng.choices((1, 2, 3, 5), (75, 15, 5, 5))[0]
    durations = (
        (300 * S,) if long else (400_000, 400_000, 1_500_000, 3 * S, 30 * S, 30 * S, 300 * S)
    )
    return wanted, rng.randrange(len(NODES)), rng.choice(durations)


def _arguments(rng: random.Random, name: str) -> tuple[Any, ...]:
    """Whom (a node; 9 is one that carries a fault), for how long, and in which way."""
    whom = rng.choice((9, 9, 9, *range(len(NODES))))
    span = rng.choice((100_000, 600_000, 1_500_000, 2_500_000, 4 * S, 7 * S))
    span += rng.randint(0, 400_000)
    match name:
        case "cut":
            everybody = rng.random() < 0.3
            return (-1 if everybody else whom, span, rng.choice(("both", "up", "down")))
        case "kill_controller":
            how = rng.choice(("same", "same", "stale", "standby", "standby", "stale standby"))
            return (span, how, rng.random() < 0.5)
        case "stop_controller":
            return (span,)
        case "second_controller":
            return (rng.choice(("shared", "stale")), rng.random() < 0.5)
        case "wall":
            return (rng.choice((-3_600 * S, 3_600 * S)),)
        case "pause_controller" | "stall_disk":
            return (span,)
        case "backup":
            return ()
        case _:
            return (whom, span)
