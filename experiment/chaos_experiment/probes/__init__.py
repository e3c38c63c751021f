"""The probes, one module each. Adding one is adding a file here and its test.

A probe is a pydantic model of its parameters that can look once (``measure``). Modules are
discovered by being here; a name that starts with an underscore is a helper. Libraries that
talk to a system are imported when it first looks, so that checking a scenario loads none.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from chaos_core.units import Duration
from chaos_experiment.series import Observation

Unit = Literal["duration", "percent", ""]
Emit = Callable[[Observation], None]


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


class Probe(BaseModel, ABC):
    """One kind of probe with its parameters. Subclasses set the class variables.

    ``unit`` is that of its values. A look that takes longer than ``timeout`` has failed;
    one that failed is repeated ``retries`` times before it counts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: ClassVar[str]
    summary: ClassVar[str]
    example: ClassVar[Mapping[str, Any]]
    unit: ClassVar[Unit] = ""

    mode: Mode = Field(Mode.CONTINUOUS, description="when it looks")
    interval: Duration = Field(Duration.parse("1s"), description="time between two looks")
    timeout: Duration = Field(Duration.parse("2s"), description="a look that takes longer failed")
    retries: int = Field(0, ge=0, le=10, description="looks again before a failure counts")
    initial_delay: Duration = Field(Duration(0), description="time before the first look")

    @abstractmethod
    def hosts(self) -> tuple[str, ...]:
        """The hosts that it talks to: names or addresses."""

    @abstractmethod
    async def measure(self) -> Seen:
        """Look once. What the system does wrong is a Seen that is not ok, never an exception."""


@cache
def kinds() -> Mapping[str, type[Probe]]:
    """Every known probe by its kind, sorted."""
    found: dict[str, type[Probe]] = {}
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            for value in vars(importlib.import_module(f"{__name__}.{module.name}")).values():
                if isinstance(value, type) and issubclass(value, Probe) and hasattr(value, "kind"):
                    found[value.kind] = value
    return dict(sorted(found.items()))
