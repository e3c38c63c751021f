"""A Redis or a memcached that is told, once, to forget what it has.

What it says in answer is read back: a count of its own that has risen, and for Redis
that nothing is left, in one transaction, since others write again at once. What is told
goes over the wire: nothing of where the service is.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_PATIENCE_S = 5.0
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Refused(Exception):
    """The service says no, or something that is no answer."""


async def serve(arguments: dict[str, Any], tell: Callable[[str], object]) -> None:
    """Flush it, tell when it is proven, and do nothing more until killed."""
    address, password = arguments["service"]["address"], arguments["service"]["password"]
    try:
        async with asyncio.timeout(_PATIENCE_S):
            if arguments["what"] == "redis":
                await _redis(address, password, arguments["scope"])
            else:
                await _memcached(address)
    except TimeoutError:
        tell("no answer")
    except _Refused as error:
        tell(str(error))
    except ValueError:  # repeats what it cannot read
        tell("its address in agent.toml is none")
    except (OSError, EOFError) as error:
        tell(f"no connection: {getattr(error, 'strerror', None) or type(error).__name__}")
    else:
        tell("")
        await asyncio.Event().wait()


# ── Redis ─────────────────────────────────────────────────────────────────────────────────


async def _redis(address: str, password: str, scope: str) -> None:
    url = urlsplit(address)
    local = url.scheme == "unix"
    if local:
        reader, writer = await asyncio.open_unix_connection(unquote(url.path))
    else:
        host, port = url.hostname or "localhost", url.port or 6379
        reader, writer = await asyncio.open_connection(host, port, ssl=url.scheme == "rediss")

    async def ask(*words: str) -> Any:
        writer.write(_command(words))
        return await _reply(reader)

    if password:
        await ask("AUTH", *([unquote(url.username)] if url.username else []), password)
    number = parse_qs(url.query).get("db", ["0"])[0] if local else url.path.strip("/") or "0"
    await ask("SELECT", number)
    command = {"database": "FLUSHDB", "server": "FLUSHALL"}[scope]
    before = _calls(await ask("INFO", "commandstats"), command)
    await ask("MULTI")
    await ask(command, "ASYNC")
    await ask("DBSIZE")
    flushed, left = await ask("EXEC")
    after = _calls(await ask("INFO", "commandstats"), command)
    if flushed != "OK" or left != 0 or after <= before:
        raise _Refused(f"{left} keys are left, {after - before} flushes were counted")


def _command(words: tuple[str, ...]) -> bytes:
    """An array of bulk strings, redis.io/docs/reference/protocol-spec."""
    parts = [f"*{len(words)}\r\n".encode()]
    for word in words:
        data = word.encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(data), data))
    return b"".join(parts)


async def _reply(reader: asyncio.StreamReader) -> Any:
    line = (await _line(reader)).decode(errors="replace")
    kind, text = line[:1], line[1:]
    match kind:
        case "+":
            return text
        case ":":
            return int(text)
        case "$" if text.isdigit():
            return (await reader.readexactly(int(text) + 2))[:-2].decode(errors="replace")
        case "*" if text.isdigit():
            return [await _reply(reader) for _ in range(int(text))]
        case "-":
            raise _Refused(text)
    raise _Refused("it does not answer as Redis does")


def _calls(info: str, command: str) -> int:
    found = re.search(rf"^cmdstat_{command.lower()}:calls=(\d+)", info, re.MULTILINE)
    return int(found[1]) if found else 0


# ── memcached ─────────────────────────────────────────────────────────────────────────────


async def _memcached(address: str) -> None:
    if address.startswith("/"):
        reader, writer = await asyncio.open_unix_connection(address)
    else:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))

    async def counted() -> int:
        writer.write(b"stats\r\n")
        count = -1
        while (line := await _line(reader)) != b"END":
            if not line.startswith(b"STAT "):
                raise _Refused("it does not answer as memcached does")
            if line.startswith(b"STAT cmd_flush "):
                count = int(line.split()[2])
        return count

    before = await counted()
    writer.write(b"flush_all\r\n")
    said = await _line(reader)
    after = await counted()
    if said != b"OK" or after <= before:
        raise _Refused(f"{after - before} flushes were counted")


async def _line(reader: asyncio.StreamReader) -> bytes:
    line = await reader.readline()
    if not line.endswith(b"\r\n"):
        raise _Refused("the connection was closed")
    return line[:-2]
