"""Types of parameters that several faults share."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from chaos_core.units import Percent


def _some_of_all(value: Percent) -> Percent:
    if not 0 < value <= 1_000_000:
        raise ValueError("must be above 0% and at most 100%")
    return value


Share = Annotated[Percent, AfterValidator(_some_of_all)]
"""A part of a whole: above 0 % and at most 100 %."""
