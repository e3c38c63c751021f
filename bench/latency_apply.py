"""Apply and revert time of ``network.latency``, beside the tools that people fork for it.

    .venv/bin/python bench/latency_apply.py [--rounds N] [--tcconfig-rounds N]

The engine in one process, as the keeper runs it, beside ``ipset``, ``ip``, ``tc`` and
``iptables-legacy`` forked for the very same plumbing, and beside tcconfig's ``tcset``
and ``tcdel``. In a User-Mode Linux kernel, which has netem; there a fork costs more
than elsewhere, so a fault that this host's own kernel can do is measured on it too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from chaos_lab import uml
from chaos_lab.layout import LabDir

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".lab" / "cache" / "bench"
TCCONFIG = "tcconfig==0.30.1"
INSIDE = "bench.latency.inside"
_TITLES = {
    "engine": "our engine: snapshot, journal, apply, verify; revert, compare",
    "plumbing": "our engine: the kernel plumbing alone",
    "forked": "the same plumbing, {commands[0]} + {commands[1]} commands forked",
    "batched": "the same plumbing, {batches[0]} + {batches[1]} batches forked",
    "tcconfig": "tcset --delay 50ms --network PEER; tcdel --all",
}
_RATIOS = {"engine": "engine / theirs", "plumbing": "plumbing / theirs"}
_console = Console(highlight=False, width=120)


class Results:
    """What one run inside a kernel told."""

    def __init__(self) -> None:
        self.times: dict[str, list[tuple[float, float]]] = {}
        self.steps: dict[str, list[float]] = {}
        self.first: dict[str, float] = {}
        self.counts: dict[str, Any] = {}

    @classmethod
    def of(cls, lines: Iterable[dict[str, Any]]) -> Results:
        """All that a run tells."""
        results = cls()
        with _console.status("starting") as status:
            for line in lines:
                results.hear(line)
                done = {name: len(rounds) for name, rounds in results.times.items()}
                status.update(f"rounds done: {done or 'none yet'}")
        return results

    def hear(self, told: dict[str, Any]) -> None:
        """One line of it."""
        if "method" in told:
            self.times.setdefault(told["method"], []).append((told["apply"], told["revert"]))
        for name, seconds in told.get("steps", {}).items():
            self.steps.setdefault(name, []).append(seconds)
        if "seen" in told:
            self.first[told["seen"]] = told["first"]
        if "commands" in told:
            self.counts = told

    def print(self, title: str) -> None:
        """The figures as a table, and where the engine's time goes."""
        table = Table("", "rounds", "apply ms", "revert ms", *_RATIOS.values(), title=title)
        for name, rounds in self.times.items():
            applied, reverted = zip(*rounds, strict=True)
            table.add_row(
                _TITLES[name].format(**self.counts),
                str(len(rounds)),
                _spread(applied),
                _spread(reverted),
                *("" if name in _RATIOS else self._ratio(ours, rounds) for ours in _RATIOS),
            )
        _console.print(table)
        first = f"{1000 * self.first['engine']:.0f} ms"
        _console.print(f"The first apply of a new process, with its imports: {first}.")
        total = sum(map(statistics.median, self.steps.values()))
        table = Table("the engine's steps", "median ms", "share", title=f"{title}: where it goes")
        for name, seconds in self.steps.items():
            middle = statistics.median(seconds)
            table.add_row(name, f"{1000 * middle:.2f}", f"{middle / total:.0%}")
        _console.print(table)

    def _ratio(self, ours: str, theirs: list[tuple[float, float]]) -> str:
        """Of the medians of apply and of revert."""
        both = zip(zip(*self.times[ours], strict=True), zip(*theirs, strict=True), strict=True)
        ratios = [statistics.median(mine) / statistics.median(other) for mine, other in both]
        return ", ".join(f"{ratio:.3f}" for ratio in ratios)


def _spread(seconds: tuple[float, ...]) -> str:
    low, middle, high = (1000 * f(seconds) for f in (min, statistics.median, max))
    return f"{middle:.1f} ({low:.1f}–{high:.1f})"


def tcconfig() -> str:
    """tcconfig's commands in an environment of their own; installed the first time."""
    home = CACHE / TCCONFIG
    if not (home / "bin" / "tcset").exists():
        uv = shutil.which("uv") or str(ROOT / ".lab" / "tools" / "bin" / "uv")
        _console.print(f"installing {TCCONFIG}")
        _run([uv, "venv", "--quiet", "--clear", "--python", "/usr/bin/python3", str(home)])
        pip = [uv, "pip", "install", "--quiet", "--compile-bytecode"]
        _run([*pip, "--python", str(home / "bin" / "python"), TCCONFIG])
    return str(home / "bin")


def _run(words: list[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr}")


@contextmanager
def directory() -> Iterator[Path]:
    """On the project's disk, so that the journal's fdatasync is a real one."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="round-") as name:
        yield Path(name)


def in_guest(job: dict[str, Any], module: str = INSIDE) -> Iterator[dict[str, Any]]:
    """Run the job in a kernel of its own that boots from this host's files; what it tells."""
    with directory() as exchange:
        words = _inside({**job, "state": "/run/exchange/state"}, module)
        (exchange / "command").write_text("\0".join(words))
        init, program = exchange / "init", ROOT / "tests" / "kernel" / "guest.py"
        init.write_text(f"#!/bin/sh\nexec {sys.executable} -B {program}\n")
        init.chmod(0o700)
        kernel = [
            *uml.command(LabDir.find(), max(os.sched_getaffinity(0))),
            *("mem=384M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/"),
            *("ro", "con=null", "con0=fd:0,fd:1", "quiet", f"uml_dir={exchange}/"),
            *(f"init={init}", f"exchange={exchange}", f"cwd={ROOT}"),
        ]
        yield from _listen(kernel)


def on_host(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Run the job on this host's kernel, in a network namespace of its own; what it tells."""
    with directory() as state:
        yield from _listen(["unshare", "-n", *_inside({**job, "state": str(state)}, INSIDE)])


def _inside(job: dict[str, Any], module: str) -> list[str]:
    return [sys.executable, "-B", "-m", module, json.dumps(job)]


def _listen(words: list[str]) -> Iterator[dict[str, Any]]:
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    said, heard = [], False
    try:
        assert process.stdout is not None
        for line in process.stdout:
            before, tag, rest = line.partition("@bench ")
            if tag:
                heard = True
                yield json.loads(rest)
            else:
                said.append(before)
        code = process.wait(10)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()
    if not heard or "Traceback" in "".join(said):
        raise SystemExit(f"not all was measured (exit {code}): {''.join(said)[-3000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tcconfig-rounds", type=int, default=5, help="each takes 5 s")
    args = parser.parse_args()
    if os.geteuid():
        raise SystemExit("this needs root: it makes network namespaces and plumbing in them")
    _console.print(f"load {os.getloadavg()[0]:.1f}")
    job = {"kind": "network.latency", "params": {"delay": "50ms"}, "rounds": args.rounds}
    peer = {"tcconfig": tcconfig(), "tcconfig_rounds": args.tcconfig_rounds}
    Results.of(in_guest({**job, **peer})).print(
        "network.latency, one peer, 50 ms, in User-Mode Linux"
    )
    job |= {"kind": "network.partition", "params": {"direction": "in"}, "tcconfig": ""}
    Results.of(on_host(job)).print("network.partition, one peer, inbound, on this host's kernel")


if __name__ == "__main__":
    main()
