"""``host`` and ``process`` beside what psutil, the kernel and a process of known size tell."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.services.looks import clock, look

from chaos_experiment.probes import Context, Probe, kinds
from chaos_experiment.probes._watch import watch
from chaos_experiment.series import Observation

MIB = 1 << 20
SLEEPS = """
import mmap, sys, time
held = mmap.mmap(-1, {size})
held.write(b"x" * {size})
files = [open("/dev/null") for _ in range({files})]
print(flush=True)
time.sleep(60)
"""
BURNS = """
import time
print(flush=True)
end = time.monotonic() + 60
while time.monotonic() < end:
    pass
"""


def made(kind: str, **fields: Any) -> Probe:
    return kinds()[kind].model_validate({"from": "web", **fields})


@contextmanager
def running(code: str, mark: str) -> Iterator[psutil.Popen]:
    """A process that has begun; its command line ends with ``mark``."""
    process = psutil.Popen([sys.executable, "-c", code, mark], stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def value(kind: str, **fields: Any) -> float:
    seen = await look(made(kind, **fields))
    assert seen.ok, seen.text
    assert seen.value is not None
    return seen.value


async def test_a_process_is_seen_as_large_as_it_is() -> None:
    begun = time.monotonic()
    with running(SLEEPS.format(size=64 * MIB, files=40), "chaos-probe-a") as one:
        ran = time.monotonic()  # psutil knows its age to a second only
        me = {"cmdline": "chaos-probe-a"}
        assert await value("process", **me) == 1
        assert await value("process", cmdline="python*chaos-*-a", metric="count") == 1
        rss = await value("process", **me, metric="rss")
        assert rss == pytest.approx(one.memory_info().rss, rel=0.02)
        assert 64 * MIB < rss < 120 * MIB
        share = await value("process", **me, metric="memory")
        assert share == pytest.approx(100 * rss / psutil.virtual_memory().total, rel=0.02)
        assert await value("process", **me, metric="fds") == one.num_fds() >= 40
        assert await value("process", **me, metric="threads") == 1
        least = time.monotonic() - ran
        age = await value("process", **me, metric="uptime")
        # The kernel counts in ticks of 10 ms, from one before to one after.
        assert least - 0.02 <= age / 1e6 <= time.monotonic() - begun + 0.02
        with running(SLEEPS.format(size=MIB, files=1), "chaos-probe-a"):
            assert await value("process", **me) == 2
            assert await value("process", **me, metric="rss") > rss
            assert await value("process", **me, metric="uptime") < age  # the youngest one's
        one.suspend()  # runs no less for that
        assert await value("process", **me) == 1


async def test_none_is_a_failure_but_not_to_who_counts() -> None:
    with running(SLEEPS.format(size=MIB, files=1), "chaos-probe-b") as one:
        one.kill()
        until = time.monotonic() + 5
        while one.status() != psutil.STATUS_ZOMBIE:  # which nobody has waited for
            assert time.monotonic() < until
            await asyncio.sleep(0.01)
        for metric in ("running", "rss", "cpu", "uptime"):
            seen = await look(made("process", cmdline="chaos-probe-b", metric=metric))
            assert (seen.ok, seen.value) == (False, None)
            assert seen.text == "no process is chaos-probe-b"
        assert await value("process", cmdline="chaos-probe-b", metric="count") == 0


async def test_processes_of_a_service_are_those_in_its_cgroup(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """This machine runs no systemd: what is shown is /proc as one that does has it."""
    with running(SLEEPS.format(size=MIB, files=1), "chaos-probe-c") as one:
        for pid in psutil.pids():
            place = tmp_path / str(pid)
            place.mkdir()
            unit = "shop@1.service" if pid == one.pid else "shop.service"
            (place / "cgroup").write_text(f"0::/system.slice/{unit}/worker\n")
        monkeypatch.setattr("chaos_experiment.probes.process._PROC", str(tmp_path))
        name = {"cmdline": "chaos-probe-c", "metric": "count"}
        assert await value("process", unit="shop@1", **name) == 1
        assert await value("process", unit="shop", **name) == 0
        assert await value("process", unit="shop@1", metric="count") == 1


async def watched(probe: Probe, seconds: float) -> list[Observation]:
    """What is seen of it for a while."""
    seen: list[Observation] = []
    task = asyncio.create_task(watch("it", probe, seen.append, clock, Context()))
    await asyncio.sleep(seconds)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return seen


async def test_cpu_is_a_share_of_the_whole_node() -> None:
    with running(BURNS, "chaos-probe-d") as one:
        before, begun = sum(one.cpu_times()[:2]), time.monotonic()
        seen = await watched(made("process", cmdline="chaos-probe-d", metric="cpu"), 3.5)
        spent = sum(one.cpu_times()[:2]) - before
        share = 100 * spent / (time.monotonic() - begun) / (os.cpu_count() or 1)
    values = [each.value for each in seen if each.value is not None]
    assert len(values) >= 3
    mean = sum(values) / len(values)
    assert mean == pytest.approx(share, abs=7)
    assert mean > 5


async def test_the_nodes_cpu_is_what_the_kernel_counts() -> None:
    before = psutil.cpu_times()
    seen = await watched(made("host", metric="cpu"), 3.3)
    after = psutil.cpu_times()
    idle = after.idle + after.iowait - before.idle - before.iowait
    whole = sum(after[:8]) - sum(before[:8])
    values = [each.value for each in seen if each.value is not None]
    assert len(values) >= 3
    assert sum(values) / len(values) == pytest.approx(100 * (1 - idle / whole), abs=12)


async def test_the_node_is_as_psutil_says() -> None:
    memory = psutil.virtual_memory()
    used = await value("host", metric="memory_used")
    assert used == pytest.approx(100 * (1 - memory.available / memory.total), abs=3)
    assert await value("host", metric="memory_available") == pytest.approx(100 - used, abs=3)
    disk = psutil.disk_usage("/").percent
    assert await value("host", metric="disk_used", path="/") == pytest.approx(disk, abs=1)
    assert await value("host", metric="disk_free", path="/") == pytest.approx(100 - disk, abs=1)
    assert await value("host", metric="swap_used") == psutil.swap_memory().percent
    assert await value("host", metric="load") == pytest.approx(os.getloadavg()[0], abs=1)
    assert await value("host", metric="processes") == pytest.approx(len(psutil.pids()), abs=40)
    uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert await value("host", metric="uptime") / 1e6 == pytest.approx(uptime, abs=1)
    seen = await look(made("host", metric="disk_used", path="/nowhere"))
    assert seen.text == "/nowhere: No such file or directory"


async def test_connections_are_counted_as_they_come_and_go() -> None:
    before = await value("host", metric="tcp_established")
    with socket.create_server(("127.0.0.1", 0)) as server:
        pairs = []
        for _ in range(100):
            client = socket.create_connection(server.getsockname())
            pairs += [client, server.accept()[0]]
        during = await value("host", metric="tcp_established")
        for each in pairs:
            each.close()
    assert during - before == pytest.approx(200, abs=40)  # both ends are here


async def test_a_file_system_that_hangs_holds_up_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one that a lost server exports does: its looks time out, and no thread is taken twice."""
    from chaos_experiment.probes import host

    monkeypatch.setattr(host, "_number", lambda _: time.sleep(1.5))
    slow = made("host", metric="processes", interval="100ms", timeout="200ms")
    seen, _ = await asyncio.gather(
        watched(slow, 1.0), watched(made("host", metric="load", interval="100ms"), 0)
    )
    assert len(seen) >= 4
    assert {each.text for each in seen} == {"timed out after 200ms"}
