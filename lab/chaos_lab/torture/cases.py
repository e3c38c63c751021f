"""What is played: kinds of faults × what is hit and how × when. Pure; drawn from a seed.

Cards are dealt from shuffled decks, so that a small sample has one of each hit before
it has two of one, and each step of a fault comes up once before one comes up twice.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Generic, Literal, TypeVar, get_args

from chaos_lab.layout import HOST_IP

Role = Literal["keeper", "link", "holder"]
ROLES: tuple[Role, ...] = get_args(Role)
Card = TypeVar("Card")


VICTIM = "victim.service"
STATE = "/var/lib/chaos-agent"  # all that the agent's unit may write on the VM's only disk


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault as it is played: strong enough to be told from any noise.

    ``where`` it is looked for: in pings to the node, in its holder processes, which can
    be hit as well, or in the state of the service ``VICTIM`` and of the node's clock.
    """

    name: str
    params: tuple[str, ...]
    where: Literal["wire", "holder", "victim"]


# What is over at once is not played, since there is no lease to hit. So with host.reboot, which
# would end the tracer as well; a reboot at each step of the others is among the HITS, and each
# entry of its own journal is replayed by tests/kernel/test_reboot.py.
KINDS = (
    Kind("network.latency", (f"peers={HOST_IP}", "delay=400ms"), "wire"),
    Kind("network.loss", (f"peers={HOST_IP}", "percent=100%"), "wire"),
    Kind("network.partition", (f"peers={HOST_IP}",), "wire"),
    Kind("network.flap", (f"peers={HOST_IP}", "down=300s", "up=1s"), "wire"),
    Kind("cpu.stress", ("percent=50%",), "holder"),
    Kind("memory.stress", ("percent=25%",), "holder"),
    Kind("memory.leak", ("rate=20MiB", "percent=25%"), "holder"),
    Kind("disk.fill", (f"path={STATE}", "size=64MiB", "system=true"), "holder"),
    Kind("io.stress", (f"path={STATE}", "rate=2MiB", "system=true"), "holder"),
    Kind("fd.exhaust", ("count=20000",), "holder"),
    Kind("http.fault", ("port=9", "status=503"), "holder"),
    Kind("process.pause", (f"unit={VICTIM}",), "victim"),
    Kind("unit.stop", (f"unit={VICTIM}",), "victim"),
    Kind("cpu.throttle", (f"unit={VICTIM}", "percent=5%"), "victim"),
    Kind("clock.skew", ("offset=+10m",), "victim"),
)


@dataclass(frozen=True, slots=True)
class Step:
    """A point in the keeper's work on one fault: the ``nth`` time that it gets there.

    ``stage`` is the start, the hold or the end of the fault; ``holder`` says whether
    there is a holder process by then.
    """

    name: str
    nth: int
    stage: Literal["start", "hold", "end"]
    holder: bool

    def __str__(self) -> str:
        return f"{self.stage}: {self.name} #{self.nth}"


@dataclass(frozen=True, slots=True)
class Hit:
    """What is hit, and by which signal. ``alone``: systemd looks away, only the kernel helps."""

    target: str
    signal: str = ""
    alone: bool = False

    def __str__(self) -> str:
        return " ".join(filter(None, (self.target, self.signal, "alone" if self.alone else "")))

    @property
    def roles(self) -> tuple[Role, ...]:
        """The node's processes that are struck; none for machines and the controller."""
        many = {"both": ROLES[:2], "all": ROLES}
        return many.get(self.target, tuple(role for role in ROLES if role == self.target))

    def fits(self, held: bool) -> bool:
        """Whether there is what is to be hit, with a holder or without."""
        return held or "holder" not in self.roles


_AGENT = ("keeper", "link", "both")
SIGNALS = ("SIGKILL", "SIGSTOP", "SIGSEGV")
CONTROLLER, POWER, REBOOT = "controller", "power", "reboot"
HITS = (
    *(Hit(target, signal) for target in (*_AGENT, "holder") for signal in SIGNALS),
    *(Hit(target, signal, alone=True) for target in (*_AGENT, "all") for signal in SIGNALS),
    *(Hit(CONTROLLER, signal) for signal in SIGNALS),
    Hit(POWER),
    Hit(REBOOT),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """One round. ``step`` None is a random instant, ``delay`` s after the fault was seen."""

    number: int
    kind: Kind
    hit: Hit
    step: Step | None
    delay: float

    @property
    def name(self) -> str:
        when = str(self.step) if self.step else f"{self.delay:.1f} s in force"
        return f"#{self.number} {self.kind.name}, {self.hit}, {when}"

    @property
    def seconds(self) -> int:
        """How long the fault is asked for: long, so that its end is not mistaken for the hit's.

        Short to get to the steps of an end; and for a link that systemd restarts, which
        may be back in time to renew the lease, and rightly.
        """
        ends = self.step is not None and self.step.stage == "end"
        back_in_time = self.hit.target == "link" and not self.hit.alone
        return 4 if ends or (back_in_time and self.hit.signal != "SIGSTOP") else 60


class Deck(Generic[Card]):
    """Cards in a random order that comes round again, each once before any twice."""

    def __init__(self, rng: random.Random, cards: Sequence[Card]) -> None:
        self._rng = rng
        self._cards = tuple(cards)
        self._left: list[Card] = []

    def deal(self, fits: Callable[[Card], bool] = lambda _: True) -> Card:
        """The next card that fits; the others stay. Raises ValueError when none ever does."""
        if not any(map(fits, self._cards)):
            raise ValueError("no card fits")
        while True:
            for place, card in enumerate(self._left):
                if fits(card):
                    return self._left.pop(place)
            self._left += self._rng.sample(self._cards, len(self._cards))


def draw(seed: int, rounds: int, steps: Mapping[str, Sequence[Step]]) -> Iterator[Case]:
    """The cases of a campaign. The same seed and steps (by kind) give the same cases."""
    rng = random.Random(seed)  # noqa: S311 - not for secrets
    hits, kinds = Deck(rng, HITS), Deck(rng, KINDS)
    moments: dict[str, Deck[Step | None]] = {
        kind.name: Deck(rng, [*steps[kind.name], *[None] * (len(steps[kind.name]) // 3)])
        for kind in KINDS
    }
    for number in range(1, rounds + 1):
        hit = hits.deal()
        kind = kinds.deal(lambda kind: hit.fits(kind.where == "holder"))  # noqa: B023
        step = moments[kind.name].deal(
            lambda step: step is None or hit.fits(step.holder)  # noqa: B023
        )
        yield Case(number, kind, hit, step, round(rng.uniform(0, 2), 1))


def chosen(cases: Sequence[Case], pattern: str) -> tuple[Case, ...]:
    """Those whose name matches: a part of it, or with wildcards; ``#17`` is the 17th."""
    if pattern.startswith("#") and pattern[1:].isdigit():
        return tuple(case for case in cases if case.number == int(pattern[1:]))
    return tuple(case for case in cases if fnmatchcase(case.name, f"*{pattern}*"))
