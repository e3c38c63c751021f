"""What an organisation asks of every experiment, whatever its scenario says. Pure.

A file of the controller's machine, in root's hand: probes, conditions without which nothing
begins (``preflight``), conditions that are only told (``advice``), and conditions that end
whatever is going on (``abort_when``). Each has a name and says why it is asked::

    probes:
      backup: {command: {command: backup-age, interval: 30s}}
    preflight:
      - name: The backup is recent
        condition: backup.value < 24
        why: what an experiment breaks for good is as old as the backup

A scenario neither sees nor changes them: it is refused when it gives a probe a site's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError

from chaos_core.errors import InvalidInput
from chaos_experiment import probes, wording
from chaos_experiment.conditions import Condition
from chaos_experiment.load import Loaded, Loader
from chaos_experiment.params import mapping, text_of
from chaos_experiment.probes import Place, Probe
from chaos_experiment.scenario import Name, Part, Text
from chaos_experiment.source import Source, read

_PARTS: Final = ("preflight", "advice", "abort_when")
# Advice is seen when preflight is.
_SEEN_AS: Final = {"advice": "preflight"}


class Rule(Part):
    """A condition with a name, and why it is asked."""

    name: Annotated[str, Field(min_length=1, max_length=80)]
    condition: str
    why: Text = ""


Rules = Annotated[tuple[Rule, ...], Field(max_length=32)]


class SiteSpec(Part):
    """The file as it is written."""

    probes: dict[Name, dict[str, dict[str, Any]]] = Field(default={})
    preflight: Rules = ()
    advice: Rules = ()
    abort_when: Rules = ()


@dataclass(frozen=True, slots=True)
class Site:
    """A file that makes sense."""

    source: Source
    probes: Mapping[str, Probe]
    preflight: tuple[Condition, ...] = ()
    advice: tuple[Condition, ...] = ()
    abort_when: tuple[Condition, ...] = ()

    def joined(self, loaded: Loaded) -> Loaded:
        """The scenario with all that the site asks. Raises InvalidInput where names collide."""
        for name in self.probes:
            if name in loaded.scenario.probes:
                where = self.source.line(("probes", name))
                raise InvalidInput(
                    f"probe {name!r} is also one of this site's ({where})",
                    where=loaded.place(name),
                    hint="give it another name",
                )
        plan = replace(
            loaded.plan,
            preflight=(*self.preflight, *loaded.plan.preflight),
            advice=self.advice,
            abort_when=(*self.abort_when, *loaded.plan.abort_when),
        )
        return replace(loaded, plan=plan, site_probes=self.probes, site_source=self.source)


def load(
    text: str, name: str = "site.yaml", *, known: Mapping[str, type[Probe]] | None = None
) -> Site:
    """Check all of it. ``known`` are the kinds of probes. Raises InvalidInput at
    file:line:field."""
    loader = Loader(read(text, name), probes.kinds() if known is None else known)
    data = loader.source.data
    try:
        SiteSpec.model_validate(data)
    except ValidationError as error:
        for each in error.errors(include_url=False):
            path = tuple(part for part in each["loc"] if part != "[key]")
            loader.problem(path, *wording.words(each, Rule if len(path) > 1 else SiteSpec))
    loader.give_up_if_bad()
    loader.read_probes(data)
    for probe, made in loader.probes.items():
        if made.look_from or made.place is Place.NODE:
            what = "a site's probe looks from the controller: a site has no targets"
            loader.problem(("probes", probe, made.kind), what, "another kind, without from")
    declared = mapping(data.get("probes"))
    found: dict[str, tuple[Condition, ...]] = {
        part: tuple(_rules(loader, part, data, declared)) for part in _PARTS
    }
    asked = {each.probe for rows in found.values() for each in rows}
    for probe in declared:
        if probe not in asked:
            loader.problem(("probes", probe), f"no condition asks probe {probe!r}", "ask it")
    loader.give_up_if_bad()
    return Site(loader.source, dict(loader.probes), **found)


def _rules(
    loader: Loader, part: str, data: Mapping[str, Any], declared: Mapping[str, Any]
) -> list[Condition]:
    found = []
    for number, rule in enumerate(data.get(part, ())):
        path = (part, number, "condition")
        condition = loader.condition(path, text_of(rule["condition"]), declared)
        if condition is not None:
            loader.sees(path, _SEEN_AS.get(part, part), condition, set())
            loader.often_enough(path, part, condition, None)
            found.append(replace(condition, name=rule["name"], why=rule.get("why", "")))
    return found
