"""``chaosctl run`` and ``suite run`` as processes, against a real controller: signals, suites."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from chaos_core.errors import Exit
from chaos_experiment.record import Record
from chaosctl.commands.inject import INTERRUPTED

from .rig import Agent, Rig, until

SCENARIO = """\
title: The database answers late
targets: {{web: {{names: [{node}]}}}}
baseline: 200ms
timeline:
  - {{for: {length}, fault: network.latency, with: {{peers: [10.0.0.9], delay: 20ms}}}}
"""
_PROGRAM = "from chaosctl.main import run; run()"


@asynccontextmanager
async def chaosctl(rig: Rig, *argv: str) -> AsyncIterator[asyncio.subprocess.Process]:
    whom = ("--controller", rig.address, "--pki", str(rig.home("operator/ann")))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", "-c", _PROGRAM, *argv, *whom),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def scenario(directory: Path, name: str = "late", node: str = "n1", length: str = "60s") -> Path:
    file = directory / f"{name}.yaml"
    file.write_text(SCENARIO.format(node=node, length=length))
    return file


async def begun(agent: Agent, process: asyncio.subprocess.Process) -> None:
    """Until the fault is in force and the client has been told so."""
    assert process.stdout is not None
    async with asyncio.timeout(30):
        while b"observe" not in await process.stdout.readline():
            pass
    await until(agent.active, 10)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_first_signal_ends_the_experiment_and_waits(
    rig: Rig, tmp_path: Path, number: signal.Signals
) -> None:
    node = await rig.agent("n1")
    async with chaosctl(rig, "run", str(scenario(tmp_path))) as client:
        await begun(node, client)
        client.send_signal(number)
        out, said = await asyncio.wait_for(client.communicate(), 20)
    assert client.returncode == Exit.ABORTED, said
    assert not node.active()
    assert b"once more leaves it to the lease" in said
    assert b"aborted" in out
    assert [fault.reason for fault in node.faults.values()] == ["revert"]


async def test_the_second_leaves_it_to_the_lease_and_says_so(rig: Rig, tmp_path: Path) -> None:
    node = await rig.agent("n1")
    async with chaosctl(rig, "run", str(scenario(tmp_path))) as client:
        await begun(node, client)
        node.silent = True  # it hears of no end, so that there is something to wait for
        client.send_signal(signal.SIGINT)
        assert client.stderr is not None
        async with asyncio.timeout(10):
            while b"once more" not in (line := await client.stderr.readline()):
                assert line
        client.send_signal(signal.SIGINT)
        _, said = await asyncio.wait_for(client.communicate(), 10)
    assert client.returncode == INTERRUPTED
    assert b"Its faults end by their own duration or lease" in said
    assert b"chaosctl abort" in said
    await until(lambda: not node.active(), 5)
    assert [fault.reason for fault in node.faults.values()] == ["lease"]


def suites(directory: Path, *names: str, cooldown: str = "100ms") -> Path:
    file = directory / "suites.yaml"
    entries = ", ".join(f"{{file: {name}.yaml}}" for name in names)
    file.write_text(f"all:\n  title: All\n  cooldown: {cooldown}\n  scenarios: [{entries}]\n")
    return file


async def test_a_suite_goes_on_after_what_is_refused_and_reports_all(
    rig: Rig, tmp_path: Path
) -> None:
    await rig.agent("n1")
    for name, node in (("first", "n1"), ("second", "n9"), ("third", "n1")):
        scenario(tmp_path, name, node, "200ms")
    file, out = suites(tmp_path, "first", "second", "third"), tmp_path / "out"
    words = ["suite", "run", "all", "--file", str(file)]
    async with chaosctl(rig, *words, "--reports", str(out)) as client:
        _, said = await asyncio.wait_for(client.communicate(), 30)
    assert client.returncode == Exit.REFUSED, said
    assert b"n9" in said
    records = [Record.model_validate(each) for each in suite_records(out)]
    assert [record.verdict for record in records] == ["passed", "refused", "passed"]
    assert "n9" in records[1].reason
    async with chaosctl(rig, *words, "--fail-fast") as client:
        _, said = await asyncio.wait_for(client.communicate(), 30)
    assert client.returncode == Exit.REFUSED
    assert b"1 not run" in said


async def test_a_signal_in_the_cooldown_ends_the_suite_with_its_report(
    rig: Rig, tmp_path: Path
) -> None:
    await rig.agent("n1")
    scenario(tmp_path, "first", length="200ms")
    scenario(tmp_path, "second", length="200ms")
    file, out = suites(tmp_path, "first", "second", cooldown="60s"), tmp_path / "out"
    words = ["suite", "run", "all", "--file", str(file), "--reports", str(out)]
    async with chaosctl(rig, *words) as client:
        assert client.stderr is not None
        async with asyncio.timeout(30):
            while b"cooldown" not in (line := await client.stderr.readline()):
                assert line
        client.send_signal(signal.SIGTERM)
        await asyncio.wait_for(client.communicate(), 10)
    assert client.returncode == INTERRUPTED
    assert [each["verdict"] for each in suite_records(out)] == ["passed"]


def suite_records(directory: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads((directory / "suite.json").read_text())["records"]
    return found


async def test_a_run_is_compared_with_its_own_history(rig: Rig, tmp_path: Path) -> None:
    await rig.agent("n1")
    files = [scenario(tmp_path, name, length="200ms") for name in ("late", "other")]
    runs = []
    for file in (files[0], files[0], files[1], files[0]):
        async with chaosctl(rig, "run", str(file), "-o", "json") as client:
            out, said = await asyncio.wait_for(client.communicate(), 30)
        assert client.returncode == Exit.DONE, said
        runs.append(json.loads(out.splitlines()[0])["run"])
    async with chaosctl(rig, "report", runs[3], "--history", "5", "-o", "json") as client:
        out, said = await asyncio.wait_for(client.communicate(), 30)
    compared = json.loads(out)
    assert client.returncode == Exit.DONE, said
    assert (compared["run"], set(compared["older"])) == (runs[3], {runs[0], runs[1]})
    async with chaosctl(rig, "report", runs[2], "--history", "5") as client:
        _, said = await asyncio.wait_for(client.communicate(), 30)
    assert client.returncode == Exit.INVALID
    assert b"no earlier run of it that passed" in said
