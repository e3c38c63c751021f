"""What the ``http`` probe reads beside what is true, and what it costs at 100 requests/s.

    .venv/bin/python bench/probe_truth.py [--seconds 20] [--rate 100]

A server in a process of its own makes every answer wait for a time that is drawn before
(seeded), and in one case stands still for 2 s of every 10. The truth is what it drew, and for
a request that was due while it stood still, what was left of that: no other client is needed to
know it. A closed loop, which sends again once it was answered, is shown beside.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from chaos_experiment.probes import Context
from chaos_experiment.probes._watch import watch
from chaos_experiment.probes.http import Http
from chaos_experiment.series import Observation, percentile

CASES = {
    "20 ms, always": lambda _: 20_000,
    "lognormal: median 20 ms, σ 0.8": lambda dice: 20_000 * math.exp(dice.gauss(0, 0.8)),
    "5 ms, and still for 2 s of every 10": lambda _: 5_000,
}
SHARES = (0.5, 0.9, 0.99, 0.999)
STILL_US, EVERY_US = 2_000_000, 10_000_000


def clock() -> int:
    return time.monotonic_ns() // 1000


def still_for(now: int, epoch: int | None) -> int:
    """µs until the server moves again; it stands still at the end of every 10 s."""
    if epoch is None:
        return 0
    phase = (now - epoch) % EVERY_US
    return EVERY_US - phase if phase >= EVERY_US - STILL_US else 0


async def serve(draw: Callable[[random.Random], float], epoch: int | None) -> None:
    """Prints its port, and the delays that it drew when its input ends."""
    dice, drawn = random.Random(1), list[float]()  # noqa: S311

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                drawn.append(draw(dice))
                due = clock() + still_for(clock(), epoch) + drawn[-1]
                await asyncio.sleep((due - clock()) / 1e6)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    server = await asyncio.start_server(one, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    print(json.dumps(drawn), flush=True)


async def open_loop(probe: Http, seconds: float) -> tuple[list[Observation], float]:
    """What it saw, and the share of one CPU that this process took from its second second on."""
    rows: list[Observation] = []
    task = asyncio.create_task(watch("it", probe, rows.append, clock))
    await asyncio.sleep(1)
    spent, begun = time.process_time(), time.monotonic()
    await asyncio.sleep(seconds)
    share = (time.process_time() - spent) / (time.monotonic() - begun)
    await asyncio.sleep(2.2)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    end = min(row.at for row in rows) + seconds * 1e6
    return [row for row in rows if row.at < end], share


async def closed_loop(probe: Http, seconds: float) -> list[float]:
    values, due = [], clock()
    until = due + seconds * 1e6
    async with probe.session(Context()) as look:
        while clock() < until:
            seen = await look()
            values.append(seen.value or math.nan)
            due = max(due + probe.due(1), clock())
            await asyncio.sleep((due - clock()) / 1e6)
    return values


async def play(case: str, seconds: float, rate: float) -> None:
    stands = "still" in case
    epoch = clock() if stands else None
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, "--serve", case, "--epoch", str(epoch or 0)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=64 * 1024 * 1024,
    )
    assert server.stdin
    assert server.stdout
    port = int(await server.stdout.readline())
    probe = Http(url=f"http://127.0.0.1:{port}/", rate=rate, timeout="5s")  # type: ignore[arg-type]
    rows, cpu = await open_loop(probe, seconds)
    closed = await closed_loop(probe, seconds)
    server.stdin.close()
    drawn = json.loads(await server.stdout.readline())[: len(rows)]
    await server.wait()
    true = [delay + still_for(row.at, epoch) for delay, row in zip(drawn, rows, strict=True)]
    seen = [row.value for row in rows if row.value is not None]
    print(f"| {case} | {len(rows)}, {len(rows) - len(seen)} failed | {cpu:.1%} |", end="")
    for share in SHARES:
        figures = (percentile(values, share) / 1000 for values in (true, seen, closed))
        print(" / ".join(f" {figure:.1f}" for figure in figures), end=" |")
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rate", type=float, default=100)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--epoch", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(serve(CASES[given.serve], given.epoch or None))
        return
    print("| server's delay | requests | CPU | p50 ms: true / probe / closed | p90 | p99 | p99.9 |")
    print("|---|---|---|---|---|---|---|")
    for case in CASES:
        asyncio.run(play(case, given.seconds, given.rate))


if __name__ == "__main__":
    main()
