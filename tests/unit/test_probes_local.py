"""``command`` and ``file``: what is on the controller itself."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from chaos_core.errors import InvalidInput
from chaos_core.units import Duration
from chaos_experiment.probes import Context
from chaos_experiment.probes._watch import once
from chaos_experiment.probes.command import Command
from chaos_experiment.probes.file import File
from chaos_experiment.series import Observation

_COMMANDS = Context(
    commands={
        "depth": ("/usr/bin/printf", "42\\n"),
        "state": ("/usr/bin/printf", "in sync\\n"),
        "fails": ("/usr/bin/ls", "/nowhere"),
        "sleeps": ("/usr/bin/sleep", "60"),
        "floods": ("/usr/bin/yes",),
        "environment": ("/usr/bin/env",),
        "missing": ("/nowhere/program",),
    }
)


def clock() -> int:
    return time.monotonic_ns() // 1000


async def run(name: str, limit: str = "5s") -> Observation:
    probe = Command(command=name, timeout=Duration.parse(limit))
    return await once("it", probe, clock, _COMMANDS)


@pytest.mark.parametrize(
    ("name", "ok", "value", "text"),
    [
        ("depth", True, 42.0, "42"),
        ("state", True, None, "in sync"),
        ("fails", False, None, "exit code 2: "),
        ("floods", False, None, "it printed more than 65536 bytes"),
        ("environment", True, None, f"PATH={os.defpath}"),
        ("missing", False, None, "/nowhere/program: No such file"),
        ("unknown", False, None, "controller.toml allows no command 'unknown'"),
    ],
)
async def test_command(name: str, ok: bool, value: float | None, text: str) -> None:
    seen = await run(name)
    assert (seen.ok, seen.value) == (ok, value)
    assert seen.text.startswith(text)


async def test_a_command_is_killed_at_its_timeout_and_when_cancelled() -> None:
    seen = await run("sleeps", limit="100ms")
    assert seen.text == "timed out after 100ms"
    assert not children()
    task = asyncio.create_task(run("sleeps"))
    for _ in range(500):
        if children():
            break
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not children()


def children() -> str:
    tasks = Path("/proc/self/task")
    return "".join((task / "children").read_text() for task in tasks.iterdir())


async def test_a_command_is_looked_for_before_anything_is_hurt() -> None:
    await Command(command="depth").check(_COMMANDS)
    with pytest.raises(InvalidInput, match="allows no command 'rm'"):
        await Command(command="rm").check(_COMMANDS)
    with pytest.raises(ValueError, match="pattern"):
        Command(command="/bin/rm -rf")


async def test_file(tmp_path: Path) -> None:
    async def said(what: str, path: Path) -> Observation:
        return await once("it", File.model_validate({"path": path, "what": what}), clock)

    path = tmp_path / "heartbeat"
    assert (await said("exists", path)).text == f"{path}: No such file or directory"
    path.write_text("17\n")
    os.utime(path, (time.time() - 60, time.time() - 60))
    assert (await said("exists", path)).value == 1
    assert (await said("size", path)).value == 3
    age = (await said("age", path)).value
    assert age is not None
    assert 60_000_000 <= age < 70_000_000
    with pytest.raises(ValueError, match="does not begin with /"):
        File(path=Path("heartbeat"))


async def test_contents_are_of_files_that_everybody_may_read(tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text("hush")
    secret.chmod(0o600)
    seen = await once("it", File(path=secret, what="content"), clock)
    assert (seen.ok, seen.text) == (False, f"{secret} is not for everybody to read")
    link = tmp_path / "link"
    link.symlink_to(secret)
    assert not (await once("it", File(path=link, what="content"), clock)).ok
    system = await once("it", File(path=Path("/proc/sys/kernel/ostype"), what="content"), clock)
    assert (system.ok, system.text) == (True, "Linux")
    nothing = await once("it", File(path=Path("/dev/zero"), what="content"), clock)
    assert nothing.text == "/dev/zero is not a plain file"
