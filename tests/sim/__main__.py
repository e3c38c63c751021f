"""``python -m tests.sim``: many worlds on all cores, or one of them in detail."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

from tests.sim.hunt import Tally, play, readable, shrink, tally
from tests.sim.mutants import MUTANTS
from tests.sim.outside import installed
from tests.sim.plan import draw

_CHUNK = 250
_SHOWN = 20
_EVERY_S = 30.0


def main() -> int:
    """Exit 1 when a rule was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100_000, help="how many worlds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, help="replay this one as a trace")
    parser.add_argument("--whole", action="store_true", help="do not shrink it")
    parser.add_argument("--mutant", default="", help="break a rule: words of its name")
    options = parser.parse_args()
    if options.seed is not None:
        return _replay(options.seed, options.mutant, options.whole)
    return _hunt(options.first, options.seeds, options.jobs, options.mutant)


def _replay(seed: int, mutant: str, whole: bool) -> int:
    with installed() as outside, _breaking(mutant):
        plan = draw(seed)
        if not whole:
            plan = shrink(outside, plan)
        result = play(outside, plan, tracing=True)
    print(
        f"seed {seed}: {' '.join(plan.profiles)}; loss {plan.loss:.0%} (of {plan.victim or 'all'}),"
        f" twice {plan.twice:.0%}, late {plan.slow:.0%} by up to {plan.slowest / 1e6} s;"
        f" {len(plan.actions)} actions"
    )
    for line in readable(result):
        print(line)
    print(result.violation or "no rule was broken")
    return 1 if result.violation else 0


def _hunt(first: int, seeds: int, jobs: int, mutant: str) -> int:
    started = shown = time.monotonic()
    total = Tally()
    chunks = [
        range(at, min(at + _CHUNK, first + seeds)) for at in range(first, first + seeds, _CHUNK)
    ]
    with multiprocessing.Pool(jobs) as pool:
        for part in pool.imap_unordered(_chunk, ((chunk, mutant) for chunk in chunks)):
            total.add(part)
            if time.monotonic() - shown > _EVERY_S:
                shown = time.monotonic()
                print(f"  {total.seeds} seeds, {len(total.broken)} broken", flush=True)
    for line in _report(total, time.monotonic() - started):
        print(line)
    return 1 if total.broken else 0


def _chunk(job: tuple[range, str]) -> Tally:
    seeds, mutant = job
    with installed() as outside, _breaking(mutant):
        return tally(outside, seeds)


def _breaking(words: str) -> AbstractContextManager[None]:
    found = [mutant for mutant in MUTANTS if words and words in mutant.name]
    return found[0].instead() if found else nullcontext()


def _report(total: Tally, took: float) -> Iterator[str]:
    yield (
        f"{total.seeds} seeds, {total.events} events in {took:.0f} s:"
        f" {total.seeds / took:.0f} seeds/s, {len(total.broken)} broken"
    )
    yield ", ".join(f"{name}: {count}" for name, count in sorted(total.counts.items()))
    for seed, why in sorted(total.broken)[:_SHOWN]:
        yield f"  {why}\n    python -m tests.sim --seed {seed}"
    if len(total.broken) > _SHOWN:
        rest = [str(seed) for seed, _ in sorted(total.broken)[_SHOWN:]]
        yield f"  and seeds {' '.join(rest)}"


if __name__ == "__main__":
    sys.exit(main())
