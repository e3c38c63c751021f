"""What is played: kinds of faults × what is hit and how × when. Pure; drawn from a seed.

Cards are dealt from shuffled decks, so that a small sample has one of each hit before
it has two of one, and each step of a fault comes up once before one comes up twice.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Generic, Literal, TypeVar, get_args

from chaos_lab.layout import HOST_IP

Role = Literal["keeper", "link", "holder"]
ROLES: tuple[Role, ...] = get_args(Role)
Card = TypeVar("Card")


VICTIM, TASKS_MAX = "victim.service", "100"
PORT = 8080  # where the victim answers calls
HOOKED = "/var/tmp/victim-hooked"  # noqa: S108 - what the hook leaves; on a VM of the lab's
NEAR, NEAR_IP, FAR_IP = "near", "10.78.0.1", "10.78.0.2"  # a second network, with a resolver
DATABASE = "postgresql@15-main.service"
STATE = "/var/lib/chaos-agent"  # all that the agent's unit may write on the VM's only disk


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault as it is played: strong enough to be told from any noise.

    ``where`` it is looked for: in pings of this host's to the node (``wire``), in its calls
    of the service ``VICTIM`` (``calls``), in pings through the node's second network
    (``behind``), or on the node (``inside``): holders, sessions of ours in the database, the
    state of ``VICTIM`` and of the clock, lookups. One that is over at once (``once``) need
    not be seen. ``holder``: there is a process of ours that holds it, which can be hit as
    well. ``beside`` is a service that has to run.
    """

    name: str
    params: tuple[str, ...]
    where: Literal["wire", "calls", "behind", "inside", "once"]
    holder: bool = False
    beside: str = ""


_HOST = f"peers={HOST_IP}"
_CALLS = (_HOST, f"local_ports={PORT}")
_UNIT = f"unit={VICTIM}"
KINDS = (
    Kind("network.latency", (_HOST, "delay=400ms"), "wire"),
    Kind("network.loss", (_HOST, "percent=100%"), "wire"),
    Kind("network.partition", (_HOST,), "wire"),
    Kind("network.flap", (_HOST, "down=300s", "up=1s"), "wire"),
    Kind("network.corrupt", (_HOST, "percent=100%"), "wire"),
    Kind("network.duplicate", (_HOST, "percent=100%"), "wire"),
    Kind("network.reorder", (_HOST, "percent=25%", "delay=400ms"), "wire"),
    Kind("network.rate", (_HOST, "rate=64kbit", "queue=2s"), "wire"),
    Kind("network.blackhole", _CALLS, "calls"),
    Kind("network.reject", (*_CALLS, "direction=in"), "calls"),
    Kind("network.limit", (*_CALLS, "direction=in", "count=1", "period=300s"), "calls"),
    Kind("network.down", (f"interface={NEAR}",), "behind"),
    Kind("network.dns", ("names=db.example.com",), "inside"),
    Kind("http.fault", (_HOST, f"port={PORT}", "status=503"), "calls", holder=True),
    Kind("tamper.payload", (*_CALLS, "find=200", "replace=500"), "calls", holder=True),
    Kind("connections.hold", (f"to=127.0.0.1:{PORT}", "count=50"), "inside", holder=True),
    Kind("postgres.lock", ("database=shop", "table=orders"), "inside", True, DATABASE),
    Kind("postgres.slow", ("database=shop", "table=orders"), "inside", True, DATABASE),
    Kind("postgres.deadlock", ("database=shop", "rate=20"), "inside", True, DATABASE),
    Kind("cpu.stress", ("percent=50%",), "inside", holder=True),
    Kind("memory.stress", ("percent=25%",), "inside", holder=True),
    Kind("memory.leak", ("rate=20MiB", "percent=25%"), "inside", holder=True),
    Kind("disk.fill", (f"path={STATE}", "size=64MiB", "system=true"), "inside", holder=True),
    Kind("io.stress", (f"path={STATE}", "rate=2MiB", "system=true"), "inside", holder=True),
    Kind("fd.exhaust", ("count=20000",), "inside", holder=True),
    Kind("process.pause", (_UNIT,), "inside"),
    Kind("process.kill", (_UNIT, "repeat=1s"), "inside"),
    Kind("unit.stop", (_UNIT,), "inside"),
    Kind("cpu.throttle", (_UNIT, "percent=5%"), "inside"),
    Kind("io.throttle", (_UNIT, "path=/", "write=1MiB"), "inside"),
    Kind("memory.limit", (_UNIT, "percent=90%"), "inside"),
    Kind("pids.exhaust", (_UNIT,), "inside"),
    Kind("clock.skew", ("offset=+10m",), "inside"),
    Kind("hook.run", ("hook=mark",), "inside"),
    Kind("gc.pressure", (), "once"),
    Kind("cache.flush", (), "once"),
    Kind("unit.restart", (_UNIT,), "once"),
)
NOT_PLAYED: Mapping[str, str] = MappingProxyType(
    {
        "host.reboot": "it would end the tracer as well; a reboot at each step of the others is"
        " among the HITS, and tests/kernel/test_reboot.py replays each entry of its own journal"
    }
)
"""Kinds that cannot be played, and why; every other kind is in ``KINDS``."""


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


# How long faults are asked for. A worker on a busy machine takes seconds to begin; and who ends a
# fault of four seconds with its duration has ended it within the bound.
SHORT_S, BACK_IN_TIME_S, LONG_S = 8, 4, 60


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
        back_in_time = self.hit.target == "link" and not self.hit.alone
        if back_in_time and self.hit.signal != "SIGSTOP":
            return BACK_IN_TIME_S
        return SHORT_S if self.step is not None and self.step.stage == "end" else LONG_S


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
    """The cases of a campaign, of the kinds whose ``steps`` these are. The same seed and steps give
    the same cases."""
    rng = random.Random(seed)  # noqa: S311 - not for secrets
    played = [kind for kind in KINDS if kind.name in steps]
    hits, kinds = Deck(rng, HITS), Deck(rng, played)
    moments = {kind.name: Deck(rng, _moments(kind, steps[kind.name])) for kind in played}
    for number in range(1, rounds + 1):
        hit = hits.deal()
        kind = kinds.deal(lambda kind: hit.fits(kind.holder))  # noqa: B023
        step = moments[kind.name].deal(
            lambda step: step is None or hit.fits(step.holder)  # noqa: B023
        )
        yield Case(number, kind, hit, step, round(rng.uniform(0, 2), 1))


def _moments(kind: Kind, steps: Sequence[Step]) -> tuple[Step | None, ...]:
    """When a kind may be hit: at each step, and at random instants while it is seen, if it is."""
    instants = 0 if kind.where == "once" else len(steps) // 3
    return (*steps, *[None] * instants)


def chosen(cases: Sequence[Case], pattern: str) -> tuple[Case, ...]:
    """Those whose name matches: a part of it, or with wildcards; ``#17`` is the 17th."""
    if pattern.startswith("#") and pattern[1:].isdigit():
        return tuple(case for case in cases if case.number == int(pattern[1:]))
    return tuple(case for case in cases if fnmatchcase(case.name, f"*{pattern}*"))
