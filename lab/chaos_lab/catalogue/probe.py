"""What a kind is measured by. All of it runs beside the agent, none of it asks the agent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from chaos_lab.drill.context import Drill

NODE, PEER, OTHER = "n1", "n2", "n3"  # who is hurt, who is far from it, and a bystander


class Probe(ABC):
    """A context of the time in which the node is watched."""

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, *_: object) -> None:
        """Stop watching."""

    @abstractmethod
    def base(self) -> None:
        """Look at the node as it is without the fault."""

    @abstractmethod
    def during(self) -> tuple[str, bool]:
        """The effect, for people, and whether it is what was asked. The fault is in force."""

    @abstractmethod
    def gone_after(self, since: float) -> float:
        """Seconds from ``since`` until the effect was gone for good."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One kind with parameters. In those, ``{n2}`` is that VM's address, ``{n2_6}`` its IPv6 and
    ``{n2_side}`` that of its second interface.

    ``asked`` is what must be measured, with its bounds. ``lasts`` is false for what is
    over at once. ``nodes`` are those of the run; whatever is cut off, NODE is among those
    that carry the fault.
    """

    kind: str
    params: str
    asked: str
    probe: Callable[[Drill], Probe]
    lasts: bool = True
    nodes: tuple[str, ...] = (NODE,)
    reboots: bool = False

    def words(self, drill: Drill) -> tuple[str, ...]:
        """Kind and parameters as ``chaosctl inject`` takes them."""
        seats = {name: drill.fleet.seat(name) for name in drill.fleet.names}
        places = {name: seat.ip for name, seat in seats.items()}
        places |= {f"{name}_6": seat.ip6 for name, seat in seats.items()}
        places |= {f"{name}_side": seat.side_ip for name, seat in seats.items()}
        return (self.kind, *self.params.format(**places).split())
