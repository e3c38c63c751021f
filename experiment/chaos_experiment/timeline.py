"""From the items of a timeline to steps with their times. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from chaos_core import faults
from chaos_core.envelope import MAX_DURATION
from chaos_core.errors import InvalidInput
from chaos_core.units import Bandwidth, ByteSize, Duration, Percent, Quantity
from chaos_experiment.plan import Note, Step
from chaos_experiment.scenario import (
    MAX_STEPS,
    MAX_TIMELINE,
    FaultItem,
    HookItem,
    NoteItem,
    ParallelItem,
    Part,
    PauseItem,
    RampItem,
    RampSpec,
    RepeatItem,
)
from chaos_experiment.source import Path, Source

_MAX_ITEMS: Final = 10 * MAX_STEPS  # with those that repeat; pauses and notes count
_QUANTITIES: Final[tuple[type[Quantity], ...]] = (Duration, Percent, ByteSize, Bandwidth)


@dataclass(slots=True)
class Timeline:
    """Steps and notes, by time, as ``add`` has found them; ``targets`` are the names known."""

    source: Source
    targets: Sequence[str]
    report: Callable[[Path, InvalidInput], None]
    steps: list[Step] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    items: int = 0

    def add(self, items: Sequence[Part], path: Path = ("timeline",), base: int = 0) -> int:
        """One after another from ``base`` on; says when the last of them ends."""
        cursor = end = base
        for number, item in enumerate(items):
            begin = _begin(item, base, cursor)
            cursor = self._item(item, (*path, number), begin)
            end = max(end, cursor)
        return end

    def _item(self, item: Part, path: Path, begin: int) -> int:
        self.items += 1
        if self.items > _MAX_ITEMS or len(self.steps) > MAX_STEPS:
            what = f"more than {MAX_STEPS} steps" if self.steps else "more items than can be"
            where = self.source.place(path)
            raise InvalidInput(what, where=where, hint="fewer rounds, or several scenarios")
        match item:
            case RampItem():
                return self._ramp(item, path, begin)
            case FaultItem():
                self._step(item, path, begin, item.length, item.fault, item.params)
                return begin + item.length
            case HookItem():
                params = {"hook": item.hook}
                self._step(item, path, begin, item.length, "hook.run", params)
                return begin + item.length
            case PauseItem():
                return begin + item.pause
            case ParallelItem():
                inner = (*path, "parallel")
                ends = [
                    self._item(one, (*inner, number), _begin(one, begin, begin))
                    for number, one in enumerate(item.parallel)
                ]
                return max(ends)
            case RepeatItem():
                return self._repeat(item, path, begin)
            case NoteItem():
                self.notes.append(Note(Duration(begin), item.note))
        return begin

    def _repeat(self, item: RepeatItem, path: Path, begin: int) -> int:
        spec = item.repeat
        for _ in range(spec.times):
            end = self.add(spec.do, (*path, "repeat", "do"), begin)
            if spec.every is not None and end > begin + spec.every:
                took = Duration(end - begin)
                problem = InvalidInput(
                    f"a round takes {took}, and one begins every {spec.every}",
                    hint=f"every: {took} or more, or shorter steps",
                )
                self.report((*path, "repeat", "every"), problem)
                return end
            begin = end if spec.every is None else begin + spec.every
        return end

    def _ramp(self, item: RampItem, path: Path, begin: int) -> int:
        try:
            values = grown(item.ramp)
        except InvalidInput as error:
            self.report((*path, "ramp"), error)
            return begin + item.length
        edges = [item.length * n // len(values) for n in range(len(values) + 1)]
        for number, value in enumerate(values):
            params = {**item.params, item.ramp.param: value}
            at, length = begin + edges[number], Duration(edges[number + 1] - edges[number])
            self._step(item, path, at, length, item.fault, params)
        return begin + item.length

    def _step(
        self,
        item: FaultItem | HookItem,
        path: Path,
        at: int,
        length: Duration,
        kind: str,
        params: Mapping[str, Any],
    ) -> None:
        on = item.on or tuple(self.targets[:1])
        if not item.on and len(self.targets) != 1:
            hint = f"on: one of {', '.join(self.targets)}"
            self.report(path, InvalidInput("on which target?", hint=hint))
        for name in on:
            if name not in self.targets:
                hint = faults.nearest(name, dict.fromkeys(self.targets))
                self.report((*path, "on"), InvalidInput(f"there is no target {name!r}", hint=hint))
        self.used.update(on)
        if length > MAX_DURATION:
            problem = InvalidInput(
                f"{length} is longer than any fault may be in force: {MAX_DURATION}",
                hint="repeat a shorter one",
            )
            self.report((*path, "for"), problem)
        if at + length > MAX_TIMELINE:
            problem = InvalidInput(f"ends at {Duration(at + length)}, after {MAX_TIMELINE}")
            self.report(path, problem)
        try:
            fault = faults.parse(kind, params)
        except InvalidInput as error:  # of a hook: the others were looked at before
            self.report((*path, "hook"), error)
            return
        canonical = fault.model_dump(mode="json", exclude_defaults=True)
        where = self.source.line(path)
        self.steps.append(
            Step(0, Duration(at), length, kind, canonical, on, " ".join(item.note.split()), where)
        )


def grown(ramp: RampSpec) -> list[str]:
    """The values of a ramp. Raises InvalidInput unless both ends are of the same unit."""
    for kind in (*_QUANTITIES, None):
        try:
            first, last = (_parse(kind, text) for text in (ramp.start, ramp.to))
        except (InvalidInput, ValueError):
            continue
        values = [
            first + (last - first) * number / (ramp.steps - 1) for number in range(ramp.steps)
        ]
        return [_text(kind, value) for value in values]
    raise InvalidInput(
        f"from {ramp.start!r} to {ramp.to!r} are not of one unit",
        hint="like from: 10ms, to: 50ms",
    )


def _begin(item: Part, base: int, cursor: int) -> int:
    at = getattr(item, "at", None)
    return cursor if at is None else base + int(at)


def _parse(kind: type[Quantity] | None, text: str) -> int:
    if kind is not None:
        return int(kind.parse(text))
    if not re.fullmatch(r"[0-9]{1,15}", text):
        raise ValueError
    return int(text)


def _text(kind: type[Quantity] | None, value: float) -> str:
    return str(kind(round(value))) if kind is not None else str(round(value))
