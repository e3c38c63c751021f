"""The hard limits. This file is meant to be read by an auditor, top to bottom.

A node's profile is named in a file on that node that only root can write; that
file may lower a ceiling and nothing can raise one. The agent checks every
request against its envelope, whatever the controller has said about it before.
Sums count: two 10 % CPU faults on a node are 20 %.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

from chaos_core.errors import EnvelopeExceeded, InvalidInput
from chaos_core.units import ByteSize, Duration, Percent

# Nothing lasts longer, in any profile, whatever its kind.
MAX_DURATION = Duration.parse("300s")

# No node carries more at once, in any profile, whatever they draw.
MAX_FAULTS = 16

# What a fault is, for the ceilings on its duration.
# A ``hook`` takes nothing that could be counted, and is over at once: the kernel drops its page
# cache, or what root has put on the node's own list is run. It is allowed in every profile.
FaultClass = Literal["latency", "loss", "cpu", "memory", "hook", "destructive"]
NodesAtOnce = Literal["one", "minority", "all"]


@dataclass(frozen=True, slots=True)
class Draw:
    """What one fault takes from its node's envelope, in the worst case."""

    fault_class: FaultClass
    latency: Duration = Duration(0)  # delay + jitter
    loss: Percent = Percent(0)  # sum of all that loses packets
    cpu: Percent = Percent(0)  # share of the whole node
    memory: Percent = Percent(0)  # share of the node's total
    memory_size: ByteSize = ByteSize(0)  # beside that; counted where the total is known: ``on``

    def on(self, memory_total: int) -> Draw:
        """The same on a node with so many bytes: the size is a share of them, rounded up."""
        share = -(-int(self.memory_size) * 1_000_000 // memory_total)
        return replace(self, memory=Percent(self.memory + share), memory_size=ByteSize(0))


@dataclass(frozen=True, slots=True)
class Envelope:
    """The ceilings of one node. ``nodes`` is of the fleet: a count, ``minority`` or ``all``."""

    profile: str
    latency: Duration
    loss: Percent
    cpu: Percent
    memory: Percent
    nodes: NodesAtOnce
    runs: int
    duration_latency: Duration
    duration_loss: Duration
    duration_cpu: Duration
    duration_memory: Duration
    destructive: bool  # partition, kill, stop, clock, disk, tamper, reboot


PROFILES: dict[str, Envelope] = {
    "production": Envelope(
        profile="production",
        latency=Duration.parse("50ms"),
        loss=Percent.parse("1%"),
        cpu=Percent.parse("15%"),
        memory=Percent.parse("10%"),
        nodes="one",
        runs=1,
        duration_latency=Duration.parse("300s"),
        duration_loss=Duration.parse("60s"),
        duration_cpu=Duration.parse("60s"),
        duration_memory=Duration.parse("60s"),
        destructive=False,
    ),
    "staging": Envelope(
        profile="staging",
        latency=Duration.parse("500ms"),
        loss=Percent.parse("5%"),
        cpu=Percent.parse("50%"),
        memory=Percent.parse("30%"),
        nodes="minority",
        runs=1,
        duration_latency=MAX_DURATION,
        duration_loss=MAX_DURATION,
        duration_cpu=MAX_DURATION,
        duration_memory=MAX_DURATION,
        destructive=True,
    ),
    "lab": Envelope(
        profile="lab",
        latency=Duration.parse("30s"),
        loss=Percent.parse("100%"),
        cpu=Percent.parse("90%"),
        memory=Percent.parse("80%"),
        nodes="all",
        runs=4,
        duration_latency=MAX_DURATION,
        duration_loss=MAX_DURATION,
        duration_cpu=MAX_DURATION,
        duration_memory=MAX_DURATION,
        destructive=True,
    ),
}

DEFAULT_PROFILE = "production"

_ADDED_UP = ("latency", "loss", "cpu", "memory")
_LOWERED_ONLY = (
    *_ADDED_UP,
    "runs",
    "duration_latency",
    "duration_loss",
    "duration_cpu",
    "duration_memory",
)


def lowered(profile: str, ceilings: dict[str, object]) -> Envelope:
    """The named profile with some ceilings lowered, as the agent's own file says.

    ``ceilings`` maps field names to values of the field's type. Raises
    InvalidInput on an unknown profile or field, or on a value above the profile's.
    """
    if profile not in PROFILES:
        raise InvalidInput(f"unknown profile {profile!r}", hint=f"one of: {', '.join(PROFILES)}")
    base = PROFILES[profile]
    for name, value in ceilings.items():
        if name not in _LOWERED_ONLY:
            raise InvalidInput(
                f"unknown ceiling {name!r}", hint=f"one of: {', '.join(_LOWERED_ONLY)}"
            )
        ceiling = getattr(base, name)
        if not isinstance(value, type(ceiling)) or isinstance(value, bool):
            raise InvalidInput(f"ceiling {name!r} must be like {ceiling}")
        if value > ceiling:
            raise InvalidInput(
                f"ceiling {name} = {value} is above the {profile} profile's {ceiling}",
                hint="a ceiling can only be lowered",
            )
    return replace(base, **ceilings)  # type: ignore[arg-type]


def check(
    envelope: Envelope, wanted: Draw, duration: Duration, in_force: Iterable[Draw] = ()
) -> None:
    """Raise EnvelopeExceeded, naming the ceiling, unless ``wanted`` fits beside ``in_force``.

    The agent, which decides, gives each draw as it is ``on`` its node; who does not know
    the node's memory cannot count what is asked for in bytes.
    """
    name = envelope.profile
    if wanted.fault_class == "destructive" and not envelope.destructive:
        raise EnvelopeExceeded(f"faults of this kind are refused in profile {name}")
    longest = MAX_DURATION
    if wanted.fault_class not in ("hook", "destructive"):
        longest = min(longest, getattr(envelope, f"duration_{wanted.fault_class}"))
    if duration <= 0:
        raise EnvelopeExceeded("a fault needs a duration above zero", hint="for example 60s")
    if duration > longest:
        raise EnvelopeExceeded(
            f"duration {duration} is above the ceiling of {longest}"
            f" for {wanted.fault_class} in profile {name}"
        )
    others = list(in_force)
    if len(others) >= MAX_FAULTS:
        raise EnvelopeExceeded(
            f"{len(others)} faults are on this node already, as many as there may be at once"
        )
    for what in _ADDED_UP:
        ceiling = getattr(envelope, what)
        total = sum(getattr(draw, what) for draw in (*others, wanted))
        if total > ceiling and getattr(wanted, what):
            kind = type(ceiling)
            among = f" (with {kind(total - getattr(wanted, what))} in force)" if others else ""
            raise EnvelopeExceeded(
                f"{what} {kind(getattr(wanted, what))}{among}"
                f" is above the ceiling of {ceiling} in profile {name}"
            )


def whole(run: str) -> str:
    """The run that a step belongs to: step ``r-2k7qd-1`` is of the experiment ``r-2k7qd``."""
    return "-".join(run.split("-")[:2])


def check_runs(envelope: Envelope, run: str, in_force: Iterable[str]) -> None:
    """Raise EnvelopeExceeded if ``run`` would be one run too many on this node.

    The steps of one experiment are one run.
    """
    runs = {whole(each) for each in (*in_force, run)}
    if len(runs) > envelope.runs:
        raise EnvelopeExceeded(
            f"{len(runs) - 1} run(s) already on this node, profile {envelope.profile}"
            f" allows {envelope.runs}",
            hint="wait for the running one, or abort it",
        )


def as_json(envelope: Envelope) -> dict[str, str | int | bool]:
    """The envelope as the agent advertises it: quantities as text with units."""
    return {
        field.name: str(value) if isinstance(value, Duration | Percent) else value
        for field in fields(envelope)
        for value in [getattr(envelope, field.name)]
    }


def from_json(data: dict[str, object]) -> Envelope:
    """Read what ``as_json`` wrote. Raises InvalidInput on anything else."""
    try:
        base = PROFILES[str(data["profile"])]
        values: dict[str, object] = {}
        for field in fields(Envelope):
            default = getattr(base, field.name)
            value = data[field.name]
            if isinstance(default, Duration | Percent):
                values[field.name] = type(default).parse(str(value))
            elif type(value) is type(default):
                values[field.name] = value
            else:
                raise TypeError(f"{field.name} is {value!r}")
        if values["nodes"] not in get_args(NodesAtOnce):
            raise ValueError(f"nodes is {values['nodes']!r}")
        return Envelope(**values)  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput(f"not an envelope: {error}") from None
