"""What a plan would do and what a profile would refuse of it, without any node. Pure.

Steps are compiled for ``NodeView.example()``, as ``chaosctl inject --dry-run`` does. Only
the agent, which knows its node and its own file, decides; what is refused here would be
refused there. Draws are summed on each target: which nodes two targets share is only known
when they are chosen, so two targets count as apart unless they name the same node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from chaos_core import blast, composition, envelope, faults
from chaos_core.effects import Effect
from chaos_core.envelope import PROFILES, Draw, Envelope
from chaos_core.errors import ChaosError, EnvelopeExceeded, InvalidInput, Refused
from chaos_core.faults import Fault
from chaos_core.faults._network import NetworkFault
from chaos_core.node import NodeView
from chaos_experiment.load import Loaded
from chaos_experiment.plan import Step
from chaos_experiment.targets import Target

FAULT_ID: Final = "00000000"
SHARES: Final = ("latency", "loss", "cpu", "memory")
# Stand in for names and for the other side of a topology: TEST-NET-1 to 3, RFC 5737.
EXAMPLE_PEER: Final = "192.0.2."
_STAND_INS: Final = tuple(
    f"{net}{last}" for net in (EXAMPLE_PEER, "198.51.100.", "203.0.113.") for last in range(1, 255)
)


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """One step: what it draws and does on an example node."""

    step: Step
    fault: Fault
    draw: Draw
    effects: tuple[Effect, ...]
    stand_ins: Mapping[str, str]  # names of peers and the addresses that stand for them


@dataclass(frozen=True, slots=True)
class Peak:
    """The most of one ceiling that is drawn at once on one target's nodes."""

    what: str
    asked: int  # as Draw has it
    ceiling: int
    target: str
    step: int  # the step that brings it there


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A whole plan under one profile; ``refusals`` are empty when it would be allowed."""

    limits: Envelope
    steps: tuple[Rehearsed, ...]
    peaks: tuple[Peak, ...]
    refusals: tuple[ChaosError, ...]

    def check(self) -> None:
        """Raise the first refusal."""
        if self.refusals:
            raise self.refusals[0]


def profile(name: str) -> Envelope:
    """Raises InvalidInput with the nearest name."""
    if name not in PROFILES:
        raise InvalidInput(f"unknown profile {name!r}", hint=faults.nearest(name, PROFILES))
    return PROFILES[name]


def rehearse(loaded: Loaded, limits: Envelope) -> Rehearsal:
    """Every step on an example node, under the profile's ceilings."""
    done: list[Rehearsed] = []
    refusals: list[ChaosError] = []
    names: dict[str, str] = {}
    for step in loaded.plan.steps:
        try:
            done.append(_compiled(step, names))
        except (InvalidInput, Refused) as error:
            refusals.append(_of(step, error))
    for number, one in enumerate(done):
        others = _beside(one, done[:number])
        for draws in _each_target(one, others, loaded.targets):
            try:
                envelope.check(limits, one.draw, one.step.duration, draws)
            except EnvelopeExceeded as error:
                refusals.append(_of(one.step, error))
                break
        try:
            composition.check(one.effects, _on_its_nodes(one, others, loaded.targets))
        except Refused as error:
            refusals.append(_of(one.step, error))
        nodes = _nodes_at_once(one, others, loaded.targets)
        if limits.nodes == "one" and nodes > blast.allowed_nodes(limits, fleet=nodes):
            what = f"{nodes} nodes at once; profile {limits.profile} allows 1"
            refusals.append(_of(one.step, EnvelopeExceeded(what, hint="pick: one")))
    return Rehearsal(
        limits, tuple(done), tuple(_peaks(done, limits, loaded.targets)), tuple(refusals)
    )


def allowing(loaded: Loaded) -> tuple[str, ...]:
    """The profiles that would allow it."""
    return tuple(name for name, each in PROFILES.items() if not rehearse(loaded, each).refusals)


def _compiled(step: Step, names: dict[str, str]) -> Rehearsed:
    """``names`` has the addresses that stand for names, the same in every step."""
    fault = faults.parse(step.kind, step.params)
    told, stand_ins = _with_addresses(fault, names)
    node = NodeView.example(told.asks())
    draw = fault.draw().on(node.memory_total)
    return Rehearsed(step, fault, draw, told.compile(node, FAULT_ID), stand_ins)


def _with_addresses(fault: Fault, known: dict[str, str]) -> tuple[Fault, dict[str, str]]:
    """The fault as a node would get it, with addresses where only the controller knows them."""
    if not isinstance(fault, NetworkFault):
        return fault, {}
    if getattr(fault, "topology", ""):
        shape = {"topology": "", "groups": "", "peers": (f"{EXAMPLE_PEER}1/32",)}
        return fault.model_copy(update=shape), {"the other side": f"{EXAMPLE_PEER}1"}
    given = dict.fromkeys((*fault.named("peers"), *fault.named("exclude")))
    names = {
        name: known.setdefault(name, _STAND_INS[len(known) % len(_STAND_INS)]) for name in given
    }
    if not names:
        return fault, {}
    told = {
        field: tuple(
            f"{names[each]}/32" if each in names else each for each in getattr(fault, field)
        )
        for field in ("peers", "exclude")
    }
    return fault.model_copy(update=told), names


def _beside(one: Rehearsed, before: Sequence[Rehearsed]) -> list[Rehearsed]:
    """Those that are in force when ``one`` begins; sums grow only when something begins."""
    return [other for other in before if other.step.at <= one.step.at < other.step.end]


def _each_target(
    one: Rehearsed, others: Sequence[Rehearsed], targets: Mapping[str, Target]
) -> Iterator[list[Draw]]:
    for name in one.step.targets:
        yield [each.draw for each in others if _may_share(name, each.step.targets, targets)]


def _on_its_nodes(
    one: Rehearsed, others: Sequence[Rehearsed], targets: Mapping[str, Target]
) -> dict[str, tuple[Effect, ...]]:
    """The effects of those of ``others`` that a node of ``one`` may carry, by what to call them."""
    return {
        f"step {other.step.number} ({other.step.kind})": other.effects
        for other in others
        if any(_may_share(name, other.step.targets, targets) for name in one.step.targets)
    }


def _may_share(name: str, others: Sequence[str], targets: Mapping[str, Target]) -> bool:
    mine = set(targets[name].names)
    return any(name == other or mine & set(targets[other].names) for other in others)


def _nodes_at_once(
    one: Rehearsed, others: Sequence[Rehearsed], targets: Mapping[str, Target]
) -> int:
    """How many nodes carry faults while ``one`` begins, at the least."""
    names = {name for each in (one, *others) for name in each.step.targets}
    named = {node for name in names for node in targets[name].names if targets[name].pick == "all"}
    return max(len(named), *(targets[name].fewest() for name in names))


def _peaks(
    done: Sequence[Rehearsed], limits: Envelope, targets: Mapping[str, Target]
) -> Iterator[Peak]:
    for what in SHARES:
        best: Peak | None = None
        for number, one in enumerate(done):
            others = _beside(one, done[:number])
            for name, draws in zip(
                one.step.targets, _each_target(one, others, targets), strict=True
            ):
                asked = sum(getattr(draw, what) for draw in (*draws, one.draw))
                if asked > (best.asked if best else 0):
                    kind = type(getattr(limits, what))
                    ceiling = getattr(limits, what)
                    best = Peak(what, kind(asked), ceiling, name, one.step.number)
        if best:
            yield best


def _of(step: Step, error: ChaosError) -> ChaosError:
    """The same about a step: which one, where, of which kind."""
    what = f"step {step.number}, {step.kind}: {error.what}"
    return type(error)(what, where=step.where, hint=error.hint)
