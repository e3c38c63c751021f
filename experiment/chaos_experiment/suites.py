"""Suites: scenarios that are run one after another, by a name. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Self

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, model_validator

from chaos_core.errors import InvalidInput
from chaos_core.faults import nearest
from chaos_core.units import Duration
from chaos_experiment import wording
from chaos_experiment.scenario import Name, Part, Values
from chaos_experiment.source import Source, read
from chaos_experiment.targets import listed

MAX_ENTRIES: Final = 200


class Entry(Part):
    """One scenario of a suite, with what is chosen for it."""

    file: str = Field(min_length=1, description="relative to the file of the suites")
    level: str = ""
    environment: str = ""
    settings: Values = Field(default={}, alias="set", description="values of its params")


class SuiteSpec(Part):
    """A suite as its file says it."""

    title: Annotated[str, Field(min_length=1, max_length=120)]
    cooldown: Duration = Field(default=Duration.parse("10s"), description="between two scenarios")
    fail_fast: bool = Field(default=False, description="end at the first that does not pass")
    include: Annotated[tuple[str, ...], BeforeValidator(listed)] = Field(
        default=(), description="other suites, which are run first"
    )
    scenarios: tuple[Entry, ...] = ()

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.include and not self.scenarios:
            raise ValueError("name scenarios, or other suites to include")
        return self


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite with everything that it includes; no entry is there twice."""

    name: str
    title: str
    cooldown: Duration
    fail_fast: bool
    entries: tuple[Entry, ...]


_SPECS: Final = TypeAdapter(dict[Name, SuiteSpec])


def load(text: str, name: str = "suites.yaml") -> dict[str, Suite]:
    """Every suite of a file. Raises InvalidInput at file:line:field."""
    source = read(text, name)
    try:
        specs = _SPECS.validate_python(source.data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = tuple(part for part in first["loc"] if part != "[key]")
        what, hint = wording.words(first, Entry if "scenarios" in path else SuiteSpec)
        raise InvalidInput(what, where=source.place(path), hint=hint) from None
    return {each: _resolved(each, specs, source) for each in specs}


def suite(suites: Mapping[str, Suite], name: str) -> Suite:
    """The suite of that name. Raises InvalidInput with the nearest."""
    if name not in suites:
        raise InvalidInput(f"there is no suite {name!r}", hint=nearest(name, suites))
    return suites[name]


def _resolved(name: str, specs: Mapping[str, SuiteSpec], source: Source) -> Suite:
    entries: list[Entry] = []
    _collect(name, specs, source, entries, ())
    if len(entries) > MAX_ENTRIES:
        raise InvalidInput(f"more than {MAX_ENTRIES} scenarios", where=source.place((name,)))
    spec = specs[name]
    return Suite(name, spec.title, spec.cooldown, spec.fail_fast, tuple(entries))


def _collect(
    name: str,
    specs: Mapping[str, SuiteSpec],
    source: Source,
    entries: list[Entry],
    above: Sequence[str],
) -> None:
    for number, other in enumerate(specs[name].include):
        place = source.place((name, "include", number))
        if other not in specs:
            hint = nearest(other, specs)
            raise InvalidInput(f"there is no suite {other!r}", where=place, hint=hint)
        if other in (*above, name):
            raise InvalidInput(f"{other!r} includes itself", where=place, hint="leave it out")
        _collect(other, specs, source, entries, (*above, name))
    entries += [entry for entry in specs[name].scenarios if entry not in entries]
