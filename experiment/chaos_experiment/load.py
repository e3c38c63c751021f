"""From a scenario's text to what the state machine runs. Pure: text in, values out.

Every problem names ``file:line:field``. All that can be found independently is said at
once, up to eight; nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from pydantic import ValidationError

from chaos_core import faults
from chaos_core.errors import InvalidInput
from chaos_core.units import Duration
from chaos_experiment import conditions, offer, params, probes, timeline, tolerances, wording
from chaos_experiment.conditions import Condition
from chaos_experiment.params import mapping, text_of, texts
from chaos_experiment.plan import Plan, Slo
from chaos_experiment.probes import Mode, Place, Probe
from chaos_experiment.scenario import (
    Scenario,
    SloTargets,
)
from chaos_experiment.series import SHARES
from chaos_experiment.source import Path, Source, read
from chaos_experiment.targets import Target

MAX_SHOWN: Final = 8
_MAX_FOUND: Final = 20  # problems, after which nobody looks for more
_MAX_NAMES: Final = 100  # of params, targets, probes, levels or environments
_EXAMPLE_NODE: Final = ("node", "192.0.2.1")  # TEST-NET-1, RFC 5737
_CHECKED: Final = ("preflight", "steady_state", "during", "abort_when")

# When a probe looks, by its mode; preflight looks before the baseline begins.
_SEES: Final[Mapping[str, frozenset[Mode]]] = {
    "preflight": frozenset({Mode.CONTINUOUS, Mode.START, Mode.EDGE}),
    "steady_state": frozenset({Mode.CONTINUOUS, Mode.EDGE}),
    "during": frozenset({Mode.CONTINUOUS, Mode.DURING}),
    "abort_when": frozenset({Mode.CONTINUOUS, Mode.DURING}),
}


_NOTHING: Final = Source("", {}, {})


@dataclass(frozen=True, slots=True)
class Loaded:
    """A scenario that makes sense. ``text`` is the file as it was, for the record."""

    name: str
    text: str
    scenario: Scenario
    plan: Plan
    probes: Mapping[str, Probe]  # not those of a target's ``where``
    targets: Mapping[str, Target]
    params: Mapping[str, str]
    level: str = ""
    environment: str = ""
    wheres: Mapping[str, Condition] = field(default_factory=dict)  # by target
    site_probes: Mapping[str, Probe] = field(default_factory=dict)  # what ``site`` adds
    site_source: Source = _NOTHING
    _source: Source = _NOTHING
    _per_node: Mapping[str, tuple[type[Probe], Mapping[str, Any]]] = field(default_factory=dict)

    def probe_on(self, target: str, node: str, address: str) -> Probe:
        """The probe of a target's ``where``, as it looks at one node."""
        cls, given = self._per_node[self.wheres[target].probe]
        return cls.model_validate(_for_node(given, node, address))

    @property
    def all_probes(self) -> Mapping[str, Probe]:
        """Its own and the site's."""
        return {**self.site_probes, **self.probes}

    def target_place(self, name: str) -> str:
        """Where a target stands: ``web.yaml:5:targets.web``."""
        return self._source.place(("targets", name))

    def place(self, name: str, *field: str) -> str:
        """Where a probe stands, or a field of it: ``web.yaml:7:probes.shop.http.url``."""
        source = self.site_source if name in self.site_probes else self._source
        return source.place(("probes", name, *field))


def load(
    text: str,
    name: str = "scenario",
    settings: Mapping[str, str] | None = None,
    level: str = "",
    environment: str = "",
    *,
    known: Mapping[str, type[Probe]] | None = None,
) -> Loaded:
    """Check all of it. Values of params: the file's, then the environment's, then the level's,
    then ``settings``. ``known`` are the kinds of probes. Raises InvalidInput.
    """
    loader = Loader(read(text, name), probes.kinds() if known is None else known)
    return loader.run(text, settings or {}, level, environment)


@dataclass(slots=True)
class Loader:
    """Reads a file's probes and conditions, and collects what is wrong with it."""

    source: Source
    kinds: Mapping[str, type[Probe]]
    problems: dict[str, InvalidInput] = field(default_factory=dict)  # by place: the first of each
    probes: dict[str, Probe] = field(default_factory=dict)
    raw_probes: dict[str, tuple[type[Probe], Mapping[str, Any]]] = field(default_factory=dict)
    conditions: dict[str, list[Condition]] = field(default_factory=dict)
    wheres: dict[str, Condition] = field(default_factory=dict)

    def run(self, text: str, settings: Mapping[str, str], level: str, environment: str) -> Loaded:
        for part in ("params", "targets", "probes", "levels", "environments"):
            if len(mapping(self.source.data.get(part))) > _MAX_NAMES:
                where = self.source.place((part,))
                raise InvalidInput(f"more than {_MAX_NAMES}", where=where, hint="several scenarios")
        environment = environment or text_of(self.source.data.get("environment"))
        values = params.values(self.source, settings, level, environment, self.problem)
        filled = params.filled(self.source, values, self.problem)
        scenario = self._model(filled)
        self.read_probes(filled)
        self._conditions(filled, scenario)
        self._places(filled)
        for path, item in _fault_items(filled.get("timeline"), ("timeline",)):
            self._fault(path, item)
        self.give_up_if_bad()
        assert scenario is not None
        line = timeline.Timeline(self.source, tuple(scenario.targets), self.report)
        line.add(scenario.timeline)
        if not line.steps:
            self.problem(("timeline",), "nothing is done in it", "add a fault")
        self._unused(scenario, line.used | {each.look_from for each in self.probes.values()})
        slo = self._slo(scenario, environment)
        self.give_up_if_bad()
        steps = sorted(line.steps, key=lambda step: step.at)
        plan = Plan(
            title=scenario.title,
            steps=tuple(replace(step, number=n) for n, step in enumerate(steps, 1)),
            notes=tuple(sorted(line.notes, key=lambda note: note.at)),
            **{part: tuple(self.conditions[part]) for part in _CHECKED},
            baseline=scenario.baseline,
            recovery_within=scenario.recovery.within,
            stable_for=scenario.recovery.stable,
            grace=scenario.grace,
            slo=slo,
        )
        where_probes = {condition.probe for condition in self.wheres.values()}
        return Loaded(
            name=self.source.name,
            text=text,
            scenario=scenario,
            plan=plan,
            probes={name: one for name, one in self.probes.items() if name not in where_probes},
            targets=scenario.targets,
            params=values,
            level=level,
            environment=environment,
            wheres=self.wheres,
            _source=self.source,
            _per_node={name: self.raw_probes[name] for name in where_probes},
        )

    # ── problems ──────────────────────────────────────────────────────────────────────

    def problem(self, path: Path, what: str, hint: str = "") -> None:
        place = self.source.place(path)
        self.problems.setdefault(place, InvalidInput(what, where=place, hint=hint))
        if len(self.problems) >= _MAX_FOUND:
            self.give_up_if_bad()

    def report(self, path: Path, error: InvalidInput) -> None:
        self.problem(path, error.what, error.hint)

    def give_up_if_bad(self) -> None:
        if self.problems:
            raise combined(tuple(self.problems.values()), self.source.name)

    # ── parts ─────────────────────────────────────────────────────────────────────────

    def _model(self, data: Mapping[str, Any]) -> Scenario | None:
        try:
            return Scenario.model_validate(data)
        except ValidationError as error:
            for each in error.errors(include_url=False):
                path, model = wording.place(each["loc"], data)
                self.problem(path, *wording.words(each, model))
            return None

    def read_probes(self, data: Mapping[str, Any]) -> None:
        for name, spec in mapping(data.get("probes")).items():
            path = ("probes", name)
            if not isinstance(spec, dict) or len(spec) != 1:
                self.problem(path, "a probe has exactly one kind", "like {http: {url: …}}")
                continue
            kind, given = next(iter(spec.items()))
            if kind not in self.kinds:
                hint = faults.nearest(kind, self.kinds) if self.kinds else ""
                self.problem((*path, kind), f"unknown kind of probe {kind!r}", hint)
                continue
            cls = self.kinds[kind]
            try:
                made = cls.model_validate(_for_node(mapping(given), *_EXAMPLE_NODE))
            except ValidationError as error:
                for each in error.errors(include_url=False):
                    what, hint = wording.words(each, cls)
                    self.problem((*path, kind, *each["loc"]), what, hint or _example(cls))
                continue
            self.probes[name] = made
            self.raw_probes[name] = cls, mapping(given)

    def _conditions(self, data: Mapping[str, Any], scenario: Scenario | None) -> None:
        declared = mapping(data.get("probes"))
        for name, spec in mapping(data.get("targets")).items():
            where = text_of(mapping(spec).get("where"))
            if where:
                found = self.condition(("targets", name, "where"), where, declared)
                if found:
                    self.wheres[name] = found
        per_node = {condition.probe for condition in self.wheres.values()}
        for name in declared:
            holes = [f"${{{each}}}" for each in params.NODE_FIELDS]
            if name not in per_node and any(
                hole in text for text in texts(declared[name]) for hole in holes
            ):
                what = "${node.…} is for the probe of a target's `where` only"
                self.problem(("probes", name), what, "give it an address")
        places: dict[int, Path] = {}
        for part in _CHECKED:
            self.conditions[part] = []
            rows = data.get(part)
            for number, text in enumerate(rows if isinstance(rows, list) else ()):
                path = (part, number)
                found = self.condition(path, text_of(text), declared)
                if found is None:
                    continue
                self.sees(path, part, found, per_node)
                self.often_enough(path, part, found, scenario)
                self.conditions[part].append(found)
                places[id(found)] = path
        abort = self.conditions["abort_when"]
        for part in ("preflight", "steady_state", "during"):
            steady = part != "during"
            rows = self.conditions[part]
            for bad, why in tolerances.contradictions(rows, steady=steady, abort=abort):
                self.problem(places[id(bad)], f"{bad.text!r} {why}", "one of the two is wrong")

    def _places(self, data: Mapping[str, Any]) -> None:
        """Whether each probe can look from where it is to look from."""
        targets = mapping(data.get("targets"))
        per_node = {condition.probe for condition in self.wheres.values()}
        for name, probe in self.probes.items():
            path = ("probes", name, probe.kind, "from")
            if name in per_node and (probe.look_from or probe.place is Place.NODE):
                what = "the probe of a target's `where` looks from the controller"
                self.problem(path, what, "look at ${node.address} with another kind, without from")
            elif probe.look_from and probe.look_from not in targets:
                hint = faults.nearest(probe.look_from, targets) if targets else "there are none"
                self.problem(path, f"there is no target {probe.look_from!r}", hint)
            elif probe.look_from:
                try:
                    offer.check_moderate(probe)
                except InvalidInput as error:
                    self.problem((*path[:3], error.where), error.what, error.hint)

    def condition(self, path: Path, text: str, declared: Mapping[str, Any]) -> Condition | None:
        try:
            found = conditions.parse(text)
        except InvalidInput as error:
            self.report(path, error)
            return None
        if found.probe and found.probe not in declared:
            hint = faults.nearest(found.probe, declared) if declared else "there are no probes"
            self.problem(path, f"{text!r}: there is no probe {found.probe!r}", hint)
            return None
        probe = self.probes.get(found.probe)
        if probe is not None and found.numbers and found.metric not in SHARES:
            self._units(path, found, probe)
        return found

    def _units(self, path: Path, condition: Condition, probe: Probe) -> None:
        good = {"duration": ("duration",), "percent": ("percent", ""), "": ("", "percent")}
        if condition.unit in good[probe.unit]:
            return
        what = "durations, like 150ms" if probe.unit == "duration" else "numbers without a time"
        self.problem(path, f"{condition.text!r}: what {probe.kind} probes see are {what}")

    def sees(self, path: Path, part: str, condition: Condition, per_node: set[str]) -> None:
        if condition.probe in per_node:
            what = f"{condition.text!r}: this probe looks at one node each, for a target's `where`"
            self.problem(path, what, "use another probe")
        probe = self.probes.get(condition.probe)
        if probe is not None and probe.mode not in _SEES[part]:
            modes = ", ".join(sorted(_SEES[part]))
            what = f"{condition.text!r}: its probe's mode is {probe.mode}, which sees nothing then"
            self.problem(path, what, f"mode: one of {modes}")

    def often_enough(
        self, path: Path, part: str, condition: Condition, scenario: Scenario | None
    ) -> None:
        """Where nothing would be seen, an abort condition ends the run and a steady state fails."""
        probe = self.probes.get(condition.probe)
        if probe is None or part not in ("steady_state", "abort_when"):
            return
        spans = {"its window": condition.over}
        if part == "steady_state" and scenario is not None:
            spans |= {
                "the baseline": scenario.baseline,
                "recovery.stable": scenario.recovery.stable,
            }
        every = Duration(probe.due(1))
        for name, span in spans.items():
            if span < every and probe.mode in (Mode.CONTINUOUS, Mode.DURING):
                what = f"{condition.text!r}: its probe looks every {every}, and {name} is {span}"
                self.problem(path, what, f"make that {every} or more, or look more often")
                return

    def _fault(self, path: Path, item: Mapping[str, Any]) -> None:
        kind = text_of(item.get("fault"))
        try:
            cls = faults.lookup(kind)
        except InvalidInput as error:
            return self.report((*path, "fault"), error)
        given = dict(mapping(item.get("with")))
        ramp = mapping(item.get("ramp"))
        ends: list[dict[str, Any]] = [{}]
        if isinstance(ramp.get("param"), str):
            name = ramp["param"]
            if name not in cls.model_fields:
                what = f"{kind} has no parameter {name!r}"
                return self.problem(
                    (*path, "ramp", "param"), what, faults.nearest(name, cls.model_fields)
                )
            ends = [{name: ramp[end]} for end in ("from", "to") if end in ramp] or ends
        for end in ends:
            try:
                cls.model_validate({**given, **end})
            except ValidationError as error:
                for each in error.errors(include_url=False)[:MAX_SHOWN]:
                    field_path = tuple(each["loc"][:1])
                    inner = (
                        ("ramp",) if field_path and field_path[0] in end else ("with", *field_path)
                    )
                    self.problem((*path, *inner), f"{kind}: {faults.explain(cls, each)}")
        return None

    def _unused(self, scenario: Scenario, used: set[str]) -> None:
        for name in scenario.targets:
            if name not in used:
                self.problem(("targets", name), f"target {name!r} is not used", "on: " + name)
        asked = {each.probe for rows in self.conditions.values() for each in rows}
        asked |= {each.probe for each in self.wheres.values()}
        for name in scenario.probes:
            if name not in asked:
                what = f"no condition asks probe {name!r}"
                self.problem(("probes", name), what, "ask it, for example in steady_state")

    def _slo(self, scenario: Scenario, environment: str) -> Slo:
        given = scenario.slo
        if isinstance(given, SloTargets):
            return _settled(given)
        if environment in given:
            return _settled(given[environment])
        hint = f"--env {' | '.join(given)}, or `environment: {next(iter(given))}` in the file"
        self.problem(("slo",), "is by environment, and none of these is chosen", hint)
        return Slo()


def combined(problems: Sequence[InvalidInput], name: str) -> InvalidInput:
    """All that was found in the file ``name``, as one error in the order of its lines."""
    found = sorted(problems, key=lambda each: _line_number(each.where))
    if len(found) == 1:
        return found[0]
    lines = [
        f"  {each.where}: {each.what}{f' ({each.hint})' if each.hint else ''}"
        for each in found[:MAX_SHOWN]
    ]
    if len(found) > MAX_SHOWN:
        lines.append(f"  and {len(found) - MAX_SHOWN} more")
    count = f"{len(found)} problems{' or more' if len(found) >= _MAX_FOUND else ''}"
    return InvalidInput("\n".join([count, *lines]), where=name)


def _settled(given: SloTargets) -> Slo:
    def percent(value: int | None) -> float | None:
        return None if value is None else value / 10_000

    return Slo(
        mttr=given.mttr,
        error_rate=percent(given.error_rate),
        availability=percent(given.availability),
        latency_added=given.latency_added,
        recovery=given.recovery,
    )


def _fault_items(value: Any, path: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Every item that names a fault, wherever it stands; whether it may is the models' affair."""
    if isinstance(value, list):
        for number, each in enumerate(value):
            yield from _fault_items(each, (*path, number))
    elif isinstance(value, dict):
        if "fault" in value:
            yield path, value
        else:
            for key, each in value.items():
                yield from _fault_items(each, (*path, key))


def _for_node(value: Any, node: str, address: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _for_node(each, node, address) for key, each in value.items()}
    if isinstance(value, list):
        return [_for_node(each, node, address) for each in value]
    return value.replace("${node.name}", node).replace("${node.address}", address)


def _example(cls: type[Probe]) -> str:
    shown = ", ".join(f"{key}: {value}" for key, value in cls.example.items())
    return f"for example {{{shown}}}" if shown else ""


def _line_number(where: str) -> int:
    found = re.search(r":(\d+)(?::|\Z)", where)
    return int(found[1]) if found else 0
