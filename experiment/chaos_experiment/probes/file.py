"""``file``: a file of the machine that looks."""

from __future__ import annotations

import asyncio
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, Field

from chaos_experiment.probes import Context, Place, Probe, Seen, Unit
from chaos_experiment.probes._numbers import number_or_text

_MAX_CONTENT: Final = 64 * 1024  # bytes


def absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(f"{path} does not begin with /")
    return path


class File(Probe):
    """That it exists (1; a failure when not), how long ago it was written, its size in bytes,
    or what is in it: a number is the value, anything else the text. Contents are read only of
    files that everybody on that machine may read."""

    kind = "file"
    summary = "a file: that it is there, its age, size or content"
    example: ClassVar[Mapping[str, Any]] = {"path": "/var/lib/shop/heartbeat", "what": "age"}
    place = Place.EITHER

    path: Annotated[Path, AfterValidator(absolute)] = Field(description="absolute")
    what: Literal["exists", "age", "size", "content"] = Field(
        default="exists", description="what to tell of it"
    )

    @property
    def unit(self) -> Unit:
        return "duration" if self.what == "age" else ""

    def hosts(self) -> tuple[str, ...]:
        return ()

    async def measure(self, context: Context) -> Seen:
        del context
        return await asyncio.to_thread(self._look)

    def _look(self) -> Seen:
        status = self.path.stat()
        match self.what:
            case "exists":
                return Seen(True, 1.0, "exists")
            case "age":
                age = max(0.0, time.time() - status.st_mtime)
                return Seen(True, age * 1_000_000, f"written {age:.1f} s ago")
            case "size":
                return Seen(True, float(status.st_size), f"{status.st_size} bytes")
            case _:
                return self._content()

    def _content(self) -> Seen:
        path = self.path.resolve(strict=True)
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            return Seen(False, None, f"{path} is not a plain file")
        if not mode & stat.S_IROTH or not all(
            parent.stat().st_mode & stat.S_IXOTH for parent in path.parents
        ):
            return Seen(False, None, f"{path} is not for everybody to read")
        with path.open("rb") as file:
            return number_or_text(file.read(_MAX_CONTENT).decode(errors="replace"))
