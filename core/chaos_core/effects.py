"""The few primitives that every fault is made of, as values.

A fault compiles to a tuple of these; the agent has one module for each, which
applies, verifies, renews, reverts and proves absence. Nothing here touches a
kernel. Every name an effect gives to a kernel object carries the fault's id
(``chs-<id>…``, ``CHAOS-<id>…``), so residue is found without a journal.

Order matters: effects are applied first to last and reverted last to first, so
a chain comes after the pipe that it feeds: the marking stops before the filter
goes, and the filter goes before its ifb.
"""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal

from chaos_core.errors import InvalidInput

Family = Literal[4, 6]
Hook = Literal["PREROUTING", "POSTROUTING", "INPUT", "OUTPUT"]
Backend = Literal["xtables", "nft"]  # who keeps sets and rules: ipset and iptables, or nftables
UNDO = "undo"  # the agent's command that an UndoTimer runs, with effects as its arguments
LINK_PREFIX = "chs-"  # links, sets, cgroups, units
CHAIN_PREFIX = "CHAOS-"
_OUR_NAME = re.compile(
    rf"(?:{LINK_PREFIX}|{CHAIN_PREFIX})(?:[0-9a-f]{{8}}|doctor)(?:-(?:in|out|w|\d{{1,4}}))?"
)

# Linux's own limits on names: IFNAMSIZ - 1, XT_EXTENSION_MAXNAMELEN - 1, IPSET_MAXNAMELEN - 1.
MAX_LINK_NAME = 15
MAX_CHAIN_NAME = 28
MAX_SET_NAME = 31


def is_ours(name: str) -> bool:
    """Whether that is a name of our making: the prefix alone may be in somebody else's."""
    return _OUR_NAME.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class LeasedSet:
    """A kernel set of peers (of ipset's or nftables') whose entries time out with the lease.

    This is the kernel's hold on the lease: without a live entry nothing matches,
    so nothing that hangs on the set has any effect. Entries are CIDRs; a /0 is
    written as its two halves, since ``hash:net`` cannot hold it.
    """

    name: str
    family: Family
    entries: tuple[str, ...]
    backend: Backend = "xtables"


@dataclass(frozen=True, slots=True)
class PulsedSet:
    """A LeasedSet that has its entries by turns: for ``down`` µs, then not for ``up`` µs.

    The first span starts at ``since``, CLOCK_BOOTTIME in µs. Whoever puts the entries in
    gives them a timeout that ends with the lease, or up to a second after the span if
    that is sooner; so the kernel ends both.
    """

    name: str
    family: Family
    entries: tuple[str, ...]
    since: int
    down: int
    up: int
    backend: Backend = "xtables"

    def span(self, now: int) -> tuple[bool, int, int]:
        """Whether the entries are in at ``now``, since when, and until when."""
        turn = self.since + (now - self.since) // (self.down + self.up) * (self.down + self.up)
        if now < turn + self.down:
            return True, turn, turn + self.down
        return False, turn + self.down, turn + self.down + self.up


@dataclass(frozen=True, slots=True)
class Netem:
    """Parameters of a netem qdisc: µs, µs, ppm, ppm, packets."""

    delay: int = 0
    jitter: int = 0
    correlation: int = 0
    loss: int = 0
    limit: int = 1000


@dataclass(frozen=True, slots=True)
class Pipe:
    """Packets that leave ``device`` with our mark take a detour through ``link``.

    ``link`` is an ifb with ``netem`` at its root, after which they go on through
    the device's own root qdisc; or, with ``netem=None``, a dummy, where they end.
    A ``clsact`` qdisc is added when the device has none and taken away again
    only if it was added here. The device's root qdisc is never touched.
    ``pref`` is a filter preference that was free when the fault was compiled.
    """

    device: str
    link: str
    mark: int
    mask: int
    pref: int
    netem: Netem | None


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a chain; an empty field does not match on that property.

    ``ports`` are ranges as xtables' multiport takes them (``80``, ``8000:8010``),
    at most 15 slots where a range takes two. ``match_set`` names a LeasedSet,
    which is compared with the packet's ``set_side``. ``probability`` is in ppm.
    ``uid`` and ``cgroup`` are of the process whose socket sends the packet: its user,
    and a path of cgroup v2 with all below it, which must still be the one with the
    inode ``cgroup_id``. ``syn`` is a packet that opens a TCP connection. ``per_day``
    matches so many packets in 24 hours, ``burst`` of them at once. ``text`` are bytes that
    stand somewhere in the packet, in hexadecimal; the case of letters does not matter.
    """

    target: Literal["RETURN", "MARK", "DROP", "REJECT", "REDIRECT"]
    source: str = ""
    destination: str = ""
    protocol: str = ""  # tcp, udp, icmp, icmpv6
    source_ports: tuple[str, ...] = ()
    destination_ports: tuple[str, ...] = ()
    icmpv6_type: str = ""
    in_device: str = ""
    out_device: str = ""
    match_set: str = ""
    set_side: Literal["", "src", "dst"] = ""
    probability: int = 0
    uid: int | None = None
    cgroup: str = ""
    cgroup_id: int = 0
    syn: bool = False
    per_day: int = 0
    burst: int = 0
    text: str = ""
    mark: int = 0
    mask: int = 0
    reject_with: str = ""
    to_port: int = 0


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of our own at the head of ``hook`` in one of xtables' tables.

    With ``backend`` nft it is a base chain in a table of our own, with that table's priority.
    """

    name: str
    family: Family
    table: Literal["mangle", "filter", "nat"]
    hook: Hook
    rules: tuple[Rule, ...]
    backend: Backend = "xtables"


@dataclass(frozen=True, slots=True)
class Holder:
    """A child process in a cgroup of its own that holds a resource until its lease ends.

    ``burn`` keeps ``workers`` processes busy under a CPU quota of ``cpu_quota``
    µs in every ``cpu_period`` µs; ``hold`` touches pages until the cgroup is
    charged ``memory`` bytes. ``memory_max`` caps the cgroup in bytes.
    """

    name: str
    work: Literal["burn", "hold"]
    workers: int = 1
    cpu_quota: int = 0
    cpu_period: int = 100_000
    memory: int = 0
    memory_max: int = 0


@dataclass(frozen=True, slots=True)
class Worker:
    """A program of ours that uses the network, in a process of its own, without privileges.

    ``program`` is one of the agent's workers, ``arguments`` are its own, as JSON. Its lease
    is held as a Holder's.
    """

    name: str
    program: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Unit:
    """A service of the user's, by systemd's own name for it, held in another state.

    ``frozen``: all its processes are paused, and go on afterwards. ``stopped``: it was
    running, and is started again afterwards. The kernel ends neither by itself, so an
    UndoTimer comes before it.
    """

    unit: str
    state: Literal["frozen", "stopped"]


@dataclass(frozen=True, slots=True)
class Restart:
    """A service is started anew: over at once, so nobody holds a lease on it.

    ``invocation`` is the one that ends, by which the new one is told from it.
    """

    unit: str
    invocation: str


@dataclass(frozen=True, slots=True)
class Kill:
    """Processes are sent a signal, as (pid, start in ticks): over at once.

    With ``fatal`` they must be gone afterwards, which is what is read back.
    """

    victims: tuple[tuple[int, ...], ...]
    signal: str
    fatal: bool


@dataclass(frozen=True, slots=True)
class UndoTimer:
    """A transient timer of systemd's that runs out with the lease and reverts ``undo``.

    It is the last holder of effects that the kernel cannot time out. ``undo`` are
    those effects as canonical JSON, so that the timer needs no journal. It comes
    before them in a fault: armed before they act, disarmed when they are gone.
    """

    name: str
    undo: tuple[str, ...]


Effect = (
    LeasedSet | PulsedSet | Pipe | Chain | Holder | Worker | Unit | Restart | Kill | UndoTimer
)  # fmt: skip

_KINDS: dict[str, type[Any]] = {cls.__name__: cls for cls in typing.get_args(Effect)}


def to_json(effect: Effect) -> dict[str, Any]:
    """The effect as JSON data, for the journal and for ``--dry-run``."""
    return {"effect": type(effect).__name__, **dataclasses.asdict(effect)}


def from_json(data: dict[str, Any]) -> Effect:
    """Read back what ``to_json`` wrote. Raises InvalidInput on anything else."""
    values = dict(data)
    cls = _KINDS.get(str(values.pop("effect", "")))
    if cls is None:
        raise InvalidInput(f"not an effect: {data!r}")
    effect: Effect = _build(cls, values)
    return effect


def _build(cls: type[Any], values: dict[str, Any]) -> Any:
    hints = typing.get_type_hints(cls)
    try:
        return cls(**{name: _value(hints[name], value) for name, value in values.items()})
    except (AttributeError, KeyError, TypeError) as error:
        raise InvalidInput(f"not a {cls.__name__}: {error}") from None


def _value(hint: Any, value: Any) -> Any:
    """Turn JSON lists back into tuples and objects back into dataclasses."""
    if value is None:
        return None
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        return tuple(_value(inner, item) for item in value)
    if dataclasses.is_dataclass(hint):
        return _build(hint, value)  # type: ignore[arg-type]
    return value


def to_text(effect: Effect) -> str:
    """The effect as one line of canonical JSON; ``from_text`` reads it back."""
    return json.dumps(to_json(effect), sort_keys=True, separators=(",", ":"))


def from_text(text: str) -> Effect:
    """Read back what ``to_text`` wrote. Raises InvalidInput on anything else."""
    try:
        data = json.loads(text)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise InvalidInput(f"not an effect: {text!r}")
    return from_json(data)


def describe(effect: Effect) -> str:
    """The effect as one or two lines that an operator can read."""
    match effect:
        case LeasedSet():
            return (
                f"set    {effect.name} ({_where(effect)}, entries time out with the lease):"
                f" {', '.join(effect.entries)}"
            )
        case PulsedSet():
            return (
                f"set    {effect.name} ({_where(effect)}, entries in for {effect.down / 1e6:g} s,"
                f" out for {effect.up / 1e6:g} s, by turns): {', '.join(effect.entries)}"
            )
        case Pipe(netem=None):
            return (
                f"pipe   {effect.device} mark {effect.mark:#x} → {effect.link} (dummy: swallowed)"
            )
        case Pipe(netem=netem):
            assert netem is not None
            parts = [f"limit {netem.limit}"]
            if netem.delay or netem.jitter:
                parts.append(f"delay {netem.delay / 1000:g}ms ±{netem.jitter / 1000:g}ms")
            if netem.loss:
                parts.append(f"loss {netem.loss / 10_000:g}%")
            return (
                f"pipe   {effect.device} mark {effect.mark:#x} → {effect.link}"
                f" netem {', '.join(parts)}"
            )
        case Chain():
            head = f"chain  {effect.name} ({_where(effect)} {effect.table}/{effect.hook})"
            return "\n".join([head, *(f"         {_rule(rule)}" for rule in effect.rules)])
        case Holder(work="burn"):
            return (
                f"holder {effect.name}: {effect.workers} burner(s), cgroup quota"
                f" {effect.cpu_quota} of {effect.cpu_period} µs"
            )
        case Holder():
            return (
                f"holder {effect.name}: {effect.memory} bytes, cgroup cap {effect.memory_max} bytes"
            )
        case Worker():
            return f"worker {effect.name}: {effect.program} {effect.arguments}"
        case Unit():
            return f"unit   {effect.unit}: {effect.state}"
        case Restart():
            return f"unit   {effect.unit}: restarted"
        case Kill():
            pids = ", ".join(str(victim[0]) for victim in effect.victims)
            return f"signal {effect.signal} to {pids}"
        case UndoTimer():
            undone = ", ".join(describe(from_text(text)) for text in effect.undo)
            return f"timer  {effect.name} (systemd, runs out with the lease) undoes: {undone}"


def _where(effect: LeasedSet | PulsedSet | Chain) -> str:
    return f"IPv{effect.family}" + (" nftables" if effect.backend == "nft" else "")


def _rule(rule: Rule) -> str:
    parts = []
    for flag, value in (
        ("-p", rule.protocol),
        ("-s", rule.source),
        ("-d", rule.destination),
        ("-i", rule.in_device),
        ("-o", rule.out_device),
        ("--sports", ",".join(rule.source_ports)),
        ("--dports", ",".join(rule.destination_ports)),
        ("--icmpv6-type", rule.icmpv6_type),
        ("--match-set", f"{rule.match_set} {rule.set_side}" if rule.match_set else ""),
        ("--probability", f"{rule.probability / 10_000:g}%" if rule.probability else ""),
        ("--uid-owner", "" if rule.uid is None else str(rule.uid)),
        ("--path", rule.cgroup),
        ("--limit", f"{rule.per_day}/day --limit-burst {rule.burst}" if rule.per_day else ""),
    ):
        if value:
            parts.append(f"{flag} {value}")
    parts += ["--syn"] * rule.syn
    if rule.text:
        parts.append(f"--icase --string {bytes.fromhex(rule.text)!r}")
    target = rule.target
    if target == "MARK":
        return " ".join([*parts, f"→ MARK {rule.mark:#x}/{rule.mask:#x}"])
    detail = str(rule.to_port) if target == "REDIRECT" else rule.reject_with
    return " ".join([*parts, f"→ {target}", detail]).rstrip()
