"""Types of parameters that several faults share."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from chaos_core.envelope import MAX_DURATION
from chaos_core.units import Duration, Percent


def _some_of_all(value: Percent) -> Percent:
    if not 0 < value <= 1_000_000:
        raise ValueError("must be above 0% and at most 100%")
    return value


def _at_most_all(value: Percent) -> Percent:
    if value > 1_000_000:
        raise ValueError("must be at most 100%")
    return value


def _at_most_longest(value: Duration) -> Duration:
    if value > MAX_DURATION:
        raise ValueError(f"no fault lasts longer than {MAX_DURATION}")
    return value


Share = Annotated[Percent, AfterValidator(_some_of_all)]
"""A part of a whole: above 0 % and at most 100 %."""

OptionalShare = Annotated[Percent, AfterValidator(_at_most_all)]
"""The same where another parameter may stand in its place: 0 % is none given."""

Ramp = Annotated[Duration, AfterValidator(_at_most_longest)]
"""The time in which what is taken grows evenly; 0 is at once."""
