"""The faults, one module each. Adding one is adding a file here and its test.

A fault is a pydantic model of its parameters with a ``kind``, a ``draw`` from
the envelope and a pure ``compile`` to effects. Modules are discovered by being
here; a name that starts with an underscore is a helper. Others add kinds by entry points
(``_plugins.py``).
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from chaos_core.effects import Effect
from chaos_core.envelope import Draw
from chaos_core.errors import InvalidInput
from chaos_core.faults import _plugins
from chaos_core.node import NOTHING, Asks, NodeView
from chaos_core.units import Duration

_SHOWN = 8  # problems of one set of parameters
_SHOWN_NAMES = 40
_LONGEST_NAME = 64


class Fault(BaseModel, ABC):
    """One kind of fault with its parameters. Subclasses set the class variables.

    ``risky`` faults ask for confirmation. One that ``takes_down`` is in force when its node
    goes away, and over when that is back in another boot. ``needs`` names what ``doctor`` must
    find on the host. ``lease_holder`` says in words who ends the fault when
    every process of ours is dead.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: ClassVar[str]
    summary: ClassVar[str]
    lease_holder: ClassVar[str]
    example: ClassVar[str]
    risky: ClassVar[bool] = False
    takes_down: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def draw(self) -> Draw:
        """What this fault takes from the envelope, in the worst case."""

    def asks(self) -> Asks:
        """What ``compile`` must know of the node beside what every fault gets."""
        return NOTHING

    def again(self) -> Duration | None:
        """How often it is done anew until its end, on what there is by then; None for once.

        Only what is over at once may be: nobody would undo the rounds.
        """
        return None

    @abstractmethod
    def compile(self, node: NodeView, fault_id: str) -> tuple[Effect, ...]:
        """The effects on ``node``, in the order in which they are applied. Pure.

        Raises InvalidInput or Refused when the parameters make no sense there.
        """


@cache
def kinds() -> Mapping[str, type[Fault]]:
    """Every known fault by its kind, sorted."""
    return dict(sorted({**_built_in(), **_plugged_in()[0]}.items()))


def problems() -> tuple[str, ...]:
    """Why kinds of others are not there, a line each."""
    return _plugged_in()[1]


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of every kind with its parameters, for editors and forms."""
    schemas = {kind: cls.model_json_schema() for kind, cls in kinds().items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A fault and its parameters",
        "type": "object",
        "required": ["kind", "params"],
        "properties": {"kind": {"enum": list(schemas)}, "params": {"type": "object"}},
        "oneOf": [
            {
                "description": kinds()[kind].summary,
                "properties": {"kind": {"const": kind}, "params": schema},
            }
            for kind, schema in schemas.items()
        ],
    }


@cache
def _plugged_in() -> tuple[Mapping[str, type[Fault]], tuple[str, ...]]:
    return _plugins.load(Fault, _built_in())


def _built_in() -> Mapping[str, type[Fault]]:
    found: dict[str, type[Fault]] = {}
    for module in pkgutil.iter_modules(__path__):
        if module.name.startswith("_"):
            continue
        members = vars(importlib.import_module(f"{__name__}.{module.name}")).values()
        for member in members:
            if isinstance(member, type) and issubclass(member, Fault) and "kind" in vars(member):
                found[member.kind] = member
    return found


def lookup(kind: str) -> type[Fault]:
    """The fault of that kind. Raises InvalidInput with the nearest name."""
    try:
        return kinds()[kind]
    except KeyError:
        raise InvalidInput(f"unknown fault {kind!r}", hint=nearest(kind, kinds())) from None


def nearest(name: str, known: Mapping[str, object]) -> str:
    """A hint: the nearest known name, or the first of them. No name of ours is long."""
    close = difflib.get_close_matches(name[:_LONGEST_NAME], known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    more = ", …" if len(known) > _SHOWN_NAMES else ""
    return f"one of: {', '.join(list(known)[:_SHOWN_NAMES])}{more}"


def from_words(words: Iterable[str]) -> dict[str, str]:
    """``key=value`` words, as on a command line, as a mapping. Raises InvalidInput."""
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise InvalidInput(f"{word!r} is not a parameter", hint="write it like delay=50ms")
        if key in found:
            raise InvalidInput(f"parameter {key!r} is given twice", hint="a list is one: a,b,c")
        found[key] = value
    return found


def parse(kind: str, params: Mapping[str, Any]) -> Fault:
    """Check ``params`` against the kind's model. Raises InvalidInput naming each wrong field."""
    cls = lookup(kind)
    try:
        return cls.model_validate(dict(params))
    except ValidationError as error:
        found = error.errors(include_url=False)[:_SHOWN]
        problems = [explain(cls, problem) for problem in found]
        more = error.error_count() - len(problems)
        text = "; ".join([*problems, f"and {more} more"] if more else problems)
        raise InvalidInput(text, where=kind) from None


def explain(cls: type[Fault], problem: Any) -> str:
    """One of pydantic's errors, in our words."""
    field = str(problem["loc"][0]) if problem["loc"] else ""
    if problem["type"] == "extra_forbidden":
        hint = nearest(field, cls.model_fields) if cls.model_fields else "it takes none"
        return f"unknown parameter {field!r} ({hint})"
    if problem["type"] == "missing":
        return f"parameter {field!r} is required (for example {cls.example})"
    text = problem["msg"].removeprefix("Value error, ")
    return f"{field}: {text}" if field else text
