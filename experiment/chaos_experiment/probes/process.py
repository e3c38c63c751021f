"""``process``: what runs on a node, and what it takes."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, Self, TypeVar, get_args

from pydantic import Field, model_validator

from chaos_core.faults._units import Service
from chaos_core.units import SECOND
from chaos_experiment.probes import Seen, Unit
from chaos_experiment.probes._proc import OnNode

if TYPE_CHECKING:
    import psutil

T = TypeVar("T")
Metric = Literal["running", "count", "cpu", "memory", "rss", "fds", "threads", "uptime"]
Pattern = Annotated[str, Field(max_length=200)]

_PROC = "/proc"
_LONGEST_GROUP: Final = 4_096  # bytes of a /proc/PID/cgroup that are read
_LONGEST: Final = 4_096  # characters of a command line that are looked at
_SERVICE: Final = re.compile(r"/([^/\n]+\.service)(?:/|$)", re.MULTILINE)
_UNITS: Final[Mapping[str, Unit]] = {"cpu": "percent", "memory": "percent", "uptime": "duration"}


class Process(OnNode):
    """All processes that every given selector holds for, together. That none runs is a failure,
    but not to ``count``, which is 0 then; ``running`` is how many there are as well.

    ``cpu`` is a share of the whole node since the look before, as faults count it, ``memory`` one
    of the node's; ``rss`` is in bytes, what several share counted each time. ``uptime`` is the
    youngest one's, so that a restart shows. ``fds`` are open files: those of other users'
    processes can be told from Linux 6.2 on.
    """

    kind = "process"
    summary = "processes on a node: running, CPU, memory, files"
    example: ClassVar[Mapping[str, Any]] = {"from": "web", "unit": "nginx", "metric": "uptime"}

    service: Service | None = Field(default=None, alias="unit", description="of this service")
    name: Pattern = Field(default="", description="called so; * stands for anything")
    cmdline: Pattern = Field(
        default="", description="whose command line holds this text; * stands for anything"
    )
    metric: Metric = Field(default="running", description=f"one of {', '.join(get_args(Metric))}")

    @model_validator(mode="after")
    def _select(self) -> Self:
        if not (self.service or self.name or self.cmdline):
            raise ValueError("which processes? give unit, name or cmdline")
        if self.interval < SECOND:
            raise ValueError("interval: a look goes through all processes; at least 1s")
        return self

    @property
    def unit(self) -> Unit:
        return _UNITS.get(self.metric, "")

    @property
    def over_time(self) -> bool:
        return self.metric == "cpu"

    def begin(self) -> Callable[[], Seen]:
        looking = _Looking(self)
        if self.over_time:
            looking.spent()
        return looking.look

    def __str__(self) -> str:
        parts = (self.service, self.name, self.cmdline)
        return " ".join(part for part in parts if part)


@dataclass(slots=True)
class _Looking:
    """Looks, and remembers the CPU time that each process had taken."""

    probe: Process
    _taken: dict[tuple[int, int], float] = field(default_factory=dict)  # by pid and its start
    _at: float = 0.0

    def look(self) -> Seen:
        match self.probe.metric:
            case "cpu":
                found, value = self.spent()
                return self._seen(found, value, f"{value:.1f} %")
            case "memory":
                share = list(self._each(lambda one: one.memory_percent()))
                return self._seen(len(share), sum(share), f"{sum(share):.1f} %")
            case "running" | "count":
                found = len(list(self._each(id)))
                return self._seen(found, float(found), f"{found} running")
            case "uptime":
                ages = list(self._each(_age))
                youngest = min(ages, default=0.0)
                return self._seen(len(ages), youngest, f"{youngest / SECOND:.1f} s")
            case metric:
                values = list(self._each(_READ[metric]))
                total = sum(values)
                return self._seen(len(values), total, f"{total:.6g}")

    def _seen(self, found: int, value: float, text: str) -> Seen:
        if not found and self.probe.metric != "count":
            return Seen(False, None, f"no process is {self.probe}")
        return Seen(True, value, text)

    def spent(self) -> tuple[int, float]:
        """How many processes there are, and their share of the node since the last time."""
        before, then = self._taken, self._at
        self._taken = dict(self._each(_cpu_time))
        self._at = time.monotonic()
        # One that is not known has begun since.
        spent = sum(max(0.0, now - before.get(one, 0.0)) for one, now in self._taken.items())
        share = 100 * spent / ((self._at - then) * (os.cpu_count() or 1))
        return len(self._taken), min(100.0, share)

    def _each(self, read: Callable[[psutil.Process], T]) -> Iterator[T]:
        """What ``read`` makes of every process that is meant. Raises what one may not read."""
        import psutil

        for pid in psutil.pids():
            # One that ends meanwhile was not there.
            with suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                if self.probe.service and _service(pid) != self.probe.service:
                    continue
                one = psutil.Process(pid)
                with one.oneshot():
                    if one.status() != psutil.STATUS_ZOMBIE and self._meant(one):
                        yield read(one)

    def _meant(self, one: psutil.Process) -> bool:
        # Not regular expressions: one that backtracks without end would keep the node busy.
        if self.probe.name and not fnmatchcase(one.name(), self.probe.name):
            return False
        if not self.probe.cmdline:
            return True
        words = " ".join(one.cmdline())[:_LONGEST]
        return fnmatchcase(words, f"*{self.probe.cmdline}*")


def _service(pid: int) -> str:
    """The systemd service that it is of; empty for none."""
    # Not by pathlib: this is all that a look does with most processes of the node.
    file = os.open(f"{_PROC}/{pid}/cgroup", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(file, _LONGEST_GROUP).decode(errors="replace")
    finally:
        os.close(file)
    found = _SERVICE.search(text)
    return found[1] if found else ""


def _started(pid: int) -> int:
    """In clock ticks since boot: wall clocks are among what is changed here."""
    text = Path(f"{_PROC}/{pid}/stat").read_text(errors="replace")
    return int(text.rpartition(")")[2].split()[19])


def _cpu_time(one: psutil.Process) -> tuple[tuple[int, int], float]:
    spent = one.cpu_times()
    return (one.pid, _started(one.pid)), spent.user + spent.system


def _age(one: psutil.Process) -> float:
    began = _started(one.pid) / os.sysconf("SC_CLK_TCK")
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - began) * SECOND


def _files(one: psutil.Process) -> float:
    """Raises PermissionError where the kernel does not tell."""
    import psutil

    # From Linux 6.2 on it says how many, to everybody.
    told = Path(f"{_PROC}/{one.pid}/fd").stat().st_size
    try:
        return float(told or one.num_fds())
    except psutil.AccessDenied:
        raise PermissionError("open files of another user's process: Linux 6.2 tells") from None


_READ: Final[Mapping[str, Callable[[psutil.Process], float]]] = {
    "rss": lambda one: float(one.memory_info().rss),
    "threads": lambda one: float(one.num_threads()),
    "fds": _files,
}
