"""``command``: a program that the own file of the machine names which looks."""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, ClassVar, Final

from pydantic import Field

from chaos_core.errors import InvalidInput
from chaos_experiment.probes import Context, Name, Place, Probe, Seen
from chaos_experiment.probes._numbers import number_or_text

_MAX_OUTPUT: Final = 64 * 1024  # bytes


class Command(Probe):
    """What it prints: a number is the value, anything else the text. An exit code other than 0
    is a failure. It gets no arguments of the scenario's, no shell, and nothing of the environment
    but PATH; it is killed at its timeout."""

    kind = "command"
    summary = "a program that controller.toml or agent.toml names"
    example: ClassVar[Mapping[str, Any]] = {"command": "queue-depth"}
    place = Place.EITHER

    command: Name = Field(description="its name in controller.toml, or in the node's agent.toml")

    def hosts(self) -> tuple[str, ...]:
        return ()

    async def check(self, context: Context) -> None:
        self._argv(context)

    def _argv(self, context: Context) -> tuple[str, ...]:
        if self.command not in context.commands:
            known = ", ".join(sorted(context.commands)) or "none"
            raise InvalidInput(
                f"controller.toml allows no command {self.command!r}",
                where="command",
                hint=f"allowed in [probes.commands]: {known}",
            )
        return context.commands[self.command]

    async def measure(self, context: Context) -> Seen:
        process = await asyncio.create_subprocess_exec(
            *self._argv(context),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            env={"PATH": os.defpath},
            start_new_session=True,
        )
        try:
            assert process.stdout
            assert process.stderr
            async with asyncio.TaskGroup() as both:
                printed = both.create_task(_head(process.stdout))
                complained = both.create_task(_head(process.stderr))
            code = await process.wait()
        except ExceptionGroup as group:
            return Seen(False, None, str(group.exceptions[0]))
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                # It is over for asyncio once its pipes are, which need somebody to read them
                # and may be held by whoever left its group.
                with suppress(TimeoutError):
                    await asyncio.wait_for(process.communicate(), 1)
        out, errors = printed.result(), complained.result()
        if code:
            last = (errors.strip() or out.strip()).rpartition("\n")[2]
            how = f"exit code {code}" if code > 0 else f"killed by signal {-code}"
            return Seen(False, None, f"{how}: {last}" if last else how)
        return number_or_text(out)


async def _head(stream: asyncio.StreamReader) -> str:
    """All of it, to its end. Raises ValueError when that is too much."""
    data = bytearray()
    while part := await stream.read(_MAX_OUTPUT):
        data += part
        if len(data) > _MAX_OUTPUT:
            raise ValueError(f"it printed more than {_MAX_OUTPUT} bytes")
    return data.decode(errors="replace")
