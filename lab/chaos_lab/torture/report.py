"""How the kill matrix went: ``report.json`` for machines, ``report.md`` and a table for people."""

from __future__ import annotations

import json
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from chaos_lab.torture.cases import Case

BOUND_S = 5.0


@dataclass(frozen=True, slots=True)
class Result:
    """One round. Times in seconds after the hit; ``gone`` is None where the machine was off.

    ``seen``: whether the effect was there before the hit. ``residue``: what differed
    from before when recovery should have been over. ``why`` the round failed, or nothing.
    """

    case: Case
    node: str
    seen: bool = False
    gone: float | None = None
    recovered: float | None = None
    residue: tuple[str, ...] = ()
    why: str = ""

    @property
    def passed(self) -> bool:
        return not self.why

    @property
    def line(self) -> str:
        """The round in one line: gone after, recovered after, where, what."""
        gone = "off" if self.gone is None else f"{self.gone:.2f} s"
        back = "–" if self.recovered is None else f"{self.recovered:.1f} s"
        return f"{gone:>7} {back:>7}  {self.node} {self.case.name}"


@dataclass(frozen=True, slots=True)
class Group:
    """All rounds with the same hit, or of the same kind."""

    name: str
    rounds: int
    seen: int
    worst_gone: float | None
    worst_recovered: float | None
    residue: int
    failed: int


@dataclass(frozen=True, slots=True)
class Report:
    """All rounds of a campaign. ``steps`` counts the steps that the kinds' faults have.

    ``unplayed`` are the cases to which it did not come before it was interrupted.
    """

    seed: int
    drawn: int
    results: tuple[Result, ...]
    steps: dict[str, int]
    seconds: float
    date: str
    unplayed: int = 0

    @property
    def passed(self) -> bool:
        played = bool(self.results) and not self.unplayed
        return played and all(result.passed for result in self.results)

    @property
    def failures(self) -> tuple[Result, ...]:
        return tuple(result for result in self.results if not result.passed)

    @property
    def groups(self) -> tuple[Group, ...]:
        """By hit, and all together at the end."""
        return (*self._by(lambda case: str(case.hit)), _group("all", self.results))

    @property
    def kinds(self) -> tuple[Group, ...]:
        """By kind of fault."""
        return self._by(lambda case: case.kind.name)

    def _by(self, name: Callable[[Case], str]) -> tuple[Group, ...]:
        found: dict[str, list[Result]] = defaultdict(list)
        for result in self.results:
            found[name(result.case)].append(result)
        return tuple(_group(name, results) for name, results in sorted(found.items()))

    @property
    def summary(self) -> str:
        total = self.groups[-1]
        hit = len({(r.case.kind.name, r.case.step) for r in self.results if r.case.step})
        worst = "–" if total.worst_gone is None else f"{total.worst_gone:.2f} s"
        return (
            f"{total.rounds - total.failed} of {total.rounds} rounds held, worst time to gone"
            f" {worst}, {total.residue} residues, {hit} of {sum(self.steps.values())} steps hit,"
            f" in {self.seconds:.0f} s (seed {self.seed})."
            + (f" Interrupted: {self.unplayed} were not played." if self.unplayed else "")
        )

    def rerun(self, result: Result) -> str:
        """The command that plays this round alone."""
        only = shlex.quote(f"#{result.case.number}")
        return f"chaosctl lab torture --seed {self.seed} --rounds {self.drawn} --only {only}"

    def as_json(self) -> str:
        return json.dumps(
            {
                "passed": self.passed,
                "date": self.date,
                "seed": self.seed,
                "seconds": round(self.seconds, 1),
                "unplayed": self.unplayed,
                "steps": self.steps,
                "groups": list(map(asdict, self.groups)),
                "kinds": list(map(asdict, self.kinds)),
                "rounds": [
                    {
                        "number": result.case.number,
                        "kind": result.case.kind.name,
                        "hit": str(result.case.hit),
                        "when": str(result.case.step or f"{result.case.delay} s in force"),
                        "node": result.node,
                        "seen": result.seen,
                        "gone_s": _rounded(result.gone),
                        "recovered_s": _rounded(result.recovered),
                        "residue": list(result.residue),
                        "failure": result.why,
                    }
                    for result in self.results
                ],
            },
            indent=2,
            ensure_ascii=False,
        )

    def as_markdown(self) -> str:
        """A table by hit and one by kind, as the documentation shows them."""
        failures = [f"- {r.case.name}: {r.why}  \n  `{self.rerun(r)}`" for r in self.failures]
        return "\n".join(
            [
                *_table("hit", self.groups),
                "",
                *_table("kind", self.kinds),
                "",
                self.summary,
                f"({self.date}.)",
                *(["", *failures] if failures else []),
                "",
            ]
        )

    def write(self, directory: Path) -> None:
        """Write both files."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "report.json").write_text(self.as_json() + "\n")
        (directory / "report.md").write_text(self.as_markdown())


def _table(title: str, groups: Iterable[Group]) -> list[str]:
    return [
        f"| {title} | rounds | seen in force | worst to gone | worst to recovered"
        " | residue | failed |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {group.name} | {group.rounds} | {group.seen} | {_time(group.worst_gone)}"
            f" | {_time(group.worst_recovered)} | {group.residue} | {group.failed} |"
            for group in groups
        ),
    ]


def _group(name: str, results: Iterable[Result]) -> Group:
    results = tuple(results)
    return Group(
        name,
        rounds=len(results),
        seen=sum(result.seen for result in results),
        worst_gone=max((r.gone for r in results if r.gone is not None), default=None),
        worst_recovered=max(
            (r.recovered for r in results if r.recovered is not None), default=None
        ),
        residue=sum(bool(result.residue) for result in results),
        failed=sum(not result.passed for result in results),
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)


def _time(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds:.2f} s"
