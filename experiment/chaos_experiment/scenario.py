"""A scenario as its file says it: models of the format, and their JSON Schema.

What the fields mean together (parameters filled in, times counted, faults and probes
checked) is ``load``'s; docs/scenarios.md is the format's reference.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
    model_validator,
)

from chaos_core.units import Duration, Percent
from chaos_experiment.targets import Target, listed, texts

MAX_STEPS: Final = 100
MAX_TIMELINE: Final = Duration.parse("3600s")
MAX_PHASE: Final = Duration.parse("1800s")  # baseline, and recovery
HOOK_WATCHED: Final = Duration.parse("10s")
NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}")


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise ValueError(
            f"{text!r} is not a name: small letters, digits, _ and -, a letter first, at most 32"
        )
    return text


def _some(value: Duration) -> Duration:
    if not value:
        raise ValueError("must be above 0s")
    return value


def _phase(value: Duration) -> Duration:
    if value > MAX_PHASE:
        raise ValueError(f"must be at most {MAX_PHASE}")
    return value


Name = Annotated[str, AfterValidator(_name)]
Span = Annotated[Duration, AfterValidator(_some)]
Phase = Annotated[Duration, AfterValidator(_some), AfterValidator(_phase)]
Scalar = Annotated[str, WithJsonSchema({"type": ["string", "number", "boolean"]})]
Values = dict[Name, Scalar]
Text = Annotated[str, Field(max_length=4000)]
Conditions = Annotated[tuple[str, ...], Field(max_length=32)]
Targets = Annotated[tuple[str, ...], BeforeValidator(listed), texts("web")]


class Part(BaseModel):
    """A part of the file: what it does not know is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Recovery(Part):
    """When it counts as recovered."""

    within: Phase = Field(
        default=Duration.parse("60s"), description="steady again at the latest then"
    )
    stable: Phase = Field(default=Duration.parse("5s"), description="and as long without a break")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.stable > self.within:
            raise ValueError(f"stable {self.stable} is longer than within {self.within}")
        return self


class SloTargets(Part):
    """What is promised to users; what is left out is not asked for."""

    mttr: Duration | None = Field(
        default=None, description="from the first bad condition until steady"
    )
    error_rate: Percent | None = Field(default=None, description="of all requests, at most")
    availability: Percent | None = Field(default=None, description="at least")
    latency_added: Duration | None = Field(default=None, description="to p99, at most")
    recovery: Duration | None = Field(
        default=None, description="from the last fault's end until steady"
    )

    @model_validator(mode="after")
    def _shares(self) -> Self:
        for name in ("error_rate", "availability"):
            if (getattr(self, name) or 0) > 1_000_000:
                raise ValueError(f"{name} is at most 100%")
        return self


class Item(Part):
    """What all items of a timeline have."""

    at: Duration | None = Field(
        default=None,
        description="when, from the start of what it is in; default: when the one before ends",
    )


class FaultItem(Item):
    """A fault on the nodes of a target, for a while."""

    fault: str = Field(description="its kind, like network.latency: `chaosctl faults`")
    length: Span = Field(alias="for", description="how long it is in force, at most 300s")
    on: Targets = Field(
        default=(), description="names of targets; may be left out if there is one only"
    )
    params: dict[str, Any] = Field(default={}, alias="with", description="the fault's parameters")
    note: Text = Field(default="", description="for the timeline: why")


class RampSpec(Part):
    """How a parameter grows: evenly, in so many sub-steps of the same length."""

    param: str
    start: Scalar = Field(alias="from")
    to: Scalar
    steps: int = Field(default=5, ge=2, le=20)


class RampItem(FaultItem):
    """A fault that grows."""

    ramp: RampSpec


class HookItem(Item):
    """An allow-listed hook of the nodes' own: the fault hook.run."""

    hook: str = Field(min_length=1)
    length: Span = Field(default=HOOK_WATCHED, alias="for", description="how long it is watched")
    on: Targets = Field(
        default=(), description="names of targets; may be left out if there is one only"
    )
    note: Text = ""


class PauseItem(Part):
    """Nothing new begins for a while."""

    pause: Span


class NoteItem(Item):
    """A line for the timeline."""

    note: Annotated[Text, Field(min_length=1)]


def _not_empty(value: tuple[Part, ...]) -> tuple[Part, ...]:
    if not 0 < len(value) <= MAX_STEPS:
        raise ValueError(f"{len(value)} items; 1 to {MAX_STEPS} are expected")
    return value


class ParallelItem(Item):
    """All of these begin together; it ends with the last of them."""

    parallel: Items


class RepeatSpec(Part):
    """So many rounds, one beginning every so often."""

    times: int = Field(ge=1, le=MAX_STEPS)
    every: Duration | None = Field(
        default=None, description="default: as soon as the round before ends"
    )
    do: Items


class RepeatItem(Item):
    """The same several times."""

    repeat: RepeatSpec


ITEMS: Final[Mapping[str, type[Part]]] = {
    "ramp": RampItem,
    "fault": FaultItem,
    "hook": HookItem,
    "pause": PauseItem,
    "parallel": ParallelItem,
    "repeat": RepeatItem,
    "note": NoteItem,
}


def _kind(value: Any) -> str | None:
    keys = value if isinstance(value, dict) else vars(value) if isinstance(value, Part) else ()
    return next((name for name in ITEMS if name in keys), None)


AnyItem = Annotated[
    Annotated[RampItem, Tag("ramp")]
    | Annotated[FaultItem, Tag("fault")]
    | Annotated[HookItem, Tag("hook")]
    | Annotated[PauseItem, Tag("pause")]
    | Annotated[ParallelItem, Tag("parallel")]
    | Annotated[RepeatItem, Tag("repeat")]
    | Annotated[NoteItem, Tag("note")],
    Discriminator(
        _kind,
        custom_error_type="item",
        custom_error_message="an item is one of: fault, ramp, hook, pause, parallel, repeat, note",
    ),
]

# (Not by pydantic's own bounds, which count only the items that are good.)
Items = Annotated[tuple[AnyItem, ...], AfterValidator(_not_empty)]


def _slo_kind(value: Any) -> str:
    nested = isinstance(value, dict) and any(isinstance(each, dict) for each in value.values())
    return "each" if nested else "flat"


AnySlo = Annotated[
    Annotated[SloTargets, Tag("flat")] | Annotated[dict[Name, SloTargets], Tag("each")],
    Discriminator(_slo_kind),
]


class Scenario(Part):
    """One experiment: what «well» means, how it is hurt, what is expected of it."""

    title: Annotated[str, Field(min_length=1, max_length=120)]
    hypothesis: Text = Field(default="", description="what is believed, in words")
    tags: Annotated[tuple[Name, ...], BeforeValidator(listed), texts("network")] = ()
    needs: Text = Field(default="", description="what must be there, in words")
    expect: Text = Field(default="", description="what one should see, in words")
    failure_means: Text = Field(default="", description="what it says when it fails, in words")
    params: Values = Field(
        default={}, description="values for ${name}; --set name=value changes them"
    )
    levels: dict[Name, Values] = Field(
        default={}, description="named sets of params: --level heavy"
    )
    environments: dict[Name, Values] = Field(
        default={}, description="the same by place: --env staging"
    )
    environment: str = Field(default="", description="the environment unless --env says another")
    targets: dict[Name, Target] = Field(min_length=1, description="which nodes, by a name")
    probes: dict[Name, dict[str, dict[str, Any]]] = Field(
        default={}, description="what is looked at, by a name: one kind with its parameters each"
    )
    preflight: Conditions = Field(default=(), description="must hold before anything begins")
    baseline: Phase = Field(
        default=Duration.parse("30s"), description="how long it is watched before"
    )
    steady_state: Conditions = Field(
        default=(), description="must hold over the baseline, and again after"
    )
    during: Conditions = Field(default=(), description="must hold while faults are in force")
    abort_when: Conditions = Field(default=(), description="whichever holds ends it all, at once")
    grace: Phase = Field(
        default=Duration.parse("5s"),
        description="an abort condition that cannot be told so long, holds",
    )
    recovery: Recovery = Recovery()
    slo: AnySlo = SloTargets()
    timeline: Items
