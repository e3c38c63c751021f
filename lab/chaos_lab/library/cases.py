"""Which experiments of the library are played, on which shop, under which profile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Final, Literal, get_args

from chaos_core import blast
from chaos_core.envelope import PROFILES
from chaos_core.errors import InvalidInput
from chaos_experiment.load import Loaded, load
from chaos_experiment.rehearsal import allowing
from chaos_experiment.targets import Node, choose
from chaos_lab.shop import LABELS, Manner

PRODUCTION: Final = "production"
STRICTEST: Final = "staging"  # for what is not meant for production

# What is played on the fragile shop too, and must not pass there.
FRAGILE: Final = (
    "application/database_deadlock",
    "application/database_pool_exhaustion",
    "application/database_query_timeout",
    "application/database_slow_query",
    "application/network_latency",
    "application/network_timeout",
    "application/partner_slow",
    "application/partner_unavailable",
    "application/service_circuit_breaker",
    "application/service_random_failure",
    "application/service_slow",
    "application/service_unavailable",
    "levels/crash",
    "levels/database-short",
)


@dataclass(frozen=True, slots=True)
class Case:
    """One scenario at one of its levels, on one shop, under the profile that it is played in."""

    file: Path
    level: str
    manner: Manner
    profile: str

    @property
    def name(self) -> str:
        """``levels/cpu-heavy``: the group, the file, the level."""
        stem = f"{self.file.parent.name}/{self.file.stem}"
        return f"{stem}-{self.level}" if self.level else stem

    @property
    def report(self) -> Path:
        """Where its report is, without suffix, in the directory of all."""
        return Path(self.manner, self.name.replace("/", "-"))


def find(library: Path, shop: Manner | Literal["both"], only: Sequence[str] = ()) -> list[Case]:
    """Every case whose name matches one of the globs ``only``, sorted by what the nodes must be.

    Raises InvalidInput when a file is wrong, or when nothing matches.
    """
    found = [
        case
        for manner in get_args(Manner)
        if shop in (manner, "both")
        for file in sorted(library.glob("*/*.yaml"))
        for case in _of(file, manner)
        if manner == "sturdy" or case.name in FRAGILE
    ]
    chosen = [case for case in found if not only or any(fnmatch(case.name, glob) for glob in only)]
    if not chosen:
        names = ", ".join(dict.fromkeys(case.name for case in found))
        raise InvalidInput(f"no case matches {' '.join(only)}", where="--only", hint=names)
    order = list(PROFILES)
    return sorted(chosen, key=lambda case: (case.manner != "sturdy", order.index(case.profile)))


def _of(file: Path, manner: Manner) -> Iterator[Case]:
    text = file.read_text(encoding="utf-8")
    levels = tuple(load(text, str(file)).scenario.levels) or ("",)
    for level in levels:
        yield Case(file, level, manner, _profile(file, load(text, str(file), level=level)))


def _profile(file: Path, loaded: Loaded) -> str:
    """The strictest profile that allows it on the shop's nodes."""
    order = list(PROFILES)
    first = order.index(PRODUCTION if file.parent.name == PRODUCTION else STRICTEST)
    nodes = [Node(name, labels) for name, labels in LABELS.items()]
    hit = {
        node
        for name, target in loaded.targets.items()
        for node in choose(target, nodes, 0, name=name)
    }
    for name in order[first:]:
        fits = len(hit) <= blast.allowed_nodes(PROFILES[name], fleet=len(nodes))
        if fits and name in allowing(loaded):
            return name
    raise InvalidInput("no profile allows it", where=str(file), hint="chaosctl validate")
