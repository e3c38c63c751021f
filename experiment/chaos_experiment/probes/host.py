"""``host``: how a node is: processors, memory, disks, connections."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self, get_args

from pydantic import AfterValidator, Field, model_validator

from chaos_core.errors import InvalidInput
from chaos_experiment.probes import Seen, Unit
from chaos_experiment.probes._proc import OnNode
from chaos_experiment.probes.file import absolute

_SNMP: Final = Path("/proc/net/snmp")
Metric = Literal[
    "cpu",
    "load",
    "memory_used",
    "memory_available",
    "swap_used",
    "disk_used",
    "disk_free",
    "tcp_established",
    "processes",
    "uptime",
]


class Host(OnNode):
    """Shares are of the whole node: ``cpu`` of all its processors since the look before (not
    idle, nor waiting for a disk), ``memory_used`` of what is not available, ``disk_used`` as
    ``df`` tells of the file system that ``path`` is on. ``load`` is the average of a minute.
    """

    kind = "host"
    summary = "a node's CPU, memory, disk, load or connections"
    example: ClassVar[Mapping[str, Any]] = {"from": "web", "metric": "cpu"}

    metric: Metric = Field(description=f"one of {', '.join(get_args(Metric))}")
    path: Annotated[Path, AfterValidator(absolute)] | None = Field(
        default=None, description="for disk_used and disk_free: absolute"
    )

    @model_validator(mode="after")
    def _a_disk_is_said_by_path(self) -> Self:
        if self.metric.startswith("disk_") != (self.path is not None):
            raise ValueError(f"path: {self.metric} takes {'none' if self.path else 'one'}")
        return self

    @property
    def unit(self) -> Unit:
        if self.metric == "uptime":
            return "duration"
        return "" if self.metric in ("load", "tcp_established", "processes") else "percent"

    @property
    def over_time(self) -> bool:
        return self.metric == "cpu"

    def begin(self) -> Callable[[], Seen]:
        import psutil

        match self.metric:
            case "cpu":
                before = [psutil.cpu_times()]

                def busy() -> float:
                    old, before[0] = before[0], psutil.cpu_times()
                    return _busy(old, before[0])

                return partial(_percent, busy)
            case "load":
                return lambda: _number(psutil.getloadavg()[0])
            case "memory_used":
                return partial(_percent, lambda: 100 - _available(psutil.virtual_memory()))
            case "memory_available":
                return partial(_percent, lambda: _available(psutil.virtual_memory()))
            case "swap_used":
                return partial(_percent, lambda: psutil.swap_memory().percent)
            case "disk_used":
                return partial(_percent, lambda: psutil.disk_usage(str(self.path)).percent)
            case "disk_free":
                return partial(_percent, lambda: 100 - psutil.disk_usage(str(self.path)).percent)
            case "tcp_established":
                return lambda: _number(_established(_SNMP.read_text()))
            case "processes":
                return lambda: _number(len(psutil.pids()))
            case _:
                return lambda: _duration(time.clock_gettime_ns(time.CLOCK_BOOTTIME) / 1000)


def _percent(share: Callable[[], float]) -> Seen:
    value = min(100.0, max(0.0, share()))
    return Seen(True, value, f"{value:.1f} %")


def _number(value: float) -> Seen:
    return Seen(True, float(value), f"{value:g}")


def _duration(micros: float) -> Seen:
    return Seen(True, micros, f"{micros / 1_000_000:.0f} s")


def _available(memory: Any) -> float:
    return float(100 * memory.available / memory.total)


def _busy(old: Any, new: Any) -> float:
    """Of all time between the two; that of guests is in ``user`` and ``nice`` already."""
    names = [name for name in new._fields if name not in ("guest", "guest_nice")]
    spent = {name: max(0.0, getattr(new, name) - getattr(old, name)) for name in names}
    total = sum(spent.values())
    return 100 * (1 - (spent["idle"] + spent["iowait"]) / total) if total else 0.0


def _established(text: str) -> float:
    """TCP's ``CurrEstab`` of /proc/net/snmp: IPv4 and IPv6, without reading every connection."""
    names, values = [line.split() for line in text.splitlines() if line.startswith("Tcp:")]
    try:
        return float(values[names.index("CurrEstab")])
    except (ValueError, IndexError):
        raise InvalidInput("this kernel counts no established connections") from None
