"""What becomes of packets that two faults hit: both faults act on them, or the second is refused.

Each fault that shapes what leaves a device has one bit of the mark (``NodeView.free_mark``).
A packet that two of them hit carries both bits, and no filter of either fault catches it. So
the later fault brings a pipe for each combination of bits, shaped as all of its faults
together ask. It owns that pipe: when an earlier fault ends, nobody sets its bit any more and
the pipe stands idle; when the later one ends, the pipe goes with it.

Not everything can be put into one pipe, and what a proxy or a queue has taken nobody else
can take. Such a second fault is refused before anything is done.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from chaos_core.addresses import Network
from chaos_core.effects import (
    LINK_PREFIX,
    Chain,
    Effect,
    Family,
    FixedSet,
    GilbertElliott,
    IngressPipe,
    LeasedSet,
    Netem,
    Pipe,
    PulsedSet,
    Rule,
    Tbf,
)
from chaos_core.errors import Refused
from chaos_core.node import NodeView

_ALL = 1_000_000
_FIRST_LINK, _LAST_LINK = 32, 99  # the numbers before are those of a fault's other links
_TAKERS = ("REDIRECT", "NFQUEUE")  # a packet goes to the first of them that matches
_COUNTING = ("SEEN", "EXPOSED")
_HINT = "wait for its end, choose other peers or ports, or use one fault that does both"


@dataclass(frozen=True, slots=True)
class Traffic:
    """Packets that one rule or filter takes. What is empty or None does not choose.

    ``exact`` is False when it takes only some of them (at random, by content, by turns).
    """

    family: Family
    way: Literal["in", "out"]
    device: str
    networks: tuple[Network, ...]
    protocols: frozenset[str] = frozenset()
    source_ports: frozenset[int] = frozenset()
    destination_ports: frozenset[int] = frozenset()
    uid: int | None = None
    cgroup: str = ""
    exact: bool = True

    def meets(self, other: Traffic) -> bool:
        """Whether a packet may belong to both. True when in doubt."""
        return (
            (self.family, self.way) == (other.family, other.way)
            and _agree(self.device, other.device)
            and any(one.overlaps(two) for one in self.networks for two in other.networks)
            and _share(self.protocols, other.protocols)
            and _share(self.source_ports, other.source_ports)
            and _share(self.destination_ports, other.destination_ports)
            and (self.uid is None or other.uid is None or self.uid == other.uid)
            and (not self.cgroup or not other.cgroup or _nested(self.cgroup, other.cgroup))
        )

    def holds(self, other: Traffic) -> bool:
        """Whether every packet of ``other`` belongs to this. False when in doubt."""
        return (
            self.exact
            and (self.family, self.way) == (other.family, other.way)
            and self.device in ("", other.device)
            and all(any(_within(two, one) for one in self.networks) for two in other.networks)
            and _covers(self.protocols, other.protocols)
            and _covers(self.source_ports, other.source_ports)
            and _covers(self.destination_ports, other.destination_ports)
            and self.uid in (None, other.uid)
            and self.cgroup in ("", other.cgroup)
        )


@dataclass(frozen=True, slots=True)
class Shape:
    """What a pipe does to packets. Without netem and tbf, or if all are lost, none gets through."""

    netem: Netem | None = None
    tbf: Tbf | None = None

    @property
    def swallows(self) -> bool:
        lost = self.netem is not None and self.netem.loss >= _ALL
        return lost or (self.netem is None and self.tbf is None)


@dataclass(frozen=True, slots=True)
class _Outlet:
    """A fault's own pipe at a device, with the traffic that is marked for it."""

    fault: str
    pipe: Pipe
    traffic: tuple[Traffic, ...]

    def meets(self, other: _Outlet) -> bool:
        return self.pipe.device == other.pipe.device and any(
            one.meets(two) for one in self.traffic for two in other.traffic
        )

    def holds(self, other: _Outlet) -> bool:
        return all(any(one.holds(two) for one in self.traffic) for two in other.traffic)


def check(effects: Sequence[Effect], standing: Mapping[str, Sequence[Effect]]) -> None:
    """Raise Refused unless these effects work together with every fault in force.

    The error names the fault in the way.
    ``standing`` are the effects of faults in force, by what to call them.
    """
    for fault, others in standing.items():
        _check_takers(effects, fault, others)
        _check_redirected(effects, fault, others)
        _check_inlets(effects, fault, others)
    for _ in _combined(effects, standing):
        pass


def compose(
    effects: Sequence[Effect], standing: Mapping[str, Sequence[Effect]], node: NodeView
) -> tuple[Effect, ...]:
    """The effects of a fault with the pipes for packets that faults in force hit as well.

    Raises Refused as ``check`` does.
    """
    check(effects, standing)
    pipes: list[Pipe] = []
    taken = {
        (effect.device, effect.pref)
        for each in (effects, *standing.values())
        for effect in each
        if isinstance(effect, Pipe)
    }
    for own, mark, shape in _combined(effects, standing):
        number = _FIRST_LINK + len(pipes)
        if number > _LAST_LINK:
            raise Refused(
                f"more than {len(pipes)} combinations with the faults in force", hint=_HINT
            )
        pipe = own.pipe
        device = node.device(pipe.device)
        assert device is not None
        pref = device.free_pref(frozenset(pref for name, pref in taken if name == pipe.device))
        taken.add((pipe.device, pref))
        link = f"{LINK_PREFIX}{_fault_of(pipe)}-{number}"
        pipes.append(
            dataclasses.replace(
                pipe, link=link, mark=mark, pref=pref, netem=shape.netem, tbf=shape.tbf
            )
        )
    if not pipes:
        return tuple(effects)
    last = max(n for n, effect in enumerate(effects) if isinstance(effect, Pipe)) + 1
    return (*effects[:last], *pipes, *effects[last:])


# ── what leaves the node ──────────────────────────────────────────────────────────────────


def _combined(
    effects: Sequence[Effect], standing: Mapping[str, Sequence[Effect]]
) -> Iterator[tuple[_Outlet, int, Shape]]:
    """Each combination of a pipe with those of faults in force: its mark and shape."""
    for own in _outlets("", effects):
        overlapping = [
            other
            for fault, others in standing.items()
            for other in _outlets(fault, others)
            if own.meets(other)
        ]
        for size in range(1, len(overlapping) + 1):
            for group in combinations(overlapping, size):
                if all(one.meets(two) for one, two in combinations(group, 2)):
                    mark = own.pipe.mark
                    for other in group:
                        mark |= other.pipe.mark
                    yield own, mark, _shape_of(own, group)


def _outlets(fault: str, effects: Sequence[Effect]) -> list[_Outlet]:
    """A fault's own pipes, each with its traffic; pipes of combinations are left out."""
    marked: dict[str, list[Traffic]] = {}
    for traffic, rule in _ruled(effects):
        if rule.target == "MARK":
            marked.setdefault(rule.out_device, []).append(traffic)
    return [
        _Outlet(fault, pipe, tuple(marked.get(pipe.device, ())))
        for pipe in effects
        if isinstance(pipe, Pipe) and not pipe.combines
    ]


def _shape_of(own: _Outlet, group: Sequence[_Outlet]) -> Shape:
    """What packets of all of these meet. Raises Refused when one pipe cannot do it."""
    shapes = [Shape(each.pipe.netem, each.pipe.tbf) for each in (*group, own)]
    if any(shape.swallows for shape in shapes):
        return Shape()
    for one in (own, *group):
        for other in (own, *group):
            if one.pipe.tbf and one is not other and not other.holds(one):
                raise _refusal(
                    group,
                    "a bandwidth is shared by all packets of its fault,"
                    " and the other fault takes only some of them",
                )
    try:
        whole = shapes[0]
        for shape in shapes[1:]:
            whole = combined(whole, shape)
    except ValueError as error:
        raise _refusal(group, str(error)) from None
    return whole


def _refusal(group: Sequence[_Outlet], why: str) -> Refused:
    names = " and ".join(dict.fromkeys(other.fault for other in group))
    device = group[0].pipe.device
    return Refused(f"{names} hits packets of this fault at {device}: {why}", hint=_HINT)


def combined(first: Shape, second: Shape) -> Shape:
    """One shape that does what both do, one after the other.

    Raises ValueError, saying why, where one netem with a tbf behind it cannot.
    """
    if first.swallows or second.swallows:
        return Shape()
    if first.tbf and second.tbf:
        raise ValueError("both limit the bandwidth")
    netem = first.netem or second.netem
    if first.netem and second.netem:
        netem = _one_netem(first.netem, second.netem)
    return Shape(netem, first.tbf or second.tbf)


def _one_netem(one: Netem, two: Netem) -> Netem:
    """Both in one. What it cannot do follows from the order in which netem decides.

    See net/sched/sch_netem.c, netem_enqueue: a packet that is both duplicated and lost
    goes through once, and one that is reordered is not delayed at all.
    """
    loses = [bool(each.loss or each.bursts) for each in (one, two)]
    delays = [bool(each.delay or each.jitter) for each in (one, two)]
    if one.jitter and two.jitter:
        raise ValueError("both have a jitter")
    if one.bursts and two.bursts:
        raise ValueError("both lose packets in bursts")
    if one.duplicate and two.duplicate:
        raise ValueError("both duplicate packets")
    if (one.duplicate and loses[1]) or (two.duplicate and loses[0]):
        raise ValueError("one duplicates packets and one loses them")
    if (one.reorder and delays[1]) or (two.reorder and delays[0]):
        raise ValueError("one reorders packets and one delays them")
    loss, bursts = _losses(one, two)
    late = one if one.jitter else two
    swapped = one if one.reorder else two
    return Netem(
        delay=one.delay + two.delay,
        jitter=late.jitter,
        correlation=late.correlation,
        distribution=late.distribution,
        limit=one.limit + two.limit,
        loss=loss,
        bursts=bursts,
        corrupt=_either(one.corrupt, two.corrupt),
        duplicate=one.duplicate + two.duplicate,
        reorder=swapped.reorder,
        reorder_correlation=swapped.reorder_correlation,
    )


def _losses(one: Netem, two: Netem) -> tuple[int, GilbertElliott | None]:
    """Loss of single packets in ppm, or the chain that has it in both of its states."""
    bursts, even = (one.bursts, two.loss) if one.bursts else (two.bursts, one.loss)
    if bursts is None:
        return _either(one.loss, two.loss), None
    in_bad, in_good = (_either(share, even) for share in (bursts.loss_in_bad, bursts.loss_in_good))
    return 0, dataclasses.replace(bursts, loss_in_bad=in_bad, loss_in_good=in_good)


def _either(one: int, two: int) -> int:
    """The share hit by at least one of two that do not depend on each other, in ppm."""
    return _ALL - (_ALL - one) * (_ALL - two) // _ALL


# ── what only one can have ────────────────────────────────────────────────────────────────


def _check_takers(effects: Sequence[Effect], fault: str, others: Sequence[Effect]) -> None:
    mine = [(one, rule) for one, rule in _ruled(effects) if rule.target in _TAKERS]
    theirs = [(one, rule) for one, rule in _ruled(others) if rule.target in _TAKERS]
    for one, rule in mine:
        for two, other in theirs:
            if rule.target == other.target and one.meets(two):
                what = "connections" if rule.target == "REDIRECT" else "packets"
                raise Refused(
                    f"{fault} takes {what} of this fault already, and only one can have them",
                    hint=_HINT,
                )


def _check_redirected(effects: Sequence[Effect], fault: str, others: Sequence[Effect]) -> None:
    """A proxy has another port than the service: who chose packets by that one misses them now.

    A fault that comes later knows of it: it asks for the port before the redirect, too.
    """
    redirected = [one for one, rule in _ruled(effects) if rule.target == "REDIRECT"]
    chosen = [
        (one, rule)
        for one, rule in _ruled(others)
        if rule.target not in _COUNTING and rule.target != "REDIRECT"
    ]
    if any(rule.original_ports for _, rule in chosen):
        return
    for one in redirected:
        for two, _ in chosen:
            ports = two.destination_ports if two.way == "in" else two.source_ports
            same = any(net.overlaps(other) for net in one.networks for other in two.networks)
            if one.way == "in" and same and ports & one.destination_ports:
                raise Refused(
                    f"{fault} chooses packets by a port that this fault would redirect,"
                    " and would not see them any more",
                    hint="start the two in the other order, or wait for its end",
                )


def _check_inlets(effects: Sequence[Effect], fault: str, others: Sequence[Effect]) -> None:
    for one in _caught(effects):
        if any(one.meets(two) for two in _caught(others)):
            raise Refused(
                f"{fault} shapes packets of this fault already as they come in at {one.device},"
                " and the kernel does that only once",
                hint="use direction=out for one of them, or other peers or ports",
            )


def _caught(effects: Sequence[Effect]) -> list[Traffic]:
    """What ingress pipes take."""
    networks = _networks(effects)
    fixed = {effect.name: effect.entries for effect in effects if isinstance(effect, FixedSet)}
    return [
        Traffic(
            catch.family,
            "in",
            pipe.device,
            networks[catch.peers],
            source_ports=_ports_of(fixed.get(catch.ports, ())),
            destination_ports=_ports_of(fixed.get(catch.local_ports, ())),
        )
        for pipe in effects
        if isinstance(pipe, IngressPipe)
        for catch in pipe.catches
    ]


# ── traffic of rules ──────────────────────────────────────────────────────────────────────


def _ruled(effects: Sequence[Effect]) -> Iterator[tuple[Traffic, Rule]]:
    """Every rule that matches a leased set, with what it takes."""
    networks = _networks(effects)
    pulsed = {effect.name for effect in effects if isinstance(effect, PulsedSet)}
    for chain in effects:
        if isinstance(chain, Chain):
            for rule in chain.rules:
                if rule.match_set:
                    steady = rule.match_set not in pulsed
                    yield _traffic(chain, rule, networks[rule.match_set], steady=steady), rule


def _traffic(chain: Chain, rule: Rule, networks: tuple[Network, ...], *, steady: bool) -> Traffic:
    some = bool(rule.every or rule.probability or rule.text or rule.per_day or rule.syn or rule.own)
    to = rule.original_ports if rule.original_side == "dst" else rule.destination_ports
    since = rule.original_ports if rule.original_side == "src" else rule.source_ports
    return Traffic(
        chain.family,
        "out" if rule.set_side == "dst" else "in",
        rule.out_device or rule.in_device,
        networks,
        frozenset({rule.protocol} - {""}),
        _ports(since),
        _ports(to),
        rule.uid,
        rule.cgroup,
        exact=steady and not some,
    )


def _networks(effects: Sequence[Effect]) -> dict[str, tuple[Network, ...]]:
    return {
        effect.name: tuple(map(ipaddress.ip_network, effect.entries))
        for effect in effects
        if isinstance(effect, LeasedSet | PulsedSet)
    }


def _ports(ranges: Sequence[str]) -> frozenset[int]:
    bounds = (text.partition(":") for text in ranges)
    return frozenset(n for low, _, high in bounds for n in range(int(low), int(high or low) + 1))


def _ports_of(entries: Sequence[str]) -> frozenset[int]:
    """The ports of a FixedSet's entries, like ``0.0.0.0/1,tcp:80``."""
    return frozenset(int(text.rpartition(":")[2]) for text in entries)


def _agree(one: str, two: str) -> bool:
    return not one or not two or one == two


def _share(one: frozenset[str] | frozenset[int], two: frozenset[str] | frozenset[int]) -> bool:
    return not one or not two or bool(one & two)


def _covers(one: frozenset[str] | frozenset[int], two: frozenset[str] | frozenset[int]) -> bool:
    return not one or (bool(two) and one >= two)


def _nested(one: str, two: str) -> bool:
    return f"{one}/".startswith(f"{two}/") or f"{two}/".startswith(f"{one}/")


def _within(net: Network, other: Network) -> bool:
    return net.version == other.version and net.subnet_of(other)  # type: ignore[arg-type]


def _fault_of(pipe: Pipe) -> str:
    return pipe.link.removeprefix(LINK_PREFIX).partition("-")[0]
