"""What this node has done and must undo, on disk before it is done.

Write-ahead: one JSON line an entry, preceded by its CRC-32, written with one
``write`` and one ``fdatasync``. A line that was torn by a crash fails its check
and is skipped; whatever it would have said is found by its tag instead (see
``recover.py``). Every entry carries the boot id, since a reboot has already
undone what the kernel held.

The journal must never be the reason that something is not reverted: writing
before an apply raises, writing after a revert only reports.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos_core import effects
from chaos_core.effects import Effect
from chaos_core.errors import InvalidInput, Refused

_ROTATE_BYTES = 1 << 20
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """This boot's id, a UUID."""
    return BOOT_ID.read_text().strip()


@dataclass(frozen=True, slots=True)
class Intent:
    """A fault that the journal says was begun: enough to undo it and to compare."""

    fault: str
    run: str
    kind: str
    boot: str
    effects: tuple[Effect, ...]
    before: dict[str, list[str]]


class Journal:
    """The journal in ``directory``; created with mode 0700 if it is not there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "journal"
        self._boot = boot_id()
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.path.exists() and not self.path.is_file():
                raise Refused(f"{self.path} is not a regular file", hint="move it away")
            self._fd = os.open(
                self.path,
                os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW,
                0o600,
            )
        except OSError as error:
            raise Refused(
                f"the journal cannot be opened: {error.strerror}",
                where=str(self.path),
                hint="without a journal no fault may start; check the state directory",
            ) from None
        self._end_torn_line()

    def close(self) -> None:
        os.close(self._fd)

    def _end_torn_line(self) -> None:
        """Give what a crash tore off an end of line, so that the next entry stands alone."""
        size = os.fstat(self._fd).st_size
        if size and os.pread(self._fd, 1, size - 1) != b"\n":
            os.write(self._fd, b"\n")

    # ── writing ───────────────────────────────────────────────────────────────────────────

    def intent(
        self,
        at: int,
        *,
        fault: str,
        run: str,
        kind: str,
        to_apply: tuple[Effect, ...],
        before: dict[str, list[str]],
    ) -> None:
        """Say what is about to be done. Raises Refused when that cannot be kept."""
        entry = {
            "fault": fault,
            "run": run,
            "kind": kind,
            "effects": [effects.to_json(effect) for effect in to_apply],
            "before": before,
        }
        try:
            self._write("intent", at, entry)
        except OSError as error:
            raise Refused(
                f"the journal cannot be written: {error.strerror}",
                where=str(self.path),
                hint="free some space in the state directory; nothing was applied",
            ) from None

    def done(self, at: int, *, fault: str, reason: str, difference: list[str]) -> str:
        """Say that a fault is undone. Returns why this could not be kept, or nothing."""
        entry = {"fault": fault, "reason": reason, "difference": difference}
        try:
            self._write("done", at, entry)
        except OSError as error:
            return f"the journal cannot be written: {error.strerror}"
        return ""

    def _write(self, what: str, at: int, entry: dict[str, Any]) -> None:
        text = json.dumps({"entry": what, "at": at, "boot": self._boot, **entry}, sort_keys=True)
        data = text.encode()
        line = b"%08x %s\n" % (zlib.crc32(data), data)
        start = os.fstat(self._fd).st_size
        try:
            if os.write(self._fd, line) != len(line):
                raise OSError(28, "No space left on device")
            os.fdatasync(self._fd)
        except OSError:
            with contextlib.suppress(OSError):  # what cannot be cut off fails its check later
                os.ftruncate(self._fd, start)
            raise

    # ── reading ───────────────────────────────────────────────────────────────────────────

    def entries(self) -> Iterator[dict[str, Any]]:
        """Every entry that passes its check, oldest first."""
        for line in self.path.read_bytes().splitlines():
            check, _, data = line.partition(b" ")
            try:
                if int(check, 16) == zlib.crc32(data):
                    yield json.loads(data)
            except ValueError:
                continue

    def open_intents(self) -> list[Intent]:
        """What was begun and is not known to be undone, oldest first."""
        begun: dict[str, Intent] = {}
        for entry in self.entries():
            try:
                if entry["entry"] == "intent":
                    begun[entry["fault"]] = Intent(
                        fault=entry["fault"],
                        run=entry["run"],
                        kind=entry["kind"],
                        boot=entry["boot"],
                        effects=tuple(effects.from_json(data) for data in entry["effects"]),
                        before=entry["before"],
                    )
                elif entry["entry"] == "done":
                    begun.pop(entry["fault"], None)
            except (KeyError, TypeError, InvalidInput):
                continue  # of another version; the sweep finds what it left
        return list(begun.values())

    def rotate(self) -> None:
        """Keep one older journal when this one has grown; only with nothing open."""
        if os.fstat(self._fd).st_size < _ROTATE_BYTES or self.open_intents():
            return
        self.path.replace(self.path.with_suffix(".1"))
        os.close(self._fd)
        self._fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


class StateFile:
    """A small JSON value on disk that is replaced as a whole: the epoch, the quarantine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, default: Any) -> Any:
        """The value, or ``default`` when there is none. Raises Refused when unreadable."""
        try:
            return json.loads(self.path.read_text())
        except FileNotFoundError:
            return default
        except (OSError, ValueError) as error:
            raise Refused(
                f"cannot be read: {error}", where=str(self.path), hint="restore or remove it"
            ) from None

    def write(self, value: Any) -> None:
        """Replace the value and wait for the disk. Raises OSError."""
        draft = self.path.with_suffix(".new")
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, json.dumps(value).encode())
            os.fsync(fd)
        finally:
            os.close(fd)
        draft.replace(self.path)
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def remove(self) -> None:
        """Forget the value."""
        self.path.unlink(missing_ok=True)
