"""What holders take, from the VM's own /proc."""

from __future__ import annotations

from functools import partial
from typing import Self

from chaos_lab.catalogue.probe import NODE, Measure, Probe
from chaos_lab.drill.context import Drill
from chaos_lab.drill.measure import Resources
from chaos_lab.drill.resources import memory_total


class Taken(Probe):
    """CPU in points of /proc/stat, or memory in points of MemTotal."""

    def __init__(self, drill: Drill, what: str, points: float, within: float) -> None:
        self._memory = what == "memory"
        self._total = memory_total(drill, NODE)
        self._points, self._within = points, within
        self._resources = Resources(drill.fleet, NODE)

    def __enter__(self) -> Self:
        self._resources.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.__exit__(None, None, None)

    def base(self) -> None:
        self._before = self._resources.over(8)

    def during(self) -> tuple[str, bool]:
        self._resources.over(1)
        points = self._taken(*self._resources.over(20))
        return f"{points:.2f} points", abs(points - self._points) <= self._within

    def gone_after(self, since: float) -> float:
        return self._resources.back_after(
            since, lambda cpu, available: self._taken(cpu, available) < self._points / 3
        )

    def _taken(self, cpu: float, available: float) -> float:
        cpu_before, available_before = self._before
        if self._memory:
            return 100 * (available_before - available) / self._total
        return cpu - cpu_before


MEASURES = (
    Measure(
        "cpu.stress",
        "percent=30%",
        "30 ± 2 points of /proc/stat",
        partial(Taken, what="cpu", points=30, within=2),
    ),
    Measure(
        "memory.stress",
        "percent=20%",
        "20 ± 1 points of MemTotal",
        partial(Taken, what="memory", points=20, within=1),
    ),
)
