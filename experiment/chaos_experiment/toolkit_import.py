"""An experiment of Chaos Toolkit's as a scenario, as far as it maps. Pure: text in, data out.

What maps: title, hypothesis and tags; constants of the configuration as params; http probes of
the hypothesis; `chaoschaosctl`'s own faults and all pauses. Everything else is told, one by one,
with its place and the reason: nothing is dropped in silence, and nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import yaml
from pydantic import ValidationError

from chaos_core import faults
from chaos_core.errors import InvalidInput
from chaos_core.units import Duration
from chaos_experiment.probes.http import Http
from chaos_experiment.source import Path, Source, read

OURS: Final = "chaoschaosctl"
_HYPOTHESIS: Final = "steady-state-hypothesis"
_MAPPED: Final = ("title", "description", "tags", "configuration", _HYPOTHESIS, "method")
_SILENT: Final = ("version", "contributions", "rollbacks")  # say nothing, or are told one by one
_HOLE: Final = re.compile(r"\$\{([^{}]*)\}")
_STATUS: Final = re.compile(r"[1-5][0-9][0-9]")
_NO_NAME: Final = re.compile(r"[^a-z0-9_-]+")

_ENDS_ITSELF: Final = "not needed: every fault ends by itself, and the nodes are read back clean"
_SEEN_ANYWAY: Final = "not needed: an experiment sees to that by itself, before and after"
_OF_OURS: Final[Mapping[str, str]] = {
    "end_run": "a step ends after its own `for`: make that shorter",
    "abort": "say with `abort_when` what must end it",
    "resume": "an abort is lifted by people: chaosctl resume",
    "run_scenario": "that file is a scenario already: chaosctl run",
}
_OTHERS: Final[Mapping[str, str]] = {
    "chaosprometheus": "write it as a `prometheus` probe",
    "chaosk8s": "Kubernetes is not reached from here: faults are put on the nodes themselves",
    "chaosaws": "a cloud's own API is not called from here: faults are put on the nodes",
    "chaosgcp": "a cloud's own API is not called from here: faults are put on the nodes",
    "chaosazure": "a cloud's own API is not called from here: faults are put on the nodes",
    "chaostoxi": "use network.latency, network.loss, network.rate or network.reject",
}
_COMMAND: Final = "a command is run only where root has allowed it by name"
_HTTP_FIELDS: Final = ("type", "url", "method", "headers", "timeout", "verify_tls")


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A part that has no counterpart: where it stands, what it is, why it was left out."""

    where: str
    what: str
    why: str

    def __str__(self) -> str:
        return " ".join(f"{self.where}: {self.what}: {self.why}".split())  # a comment's one line


@dataclass(frozen=True, slots=True)
class Imported:
    """A scenario's data, in the order of its file, and what is not in it."""

    data: Mapping[str, Any]
    left_out: Sequence[LeftOut]

    @property
    def nothing(self) -> bool:
        """Whether there is nothing in it to run or to look at."""
        return not self.data.get("probes") and not self.data["timeline"]

    def text(self) -> str:
        """The scenario's file; what was left out stands above it."""
        head = "".join(f"# not mapped: {each}\n" for each in self.left_out)
        body = yaml.safe_dump(dict(self.data), sort_keys=False, allow_unicode=True, width=100)
        return head + body


def convert(text: str, name: str) -> Imported:
    """Raises InvalidInput when the text is no experiment at all."""
    if name.endswith(".json"):
        text = text.replace("\t", " ")  # between JSON's tokens, where YAML takes none
    return _Importer(read(text, name)).run()


class _NotMapped(Exception):
    """Why one part has no counterpart."""


@dataclass(slots=True)
class _Importer:
    source: Source
    left_out: list[LeftOut] = field(default_factory=list)
    constants: dict[str, str] = field(default_factory=dict)
    foreign: dict[str, str] = field(default_factory=dict)  # configuration that is no constant: why
    params: dict[str, str] = field(default_factory=dict)  # those that are used
    targets: dict[str, list[str]] = field(default_factory=dict)
    probes: dict[str, Any] = field(default_factory=dict)
    timeline: list[dict[str, Any]] = field(default_factory=list)
    now: int = 0  # µs, when the next step of the method begins
    free: int = 0  # when the scenario's would, unless it says `at`

    def run(self) -> Imported:
        data = self.source.data
        if not isinstance(data.get("method"), list):
            raise InvalidInput("an experiment has a method, a list", where=self.source.name)
        for key in data:
            if key not in (*_MAPPED, *_SILENT):
                self.leave_out((key,), key, "a scenario has nothing like it")
        self._configuration()
        hypothesis = _mapping(data.get(_HYPOTHESIS))
        for number, probe in enumerate(_items(hypothesis.get("probes"))):
            self._try((_HYPOTHESIS, "probes", number), probe, self._probe)
        for number, activity in enumerate(_items(data["method"])):
            self._activity(("method", number), activity)
        for number, activity in enumerate(_items(data.get("rollbacks"))):
            self.leave_out(("rollbacks", number), _label(activity), _ENDS_ITSELF)
        words = [_plain(hypothesis.get("title")), _plain(data.get("description"))]
        tags = [_name(tag) for tag in _items(data.get("tags")) if isinstance(tag, str)]
        steady = [f"{name}.error_rate < 1%" for name in self.probes]
        parts = {
            "title": _plain(data.get("title"))[:120] or self.source.name,
            "hypothesis": "; ".join(filter(None, words)),
            "tags": list(dict.fromkeys(tags)),
            "params": self.params,
            "targets": {name: {"names": nodes} for name, nodes in self.targets.items()},
            "probes": self.probes,
            "steady_state": steady,
        }
        kept = {key: value for key, value in parts.items() if value}
        return Imported({**kept, "timeline": self.timeline}, tuple(self.left_out))

    def leave_out(self, path: Path, what: str, why: str) -> None:
        self.left_out.append(LeftOut(self.source.line(path), what, why))

    def _try(self, path: Path, activity: Any, step: Any) -> None:
        try:
            step(_mapping(activity))
        except _NotMapped as reason:
            self.leave_out(path, _label(activity), str(reason))

    # ── configuration ─────────────────────────────────────────────────────────────────────

    def _configuration(self) -> None:
        for key, value in _mapping(self.source.data.get("configuration")).items():
            if key in ("chaosctl_controller", "chaosctl_pki"):
                continue  # chaosctl's own options, not the scenario's
            if isinstance(value, dict) and value.get("type") == "env" and "default" in value:
                value = value["default"]
            if isinstance(value, str):
                self.constants[key] = value
            else:
                self.foreign[key] = "it is known only when the toolkit runs"

    def _fill(self, value: Any, *, keep: bool = False) -> Any:
        """With the constants in the place of ``${name}``; or, to ``keep`` them, as params."""
        if isinstance(value, dict):
            return {key: self._fill(each, keep=keep) for key, each in value.items()}
        if isinstance(value, list):
            return [self._fill(each, keep=keep) for each in value]
        if not isinstance(value, str):  # a number of ours
            return value
        return _HOLE.sub(lambda hole: self._constant(hole[1], keep=keep), value)

    def _constant(self, key: str, *, keep: bool) -> str:
        if key not in self.constants:
            why = self.foreign.get(key, "the configuration does not have it (a secret?)")
            raise _NotMapped(f"it needs ${{{key}}}: {why}")
        if not keep:
            return self.constants[key]
        name = _name(key)
        self.params[name] = self.constants[key]
        return f"${{{name}}}"

    # ── hypothesis ────────────────────────────────────────────────────────────────────────

    def _probe(self, probe: Mapping[str, Any]) -> None:
        provider = _mapping(probe.get("provider"))
        match provider.get("type"):
            case "http":
                made = {**self._http(provider), **_tolerated(probe.get("tolerance"))}
            case "process":
                raise _NotMapped(f"{_COMMAND}: write it as a `command` probe")
            case "python" if _module(provider) == OURS:
                raise _NotMapped(_SEEN_ANYWAY)
            case _:
                raise _NotMapped(_foreign(provider))
        try:
            Http.model_validate(self._fill(made))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise _NotMapped(f"`{where}`: {first['msg'].removeprefix('Value error, ')}") from None
        name = _unused(_name(_label(probe)), self.probes)
        self.probes[name] = {"http": self._fill(made, keep=True)}

    def _http(self, provider: Mapping[str, Any]) -> dict[str, Any]:
        for key in provider:
            if key not in _HTTP_FIELDS:
                raise _NotMapped(f"`{key}` has no counterpart in an `http` probe")
        self._fill(dict(provider))  # nothing of it may be unknown
        made: dict[str, Any] = {"url": _text(provider.get("url")), "rate": 1}
        if _text(provider.get("method"), "GET").upper() != "GET":
            made["method"] = _text(provider["method"]).upper()
        if _mapping(provider.get("headers")):
            made["headers"] = dict(provider["headers"])
        if "timeout" in provider:
            made["timeout"] = str(self._seconds(provider["timeout"]))
        if provider.get("verify_tls") == "false":
            made["verify"] = "false"
        return made

    # ── method ────────────────────────────────────────────────────────────────────────────

    def _activity(self, path: Path, activity: Any) -> None:
        pauses = _mapping(_mapping(activity).get("pauses"))
        self._pause((*path, "pauses"), pauses.get("before"))
        self._try(path, activity, self._action)
        self._pause((*path, "pauses"), pauses.get("after"))

    def _pause(self, path: Path, value: Any) -> None:
        try:
            length = self._seconds(value) if value is not None else 0
        except _NotMapped as reason:
            self.leave_out(path, "a pause", str(reason))
            return
        if length and self.now == self.free:
            self.timeline.append({"pause": str(length)})
            self.free += length
        self.now += length  # beside a fault in the background, what follows says `at`

    def _action(self, activity: Mapping[str, Any]) -> None:
        provider = _mapping(activity.get("provider"))
        func = _text(provider.get("func"))
        if "ref" in activity:
            raise _NotMapped("references to other activities are not followed: write it out")
        if activity.get("type") == "probe":
            raise _NotMapped("probes of a scenario look all the time: declare it in `probes`")
        if provider.get("type") in ("process", "http"):
            raise _NotMapped(f"{_COMMAND}: as a `hook` on the nodes")
        if _module(provider) != OURS:
            raise _NotMapped(_foreign(provider))
        if func != "inject":
            raise _NotMapped(_OF_OURS.get(func, f"there is no action {func!r}"))
        self._inject(activity, _mapping(provider.get("arguments")))

    def _inject(self, activity: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
        sure = self._fill(dict(arguments))
        nodes, params = sure.get("nodes"), _mapping(sure.get("params"))
        if not isinstance(nodes, list) or not nodes:
            raise _NotMapped("it names no nodes")
        try:
            length = Duration.parse(_text(sure.get("duration")))
            faults.parse(_text(sure.get("kind")), params)
        except InvalidInput as error:
            raise _NotMapped(" ".join(str(error).split())) from None
        step: dict[str, Any] = {} if self.now == self.free else {"at": str(Duration(self.now))}
        step |= {"fault": sure["kind"], "for": self._fill(arguments["duration"], keep=True)}
        step["on"] = self._target([_text(node) for node in nodes])
        if params:
            step["with"] = self._fill(dict(arguments["params"]), keep=True)
        step["note"] = _plain(activity.get("name"))
        self.timeline.append({key: value for key, value in step.items() if value})
        background = "true" in (activity.get("background"), arguments.get("background"))
        self.free = self.now + length
        self.now += 0 if background else length

    def _target(self, nodes: list[str]) -> str:
        for name, known in self.targets.items():
            if known == nodes:
                return name
        name = _unused(_name(nodes[0] if len(nodes) == 1 else "nodes"), self.targets)
        self.targets[name] = nodes
        return name

    def _seconds(self, value: Any) -> Duration:
        try:
            return Duration(round(float(self._fill(value)) * 1_000_000))
        except (TypeError, ValueError, OverflowError):
            raise _NotMapped(f"{value!r} is no number of seconds") from None


def _tolerated(tolerance: Any) -> dict[str, Any]:
    """What a good answer is, for an `http` probe."""
    several = tolerance if isinstance(tolerance, list) else [tolerance]
    if several and all(isinstance(each, str) and _STATUS.fullmatch(each) for each in several):
        return {"expect_status": [int(each) for each in several]}
    rule = _mapping(tolerance)
    if rule.get("type") == "regex" and rule.get("target") == "body":
        return {"body_matches": _text(rule.get("pattern"))}
    kind = _text(rule.get("type"))
    raise _NotMapped(
        f"a tolerance {f'of type {kind}' if kind else repr(tolerance)} has no counterpart:"
        " a status, or a regex of the body"
    )


def _module(provider: Mapping[str, Any]) -> str:
    return _text(provider.get("module")).partition(".")[0]


def _foreign(provider: Mapping[str, Any]) -> str:
    module = _module(provider)
    told = _text(provider.get("module")) or _text(provider.get("type")) or "no provider"
    return f"{told}: {_OTHERS.get(module, 'nothing is known of it here')}"


def _label(activity: Any) -> str:
    found = _mapping(activity)
    return _text(found.get("name")) or _text(found.get("ref")) or "an activity"


def _name(text: str) -> str:
    """A name as scenarios have them."""
    made = _NO_NAME.sub("-", text.lower()).strip("-_")[:32].rstrip("-_")
    return made if made[:1].isalpha() else f"x-{made}"[:32].rstrip("-")


def _unused(name: str, used: Mapping[str, Any]) -> str:
    return next(each for each in _numbered(name) if each not in used)


def _numbered(name: str) -> Iterator[str]:
    yield name
    for number in range(2, 1_000_000):
        yield f"{name[:25]}-{number}"


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _plain(value: Any) -> str:
    """Words that name no params."""
    return _text(value).replace("${", "$${")


def _text(value: Any, default: str = "") -> str:
    return value if isinstance(value, str) else default
