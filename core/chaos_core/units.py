"""Quantities with units. A bare number is refused: ``50`` says nothing, ``50ms`` does.

Each is an ``int`` underneath, so sums and comparisons are exact: ``Duration``
in microseconds, ``Percent`` in parts per million, ``ByteSize`` in bytes, ``Bandwidth``
in bits per second.
``str()`` gives the canonical text, which parses back to the same value.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from typing import Any, ClassVar, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import PydanticCustomError, core_schema

from chaos_core.errors import InvalidInput

_NUMBER = re.compile(r" *([0-9]{1,40}(?:\.[0-9]{1,40})?) *([A-Za-zµ%]*) *\Z")


class Quantity(int):
    """A non-negative integer with a unit in its text form. Base of those below.

    ``parse`` raises InvalidInput on text without a unit, with an unknown unit,
    negative, or finer than the smallest step.
    """

    units: ClassVar[dict[str, int]] = {}
    noun: ClassVar[str] = ""
    example: ClassVar[str] = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        match = _NUMBER.match(text)
        if not match:
            raise InvalidInput(f"{text!r} is not a {cls.noun}", hint=f"write it like {cls.example}")
        number, unit = match.groups()
        if not unit:
            raise InvalidInput(
                f"{text!r} has no unit", hint=f"write a {cls.noun} like {cls.example}"
            )
        if unit not in cls.units:
            known = ", ".join(cls.units)
            raise InvalidInput(
                f"unknown unit {unit!r} in {text!r}", hint=f"a {cls.noun} takes one of: {known}"
            )
        value = Fraction(number) * cls.units[unit]
        if value.denominator != 1 or value >= 2**63:
            raise InvalidInput(
                f"{text!r} is finer or larger than can be kept", hint=f"for example {cls.example}"
            )
        return cls(int(value))

    def __str__(self) -> str:
        for unit, size in sorted(self.units.items(), key=lambda item: -item[1]):
            if self and self % size == 0:
                return f"{int(self) // size}{unit}"
        return f"0{next(iter(self.units))}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[Any], handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        def check(value: object) -> Quantity:
            if isinstance(value, cls):
                return value
            try:
                if isinstance(value, str):
                    return cls.parse(value)
                raise InvalidInput(
                    f"{value!r} has no unit", hint=f"write a {cls.noun} like {cls.example}"
                )
            except InvalidInput as error:
                raise PydanticCustomError(
                    "quantity", "{what} ({hint})", {"what": error.what, "hint": error.hint}
                ) from None

        return core_schema.no_info_plain_validator_function(
            check, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string", "format": cls.noun, "examples": [cls.example]}


class Duration(Quantity):
    """A span of time in whole microseconds: ``250us``, ``50ms``, ``60s``, ``5m``."""

    units: ClassVar[dict[str, int]] = {
        "us": 1,
        "µs": 1,
        "ms": 1_000,
        "s": 1_000_000,
        "m": 60_000_000,
        "h": 3_600_000_000,
    }
    noun = "duration"
    example = "50ms"

    @property
    def seconds(self) -> float:
        return int(self) / 1_000_000

    def __str__(self) -> str:
        # Minutes only when whole and above one, so that 60s stays 60s for people.
        for unit in ("h", "m", "s", "ms"):
            size = self.units[unit]
            if self >= size and self % size == 0 and not (unit in "hm" and self == size):
                return f"{int(self) // size}{unit}"
        return f"{int(self)}us" if self else "0s"


class Percent(Quantity):
    """A share in whole parts per million: ``1%``, ``0.25%``, ``15%``."""

    units: ClassVar[dict[str, int]] = {"%": 10_000}
    noun = "percentage"
    example = "1%"

    @property
    def fraction(self) -> float:
        return int(self) / 1_000_000

    def __str__(self) -> str:
        return f"{(Decimal(int(self)) / 10_000).normalize():f}%"


class ByteSize(Quantity):
    """A size in bytes: ``512MiB``, ``1GiB``, ``100MB``."""

    units: ClassVar[dict[str, int]] = {
        "B": 1,
        "kB": 10**3,
        "MB": 10**6,
        "GB": 10**9,
        "KiB": 2**10,
        "MiB": 2**20,
        "GiB": 2**30,
        "TiB": 2**40,
    }
    noun = "size"
    example = "512MiB"

    def __str__(self) -> str:
        for unit in ("TiB", "GiB", "MiB", "KiB"):
            if self and self % self.units[unit] == 0:
                return f"{int(self) // self.units[unit]}{unit}"
        return f"{int(self)}B"


class Bandwidth(Quantity):
    """Bits per second, in powers of ten as ``tc`` has them: ``1mbit``, ``512kbit``."""

    units: ClassVar[dict[str, int]] = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
    noun = "bandwidth"
    example = "1mbit"


MICROSECOND = Duration(1)
MILLISECOND = Duration(1_000)
SECOND = Duration(1_000_000)
