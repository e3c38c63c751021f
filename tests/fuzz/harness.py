"""What a target is, and how one is hunted.

Examples come from a seeded ``Dice``, not from hypothesis: sessions of forty messages
used up its entropy, so that it repeated itself and one in ten was understood at all.
What is lost with it, shrinking, is done here for lists: steps are left out for as long
as the finding stays.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from tests.fuzz.dice import Dice

Check = Callable[[Any], None]
_SHOWN = 3_000
_SHRINK_S = 30.0


@dataclass(frozen=True)
class Target:
    """``open`` sets the thing up and gives what takes one example and raises on a finding.

    ``make`` rolls an example: a list of steps, or anything. ``chunk`` is how many
    examples one setting up is good for.
    """

    name: str
    make: Callable[[Dice], Any]
    open: Callable[[], AbstractContextManager[Check]]
    chunk: int = 2_000


class Finding(AssertionError):
    """An example that broke something: the shortest one found, and how to see it again."""


def play(target: Target, first: int, count: int, until: float | None = None) -> int:
    """Check the examples of ``count`` seeds, or until a moment of time.monotonic().

    Returns how many it were. Raises Finding with the example that failed, shrunk.
    """
    done = 0
    while done < count and (until is None or time.monotonic() < until):
        with target.open() as check:
            for seed in range(first + done, first + min(done + target.chunk, count)):
                if until is not None and time.monotonic() > until:
                    break
                _try(target, check, seed)
                done += 1
    return done


def _try(target: Target, check: Check, seed: int) -> None:
    example = target.make(Dice(seed))
    problem = _problem(check, example)
    if problem is None:
        return
    if isinstance(example, list):
        example, problem = _shrunk(target, example, problem)
    text = "".join(traceback.format_exception(problem))
    raise Finding(
        f"{target.name}, seed {seed}: {type(problem).__name__}: {str(problem)[:_SHOWN]}\n"
        f"example: {repr(example)[:_SHOWN]}\n{text[-_SHOWN:]}\n"
        f"again: python -m tests.fuzz --target {target.name} --seed {seed} --examples 1"
    ) from problem


def _problem(check: Check, example: Any) -> Exception | None:
    try:
        check(example)
    except Exception as error:
        return error
    return None


def _shrunk(target: Target, steps: list[Any], problem: Exception) -> tuple[list[Any], Exception]:
    """Fewer steps that still break it, each tried on a thing freshly set up."""
    until = time.monotonic() + _SHRINK_S
    size = max(1, len(steps) // 2)
    while time.monotonic() < until:
        for less in _without(steps, size):
            with target.open() as check:
                still = _problem(check, less)
            if still is not None:
                steps, problem = less, still
                break
            if time.monotonic() > until:
                return steps, problem
        else:
            if size == 1:
                break
            size //= 2
    return steps, problem


def _without(steps: list[Any], size: int) -> Iterator[list[Any]]:
    for at in range(0, len(steps), size):
        less = steps[:at] + steps[at + size :]
        if less:
            yield less
