"""What hostile input is made of, rolled from a seed."""

from __future__ import annotations

import json
import random
from typing import Any, TypeVar

T = TypeVar("T")

# Texts that have hurt somebody: control characters, other directions, halves, ends of lines.
NASTY = (
    "",
    "\x00",
    "\n",
    "a\nerror  forged  node=n1",
    "\x1b[2J\x1b]0;x\x07",
    "\u009b31m",
    "\u202egnp.exe",
    "\ud800",
    "ﷺ" * 200,
    "../../etc/shadow",
    "$(reboot)",
    "';--",
    "x" * 3_000,
    "r-1",
    "0a1b2c3d",
    "NaN",
    "1e999",
    "٣%",
    "%s%n",
)
NUMBERS = (0, 1, -1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30, 3_000_000)
_MANY = 10**9


class Dice(random.Random):
    """A seeded source of everything that a hostile peer may think of."""

    def one_in(self, sides: int) -> bool:
        return self.randrange(sides) == 0

    def rarely(self, usual: T, *unusual: T, sides: int = 12) -> T:
        """``usual``, but one time in ``sides`` one of the others."""
        return self.choice(unusual) if self.one_in(sides) else usual

    def text(self) -> str:
        if self.one_in(3):
            return "".join(chr(self.randrange(1, 0x2FF)) for _ in range(self.randrange(12)))
        return self.choice(NASTY)

    def wire_text(self) -> str:
        """A text that protobuf lets through: no halves of surrogate pairs."""
        return self.text().replace("\ud800", "\ufffd")

    def number(self) -> int:
        return self.choice((self.choice(NUMBERS), self.randrange(2**64), self.randrange(20)))

    def value(self, depth: int = 3) -> Any:
        """Anything that JSON can say, and some things that only Python's JSON can."""
        match self.randrange(8 if depth else 6):
            case 0:
                return None
            case 1:
                return self.one_in(2)
            case 2:
                return self.number()
            case 3:
                return self.choice((0.5, 1e308, float("nan"), float("inf"), -0.0))
            case 4 | 5:
                return self.text()
            case 6:
                return [self.value(depth - 1) for _ in range(self.randrange(4))]
            case _:
                return {self.text(): self.value(depth - 1) for _ in range(self.randrange(4))}

    def quantity(self) -> Any:
        """An amount with a unit, near what is allowed, or far from it."""
        if self.one_in(6):
            return self.value()
        amount = self.choice(
            (str(self.randrange(400)), f"{self.random() * 100:.3f}", "0", "-1", "1e3", "0.0001",
             "9" * 20, "٣", "1.", "")
        )  # fmt: skip
        return amount + self.choice(("ms", "s", "us", "m", "h", "%", "% ", "MiB", "", "MS", "‰"))

    def nested(self) -> str:
        """JSON that nests, up to what a message may hold."""
        deep = self.choice((1, 100, 500, 990, 1_100, 3_000, 4_000))
        opening, closing = self.choice((("[", "]"), ('{"a":', "}"), ("[", "")))
        return opening * deep + closing * deep

    def damaged(self, data: bytes) -> bytes:
        """``data`` with a few bytes changed, lost, added or said twice."""
        for _ in range(self.randrange(1, 4)):
            at = self.randrange(len(data) + 1)
            match self.randrange(5):
                case 0:
                    byte = (data[at : at + 1] or b"\0")[0]
                    data = data[:at] + bytes([byte ^ (1 << self.randrange(8))]) + data[at + 1 :]
                case 1:
                    data = data[:at]
                case 2:
                    data = data[:at] + data[at + 1 + self.randrange(16) :]
                case 3:
                    data = data[:at] + self.randbytes(1 + self.randrange(5)) + data[at:]
                case _:
                    data = data[:at] + data[max(0, at - self.randrange(64)) :]
        return data


def dumped(value: Any) -> str:
    """JSON as a hostile program would write it: NaN, halves of surrogate pairs and all."""
    return json.dumps(value, ensure_ascii=True)
