"""How much a fault has hit so far, by the kernel's own counters.

A fault can be configured exactly as asked and still do nothing: on another interface than
the traffic's, behind another program's rule, next to a busier cgroup. So its status says what it
hit. What is not counted for a kind of fault has no ``Hits`` at all, and never a zero.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from chaos_core.text import printable

Unit = Literal[
    "packets",
    "connections",
    "cpu_us",  # µs of CPU time
    "bytes",
    "files",
    "throttled periods",
    "reclaims",
    "refused forks",
    "processes",
    "restarts",
    "flushes",
    "hook runs",
]
UNITS: tuple[Unit, ...] = get_args(Unit)
MAX_NOTE = 200
_CALLED = {"cpu_us": "of CPU time"}
Counted = Annotated[int, Field(ge=0, lt=2**63)]


class Hits(BaseModel):
    """What a fault hit while it was on the node, in ``unit``.

    ``seen`` is how much there was that it could have hit: traffic to or from the peers, by
    whatever interface. None: that is not counted. ``asked`` is how much it was to take by
    now, for a fault that takes something. ``note`` is one more fact, for people.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    count: Counted
    unit: Unit
    seen: Counted | None = None
    asked: Counted | None = None
    note: Annotated[str, AfterValidator(partial(printable, limit=MAX_NOTE))] = ""

    @property
    def missed(self) -> bool:
        """Whether nothing was hit although there was something to hit."""
        return self.count == 0 and bool(self.seen or self.asked)

    @property
    def idle(self) -> bool:
        """Whether nothing was hit because there was nothing to hit."""
        return self.count == 0 and self.seen == 0

    def __str__(self) -> str:
        """Like ``412 of 9000 packets``."""
        whole = self.asked if self.seen is None else max(self.seen, self.count)
        parts = [_amount(self.count, self.unit)]
        if whole is not None:
            parts = [_bare(self.count, self.unit), "of", _amount(whole, self.unit)]
        text = " ".join(parts)
        return f"{text} ({self.note})" if self.note else text


def add(counts: Iterable[Hits | None]) -> Hits | None:
    """The sum over the parts of one fault; None when none of them is counted.

    Connections that are counted by the packet that opens them and other packets add up to
    packets. Else parts of different units do not: those of the first one's unit count.
    """
    given = [each for each in counts if each is not None]
    if not given:
        return None
    unit = given[0].unit
    if {each.unit for each in given} == {"connections", "packets"}:
        unit, same = "packets", given
    else:
        same = [each for each in given if each.unit == unit]
    seen = [each.seen for each in same if each.seen is not None]
    asked = [each.asked for each in same if each.asked is not None]
    return Hits(
        count=sum(each.count for each in same),
        unit=unit,
        seen=sum(seen) if seen else None,
        asked=sum(asked) if asked else None,
        note="; ".join(dict.fromkeys(each.note for each in same if each.note)),
    )


def _amount(count: int, unit: Unit) -> str:
    return f"{_bare(count, unit)} {_CALLED.get(unit, unit)}" if unit != "bytes" else _bytes(count)


def _bare(count: int, unit: Unit) -> str:
    if unit == "cpu_us":
        return f"{count / 1_000_000:.1f} s"
    return _bytes(count) if unit == "bytes" else str(count)


def _bytes(count: int) -> str:
    for size, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= size:
            return f"{count / size:.1f} {name}"
    return f"{count} bytes"
