"""``python -m tests.fuzz``: every target in turn, for some minutes, or one of them again."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from tests.fuzz import floods, targets
from tests.fuzz.controller_wire import stage
from tests.fuzz.harness import Finding, Target, play

_SLICE_S = 20.0
_KEEPER = "keeper_process"  # played by pytest, which makes the namespaces
_FLOODS = "floods"
_FLOOD = 500  # connections, calls, handshakes at once
_MANY = 10**9


def main() -> int:
    """Exit 1 with the input that broke something."""
    known = {target.name: target for target in targets()}
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="for all targets together")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the first chunk")
    parser.add_argument("--target", choices=[*known, _FLOODS, _KEEPER], help="this one only")
    parser.add_argument("--examples", type=int, default=0, help="so many, whatever the time")
    options = parser.parse_args()
    names = [options.target] if options.target else [*known, _FLOODS, _KEEPER]
    share = options.minutes * 60 / len(names)
    print(f"seed {options.seed}, {share:.0f} s for each of {', '.join(names)}", flush=True)
    try:
        for name in names:
            if name == _KEEPER:
                _keeper(options.seed, share)
            elif name == _FLOODS:
                _floods(share)
            elif options.examples:
                print(f"{name}: {play(known[name], options.seed, options.examples)} examples")
            else:
                _hunt(known[name], options.seed, share)
    except Finding as finding:
        print(f"FOUND in {finding}", flush=True)
        return 1
    print("nothing found")
    return 0


def _hunt(target: Target, seed: int, seconds: float) -> None:
    began = time.monotonic()
    done = 0
    while (now := time.monotonic()) < began + seconds:
        until = min(now + _SLICE_S, began + seconds)
        done += play(target, seed, _MANY, until)
        seed += 1_000_000
        took = time.monotonic() - began
        print(f"{target.name:16} {took:5.0f} s {done:9} examples, 0 findings", flush=True)


def _floods(seconds: float) -> None:
    """Much at once, against one controller, again and again."""
    until = time.monotonic() + seconds
    with stage() as made:
        while time.monotonic() < until:
            try:
                told = made.run(floods.play(made, _FLOOD))
            except AssertionError as error:
                raise Finding(f"{_FLOODS}: {error}") from error
            for line in told:
                print(f"{_FLOODS:16} {line}", flush=True)
            print(f"{_FLOODS:16} {made.controller.rss().rss >> 20} MiB resident", flush=True)


def _keeper(seed: int, seconds: float) -> None:
    """The keeper as a process, on this machine's kernel."""
    again = {"CHAOS_FUZZ_SECONDS": str(int(seconds)), "CHAOS_FUZZ_SEED": str(seed)}
    words = [sys.executable, "-m", "pytest", "-q", "-rP", "tests/kernel/test_hostile_link.py"]
    if subprocess.run(words, env={**os.environ, **again}, check=False).returncode:
        raise Finding(f"{_KEEPER}: {' '.join(f'{k}={v}' for k, v in again.items())}")


if __name__ == "__main__":
    sys.exit(main())
