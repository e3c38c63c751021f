"""What this node has done and must undo, on disk before it is done.

Write-ahead: one JSON line an entry, preceded by its CRC-32, in one ``write``. An intent is
on the disk (``fdatasync``) before anything is done. The entry of an end is not waited for: if
a crash forgets it, what has been undone is undone once more, and a slow disk keeps nothing
from its end. A last line that was torn by a crash is cut off: nothing had been done yet. A
line that was damaged later fails its check and is counted; whatever it said is found by its
tag instead (see ``recover.py``). Every entry carries the boot id, since a reboot has already
undone what the kernel held.

The journal must never be the reason that something is not reverted: writing
before an apply raises, writing after a revert only reports. What begins has room on the disk
for the entry of its end. All writes are made in a thread: when the disk blocks, a new fault is
refused after a second, and the end of one does not wait.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from chaos_agent.linux.aside import Aside, Late
from chaos_agent.linux.boottime import boot_id
from chaos_agent.ownfiles import make_directory, open_own, reserve
from chaos_core import effects
from chaos_core.effects import Effect
from chaos_core.envelope import MAX_FAULTS
from chaos_core.errors import InvalidInput, Refused
from chaos_core.messages import MAX_SURVIVED, Survived

_ROTATE_BYTES = 384 << 10  # with the one that is kept: below 1 MiB
_END_S = 0.1  # how long the entry of an end is waited for
# Set aside behind each intent: for the ends of all that may be in force, with what differs.
_FOR_ENDS = MAX_FAULTS * 4096
_SNAPSHOT = TypeAdapter(dict[str, list[str]])


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
        self.disk = Aside("the disk")
        self._begun: set[str] = set()  # what has been begun and not been ended by this process
        self.damaged = 0  # lines that said something once; counted by ``open_intents``
        make_directory(directory, 0o700)
        try:
            self._fd = self._open()
            self._end_torn_line()
        except OSError as error:
            raise Refused(
                f"the journal cannot be opened: {error.strerror}",
                where=str(self.path),
                hint="without a journal no fault may start; check the state directory",
            ) from None

    def _open(self) -> int:
        return open_own(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT)

    def close(self) -> None:
        """Close the file once all is written that has been asked for."""
        with contextlib.suppress(OSError):
            self.disk.do(lambda: os.close(self._fd))
        self.disk.close()

    def _end_torn_line(self) -> None:
        """End a last line that is whole but for its end, cut off one that a crash tore."""
        last = self.path.read_bytes().rpartition(b"\n")[2]
        if not last:
            return
        if _entry(last) is None:
            os.ftruncate(self._fd, os.fstat(self._fd).st_size - len(last))
        else:
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
        line = self._line("intent", at, entry)
        try:
            self.disk.do(lambda: self._write(line, _FOR_ENDS))
        except OSError as error:
            if isinstance(error, Late):
                self.done(at, fault=fault, reason="refused", difference=[])
            raise Refused(
                f"the journal cannot be written: {error.strerror}",
                where=str(self.path),
                hint="look at that disk, and the room on it; nothing was applied",
            ) from None
        self._begun.add(fault)

    def done(self, at: int, *, fault: str, reason: str, difference: list[str]) -> str:
        """Say that a fault is undone. Returns why this could not be written, or nothing.

        Also nothing when the disk blocks: then the entry is written once it no longer does.
        """
        entry = {"fault": fault, "reason": reason, "difference": difference}
        line = self._line("done", at, entry)
        self._begun.discard(fault)
        idle = not self._begun
        try:
            self.disk.do(lambda: self._write_end(line, idle), _END_S)
        except Late:
            return ""
        except OSError as error:
            return f"the journal cannot be written: {error.strerror}"
        return ""

    def _line(self, what: str, at: int, entry: dict[str, Any]) -> bytes:
        text = json.dumps({"entry": what, "at": at, "boot": self._boot, **entry}, sort_keys=True)
        data = text.encode()
        return b"%08x %s\n" % (zlib.crc32(data), data)

    def _write_end(self, line: bytes, idle: bool) -> None:
        self._write(line)
        if idle:
            with contextlib.suppress(OSError):  # a journal that grows is no reason to stop
                self.rotate()

    def _write(self, line: bytes, behind: int = 0) -> None:
        """Append an entry. With ``behind``, fsync it and reserve that many bytes after it."""
        start = os.fstat(self._fd).st_size
        if behind:
            reserve(self._fd, start, len(line) + behind)
        try:
            if os.write(self._fd, line) != len(line):
                raise OSError(28, "No space left on device")
            if behind:
                os.fdatasync(self._fd)
        except OSError:
            with contextlib.suppress(OSError):  # what cannot be cut off fails its check later
                os.ftruncate(self._fd, start)
            raise

    # ── reading ───────────────────────────────────────────────────────────────────────────

    def entries(self) -> Iterator[dict[str, Any]]:
        """Every entry that passes its check, oldest first."""
        for entry in map(_entry, self.path.read_bytes().splitlines()):
            if entry is not None:
                yield entry

    def open_intents(self) -> list[Intent]:
        """What was begun and is not known to be undone, oldest first.

        Counts in ``damaged`` what cannot be undone from here: lines that fail their
        check, and open intents that cannot be read (of another version). The sweep
        finds what they left.
        """
        begun: dict[str, Intent | None] = {}
        lines = self.path.read_bytes().splitlines()
        entries = [entry for entry in map(_entry, lines) if entry is not None]
        for entry in entries:
            fault = str(entry.get("fault"))
            if entry.get("entry") == "intent":
                begun[fault] = _intent(entry)
            elif entry.get("entry") == "done":
                begun.pop(fault, None)
        intents = [intent for intent in begun.values() if intent is not None]
        self.damaged = len(lines) - len(entries) + len(begun) - len(intents)
        return intents

    def knows(self, fault: str) -> bool:
        """Whether a fault of that id was ever begun here, as far back as journals are kept.

        Raises Refused when they cannot be read.
        """
        text = f'"fault": "{fault}"'.encode()
        try:
            return self.disk.do(lambda: any(text in path.read_bytes() for path in self._kept()))
        except OSError as error:
            raise Refused(
                f"the journal cannot be read: {error.strerror}", where=str(self.path)
            ) from None

    def survived(self) -> tuple[Survived, ...]:
        """What an earlier boot had begun and this one has ended, the latest of it."""
        begun: dict[str, dict[str, Any]] = {}
        found = []
        for path in self._kept():
            for entry in filter(None, map(_entry, path.read_bytes().splitlines())):
                fault = str(entry.get("fault"))
                if entry.get("entry") == "intent":
                    begun[fault] = entry
                elif (entry.get("reason"), entry.get("boot")) == ("reboot", self._boot):
                    found.append(begun.get(fault, {}))
        return tuple(
            Survived(**{name: str(entry[name]) for name in Survived.model_fields})
            for entry in found[-MAX_SURVIVED:]
            if entry.keys() >= Survived.model_fields.keys()
        )

    def _kept(self) -> list[Path]:
        """Every journal that there is, the current one last."""
        older = (self.path.with_suffix(suffix) for suffix in (".damaged", ".1"))
        return [*(path for path in older if path.exists()), self.path]

    def rotate(self) -> None:
        """Keep one older journal when this one has grown; only with nothing open."""
        if os.fstat(self._fd).st_size >= _ROTATE_BYTES and not self.open_intents():
            self._begin_anew(".1")

    def set_aside(self) -> None:
        """Begin a new journal, once what can be read of a damaged one has been undone."""
        self._begin_anew(".damaged")

    def _begin_anew(self, suffix: str) -> None:
        self.path.replace(self.path.with_suffix(suffix))
        os.close(self._fd)
        self._fd = self._open()
        self.damaged = 0


def _entry(line: bytes) -> dict[str, Any] | None:
    """The entry in a line, None when it does not pass its check."""
    check, _, data = line.partition(b" ")
    try:
        entry = json.loads(data) if int(check, 16) == zlib.crc32(data) else None
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def _intent(entry: dict[str, Any]) -> Intent | None:
    """What an entry says was begun, None when it is of another version."""
    try:
        return Intent(
            fault=entry["fault"],
            run=entry["run"],
            kind=entry["kind"],
            boot=entry["boot"],
            effects=tuple(effects.from_json(data) for data in entry["effects"]),
            before=_SNAPSHOT.validate_python(entry["before"]),
        )
    except (KeyError, TypeError, ValueError, InvalidInput):
        return None


class StateFile:
    """A small JSON value on disk that is replaced as a whole: the epoch, the quarantine.

    ``kind`` is the value's type; anything else in the file is not read.
    """

    def __init__(self, path: Path, kind: Any = Any) -> None:
        self.path = path
        self._type: TypeAdapter[Any] = TypeAdapter(kind)

    def read(self, default: Any) -> Any:
        """The value, or ``default`` when there is none. Raises Refused when unreadable."""
        try:
            with os.fdopen(open_own(self.path, os.O_RDONLY), "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return default
        except OSError as error:
            raise self._unreadable(error.strerror or "error") from None
        try:
            return self._type.validate_json(data, strict=True)
        except ValueError:
            raise self._unreadable("it does not hold what we write there") from None

    def _unreadable(self, why: str) -> Refused:
        return Refused(f"cannot be read: {why}", where=str(self.path), hint="restore or remove it")

    def write(self, value: Any) -> None:
        """Replace the value and wait for the disk. Raises OSError."""
        draft = self.path.with_suffix(".new")
        draft.unlink(missing_ok=True)  # whatever it was: it is not followed and not kept
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
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


def epoch_file(state: Path) -> StateFile:
    """The highest epoch that this node has obeyed. Unreadable, it must not pass for none."""
    return StateFile(state / "epoch", Annotated[int, Field(ge=0, lt=2**63)])


def quarantine_file(state: Path) -> StateFile:
    """Why nothing may start on this node."""
    return StateFile(state / "quarantine", list[str])


def read_quarantine(state: Path) -> list[str]:
    """Why nothing may start; a file that cannot be read is a reason by itself."""
    try:
        return list(quarantine_file(state).read([]))
    except Refused as error:
        return [f"{error.where}: {error.what}"]
