"""The probes, one module each. Adding one is adding a file here and its test.

A probe is a pydantic model of its parameters that can look once (``measure``). When it
looks is the driver's business (``_watch``), the same for all kinds. Modules are discovered by
being here; a name that starts with an underscore is a helper. Libraries that talk to a system
are imported when it first looks, so that checking a scenario loads none.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache, partial
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from chaos_core.errors import InvalidInput
from chaos_core.units import MILLISECOND, SECOND, Duration
from chaos_experiment.series import Observation

Network = IPv4Network | IPv6Network
Unit = Literal["duration", "percent", ""]
Emit = Callable[[Observation], None]

# What a scenario calls something by that only the controller has: a secret, a command.
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]


class Place(StrEnum):
    """Where a kind of probe can look from."""

    CONTROLLER = "controller"
    EITHER = "either"
    NODE = "node"


class Mode(StrEnum):
    """When a probe looks, as in Litmus: at the start (before the faults), at the end (after
    them), at both edges, from start to end, or while faults are in force."""

    START = "start"
    END = "end"
    EDGE = "edge"
    CONTINUOUS = "continuous"
    DURING = "during"


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look found: see ``series.Observation``."""

    ok: bool
    value: float | None = None
    text: str = ""


Look = Callable[[], Awaitable[Seen]]


@dataclass(frozen=True, slots=True)
class Context:
    """What only the machine that looks has. A scenario names it and never brings it.

    ``commands`` are argument vectors by name. The secret NAME is the first line of the file
    of that name in ``secrets``, or else the environment's ``CHAOS_SECRET_NAME``.
    """

    commands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    secrets: Path = Path("/etc/chaos/secrets")

    def secret(self, name: str) -> str:
        """Raises InvalidInput when it is not there."""
        variable = f"CHAOS_SECRET_{name.upper().replace('-', '_')}"
        file = self.secrets / name
        try:
            return file.read_text(encoding="utf-8").partition("\n")[0]
        except FileNotFoundError:
            if variable in os.environ:
                return os.environ[variable]
            raise InvalidInput(
                f"this machine has no secret {name!r}", hint=f"write {file} or set {variable}"
            ) from None
        except (OSError, UnicodeDecodeError):
            raise InvalidInput(f"{file} cannot be read") from None


def _between(least: Duration, most: Duration) -> AfterValidator:
    def check(value: Duration) -> Duration:
        if not least <= value <= most:
            raise ValueError(f"{value} is not between {least} and {most}")
        return value

    return AfterValidator(check)


Interval = Annotated[Duration, _between(Duration(100 * MILLISECOND), Duration(3600 * SECOND))]
Timeout = Annotated[Duration, _between(MILLISECOND, Duration(60 * SECOND))]


class Probe(BaseModel, ABC):
    """One kind of probe with its parameters. Subclasses set the class variables.

    A look that takes longer than ``timeout`` has failed; one that failed is repeated
    ``retries`` times before it counts. ``look_from`` is ``from`` in a scenario; what kinds that
    look from nodes may do there is ``chaos_experiment.offer``'s.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: ClassVar[str]
    summary: ClassVar[str]
    example: ClassVar[Mapping[str, Any]]
    place: ClassVar[Place] = Place.CONTROLLER

    look_from: str = Field(
        default="",
        alias="from",
        max_length=32,
        description="a target whose nodes look, each of them; the controller unless said",
    )
    mode: Mode = Field(default=Mode.CONTINUOUS, description="when it looks")
    interval: Interval = Field(default=Duration.parse("1s"), description="time between two looks")
    timeout: Timeout = Field(default=Duration.parse("2s"), description="a longer look failed")
    retries: int = Field(default=0, ge=0, le=10, description="looks again before a failure counts")
    initial_delay: Duration = Field(default=Duration(0), description="time before the first look")

    @property
    def unit(self) -> Unit:
        """That of its values."""
        return ""

    @property
    def latency(self) -> bool:
        """Whether its value is the time that the look took: tries before it add to it."""
        return False

    def due(self, number: int) -> int:
        """When look ``number`` (from 0) is due, in µs after the first."""
        return number * self.interval

    @abstractmethod
    def hosts(self) -> tuple[str, ...]:
        """The hosts that it talks to: names or addresses. None for this machine itself."""

    def load(self) -> tuple[str, int] | None:
        """The host and the port that it sends more to than a look at a time; None if none."""
        return None

    @abstractmethod
    async def measure(self, context: Context) -> Seen:
        """Look once. What the system does wrong is a Seen that is not ok; what looking
        itself raises (OSError, …) becomes one in ``_watch``."""

    @asynccontextmanager
    async def session(self, context: Context) -> AsyncIterator[Look]:
        """What looks many times. A kind that keeps connections open overrides it."""
        yield partial(self.measure, context)

    async def check(self, context: Context) -> None:
        """Raise InvalidInput for what waiting will not mend, such as a query that cannot be
        parsed; its ``where`` names the field. What nobody can tell now passes: preflight looks."""


@cache
def kinds() -> Mapping[str, type[Probe]]:
    """Every known probe by its kind, sorted."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    found = [kind for name in modules if not name.startswith("_") for kind in _defined(name)]
    return {kind.kind: kind for kind in sorted(found, key=lambda kind: kind.kind)}


def lookup(name: str) -> type[Probe]:
    """One kind, loading no other's module. Raises KeyError."""
    modules = {module.name for module in pkgutil.iter_modules(__path__)}
    if name.startswith("_") or name not in modules:
        raise KeyError(name)
    return next(kind for kind in _defined(name) if kind.kind == name)


def _defined(module: str) -> Iterator[type[Probe]]:
    for value in vars(importlib.import_module(f"{__name__}.{module}")).values():
        if isinstance(value, type) and issubclass(value, Probe) and hasattr(value, "kind"):
            yield value
