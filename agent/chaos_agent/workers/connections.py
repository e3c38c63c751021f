"""Connections that are opened, kept open and left alone: what exhausts a pool.

One that the other side closes is opened again. All that is sent are the handshakes.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from contextlib import suppress
from typing import Any

_SPARE_FILES = 64
_CONNECT_S = 5.0


async def serve(arguments: dict[str, Any], tell: Callable[[str], object]) -> None:
    """Hold ``count`` connections to ``host`` and ``port``, ``rate`` of them opened a second."""
    count, pause = int(arguments["count"]), 1 / float(arguments["rate"])
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, count + _SPARE_FILES), most))
    held: set[asyncio.StreamWriter] = set()
    watchers: set[asyncio.Task[None]] = set()
    problem = ""

    async def watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while await reader.read(4096):
                pass
        held.discard(writer)
        writer.close()

    while True:
        while len(held) < count:
            try:
                async with asyncio.timeout(_CONNECT_S):
                    reader, writer = await asyncio.open_connection(
                        arguments["host"], arguments["port"]
                    )
                held.add(writer)
                task = asyncio.create_task(watch(reader, writer))
                watchers.add(task)
                task.add_done_callback(watchers.discard)
            except (OSError, TimeoutError) as error:
                problem = f" ({error or 'no answer'})"
            tell(f"{len(held)} of {count} connections are open{problem}")
            await asyncio.sleep(pause)
        tell("")
        problem = ""
        await asyncio.sleep(pause)
