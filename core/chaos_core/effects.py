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
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from chaos_core.distributions import Distribution
from chaos_core.errors import InvalidInput

Family = Literal[4, 6]
Hook = Literal["PREROUTING", "POSTROUTING", "INPUT", "OUTPUT", "FORWARD"]
Table = Literal["raw", "mangle", "filter", "nat", "security"]
Backend = Literal["xtables", "nft"]  # who keeps sets and rules: ipset and iptables, or nftables
UNDO = "undo"  # the agent's command that an UndoTimer runs, with effects as its arguments
LINK_PREFIX = "chs-"  # links, sets, cgroups, units
CHAIN_PREFIX = "CHAOS-"
_OUR_NAME = re.compile(
    rf"(?:{LINK_PREFIX}|{CHAIN_PREFIX})(?:[0-9a-f]{{8}}|doctor)"
    r"(?:-(?:in|out|fwd-in|fwd-out|hook|w|\d{1,4}))?"
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
class FixedSet:
    """A kernel set for filters that are asked before xtables: of what is protected, or of ports.

    Entries never time out. They are CIDRs (``hash:net``), or ``CIDR,protocol:port``
    (``hash:net,port``) with tcp, udp or icmpv6, where the port is the type times 256.
    """

    name: str
    family: Family
    kind: Literal["hash:net", "hash:net,port"]
    entries: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GilbertElliott:
    """Loss in bursts, in ppm: a chain of two states that moves once a packet.

    ``to_bad`` and ``to_good`` are the probabilities of leaving the good and the bad state
    (p and r in tc-netem(8)), the others those of losing a packet in each (1-h and 1-k).
    """

    to_bad: int
    to_good: int
    loss_in_bad: int = 1_000_000
    loss_in_good: int = 0


@dataclass(frozen=True, slots=True)
class Netem:
    """Parameters of a netem qdisc: µs for ``delay`` and ``jitter``, packets for ``limit``, ppm.

    ``correlation`` is the jitter's, ``distribution`` its shape (``distributions.py``).
    ``loss`` is independent of packet to packet, ``bursts`` is not. ``reorder`` is the share
    that is sent without the delay, and so before its turn.
    """

    delay: int = 0
    jitter: int = 0
    correlation: int = 0
    loss: int = 0
    limit: int = 1000
    distribution: Distribution = "uniform"
    bursts: GilbertElliott | None = None
    corrupt: int = 0
    duplicate: int = 0
    reorder: int = 0
    reorder_correlation: int = 0


@dataclass(frozen=True, slots=True)
class Tbf:
    """Parameters of a token bucket: bytes a second, bytes at once, bytes that may wait."""

    rate: int
    burst: int
    limit: int


@dataclass(frozen=True, slots=True)
class Pipe:
    """Packets that leave ``device`` with our mark take a detour through ``link``.

    ``mark`` is all that they carry within ``mask``. ``link`` is an ifb with ``netem`` or
    ``tbf`` at its root, or a ``tbf`` behind a ``netem``, after which they go on through the
    device's own root qdisc; or, with neither, a dummy, where they end.
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
    tbf: Tbf | None = None

    @property
    def kind(self) -> Literal["ifb", "dummy"]:
        """What kind of link it takes."""
        return "ifb" if self.netem or self.tbf else "dummy"

    @property
    def combines(self) -> bool:
        """Whether it is for packets that several faults hit, each of which has one bit."""
        return self.mark.bit_count() > 1


@dataclass(frozen=True, slots=True)
class Catch:
    """Packets of a family whose source is in the LeasedSet ``peers``, less what is protected.

    That is what comes from ``safe_nets`` (empty: none), or from or to ``safe_ports``. Only
    what comes from ``ports`` and to ``local_ports``, unless those are empty. All are FixedSets.
    """

    family: Family
    peers: str
    safe_nets: str
    safe_ports: str
    ports: str = ""
    local_ports: str = ""


@dataclass(frozen=True, slots=True)
class IngressPipe:
    """Packets that enter ``device`` and are caught take a detour through ``link``.

    That is an ifb with ``netem`` or ``tbf`` at its root, after which they come in again.
    The filters match by set, so the kernel holds the lease as in a Chain. The device's
    ``clsact`` is shared and taken away as a Pipe does it.
    """

    device: str
    link: str
    catches: tuple[Catch, ...]
    netem: Netem | None
    tbf: Tbf | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a chain; an empty field does not match on that property.

    ``ports`` are ranges as xtables' multiport takes them (``80``, ``8000:8010``),
    at most 15 slots where a range takes two. ``match_set`` names a LeasedSet,
    which is compared with the packet's ``set_side``. ``probability`` is in ppm;
    ``every`` = n matches each n-th packet that this rule meets, the n-th first.
    ``uid`` and ``cgroup`` are of the process whose socket sends the packet: its user,
    and a path of cgroup v2 with all below it, which must still be the one with the
    inode ``cgroup_id``. ``syn`` is a packet that opens a TCP connection. MARK sets the bits
    ``mark`` and leaves all others; ``mask`` are the bits that nobody else may write. ``per_day``
    matches so many packets in 24 hours, ``burst`` of them at once. ``text`` are bytes that
    stand somewhere in the packet, in hexadecimal; the case of letters does not matter.
    ``zone`` is where CT has the packet's connection tracked, apart from the same in others.
    ``queue`` is a Worker's by number; when nobody has it, packets go on as they are.
    SEEN and EXPOSED let packets go on and only count them (``faults/_counting.py``).
    ``own`` is which of the packet's addresses is one of this node. ``original_ports`` are
    those to which a connection was opened whose destination was then translated (DNAT, as of
    a container's published port); ``original_side`` is where that port stands in the packet:
    ``dst`` on the way of the opener, ``src`` in the answers. xtables takes one range of them.
    """

    target: Literal[
        "RETURN", "MARK", "DROP", "REJECT", "REDIRECT", "CT", "NFQUEUE", "SEEN", "EXPOSED"
    ]
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
    every: int = 0
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
    zone: int = 0
    queue: int = 0
    own: Literal["", "src", "dst"] = ""
    original_ports: tuple[str, ...] = ()
    original_side: Literal["", "src", "dst"] = ""


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of our own at the head of ``hook`` in one of xtables' tables, or at its ``end``.

    With ``backend`` nft it is a base chain in a table of our own, with that table's priority:
    just before the user's chains at the same hook, or just after them.
    """

    name: str
    family: Family
    table: Table
    hook: Hook
    rules: tuple[Rule, ...]
    backend: Backend = "xtables"
    end: bool = False


@dataclass(frozen=True, slots=True)
class Holder:
    """A child process in a cgroup of its own that holds a resource until its lease ends.

    - ``burn`` keeps ``workers`` threads busy under a CPU quota of ``cpu_quota`` µs in every
      ``cpu_period`` µs.
    - ``hold`` touches pages until it has ``memory`` bytes of them; ``cache`` has them in the
      page cache, as a file in memory that has no name.
    - ``churn`` takes, touches and gives back ``rate`` bytes a second, under ``cpu_quota``.
    - ``fill`` keeps an unlinked file of ``size`` bytes in ``directory``; it stops where less
      than ``reserve`` bytes of the file system would stay free.
    - ``io`` reads and writes such a file past the page cache, ``rate`` bytes a second in all,
      with ``workers`` threads.
    - ``files`` opens ``count`` descriptors, and stops where the whole system could open
      less than ``reserve`` more.

    ``memory_max`` caps the cgroup in bytes. Over ``ramp`` µs ``burn``, ``hold`` and ``cache``
    get evenly to what they take. ``device`` is the file system that ``directory`` was on when
    it was looked at (``st_dev``); on another one nothing is done.
    """

    name: str
    work: Literal["burn", "hold", "cache", "churn", "fill", "io", "files"]
    workers: int = 1
    cpu_quota: int = 0
    cpu_period: int = 100_000
    memory: int = 0
    memory_max: int = 0
    ramp: int = 0
    directory: str = ""
    device: int = 0
    size: int = 0
    reserve: int = 0
    rate: int = 0
    mode: Literal["read", "write", "both"] = "both"
    count: int = 0


@dataclass(frozen=True, slots=True)
class Worker:
    """A program of ours that uses the network, in a process of its own, without privileges.

    ``program`` is one of the agent's workers, ``arguments`` are its own, as JSON. Its lease
    is held as a Holder's. ``service`` names what root has listed in the agent's file, like
    ``postgres.shop``: the address and the password stand nowhere else.
    """

    name: str
    program: str
    arguments: str
    service: str = ""


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

    With ``fatal`` they must be gone afterwards, which is what is read back. With ``handled``
    none is sent a signal that it does not handle, and so would die of.
    """

    victims: tuple[tuple[int, ...], ...]
    signal: str
    fatal: bool
    handled: bool = False


@dataclass(frozen=True, slots=True)
class Reboot:
    """The machine is shut down in good order and starts again: once, in the boot of that id and
    in no other. What follows is the next boot's, so an open intent waits for it.
    """

    boot: str


@dataclass(frozen=True, slots=True)
class Flush:
    """The kernel drops its caches: over at once.

    ``pages`` and ``slab`` are how often it had done so before, which it counts.
    """

    what: Literal["pagecache", "slab", "both"]
    pages: int
    slab: int


@dataclass(frozen=True, slots=True)
class Run:
    """A hook of this node: ``argv`` is run as ``user``, and ``undo``, if any, at its end.

    ``timeout`` is in µs, for either. ``boot`` is the boot in which it was begun.
    """

    name: str
    hook: str
    argv: tuple[str, ...]
    undo: tuple[str, ...]
    user: str
    timeout: int
    boot: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Processes, as (pid, start in ticks), that went on and are stopped (SIGSTOP).

    The kernel does not end that by itself, so an UndoTimer comes before it.
    """

    victims: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class CgroupLimit:
    """A limit of a service's own cgroup (v2), tightened from ``before`` to ``value``.

    ``group`` is a path below the root of the hierarchy and ``inode`` that very group:
    the service gets another one with each start. ``key`` is empty where the file is one
    value, and in ``io.max`` names which: ``8:0 rbps``. The kernel ends it by itself only
    with the group, so an UndoTimer comes before it.
    """

    unit: str
    group: str
    inode: int
    file: str
    key: str
    before: str
    value: str


@dataclass(frozen=True, slots=True)
class ClockShift:
    """The wall clock is ``offset`` µs from where it was, once the services ``after`` are down.

    Where it was is told by ``before``, REALTIME − BOOTTIME in µs in the boot ``boot``, which
    nothing but a step changes: so it can be seen at any time whether it is still moved.
    """

    offset: int
    before: int
    boot: str
    after: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClockStrobe(ClockShift):
    """The same by turns: the clock is moved for ``span`` µs and right for as long, again and again.

    The first turn starts at ``since``, CLOCK_BOOTTIME in µs. The undo is that of a ClockShift,
    from either turn.
    """

    since: int
    span: int

    def turn(self, now: int) -> tuple[bool, int]:
        """Whether the clock is moved at ``now``, and since when it is that way."""
        number = (now - self.since) // self.span
        return number % 2 == 0, self.since + number * self.span


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
    LeasedSet
    | PulsedSet
    | FixedSet
    | Pipe
    | IngressPipe
    | Chain
    | Holder
    | Worker
    | Unit
    | Restart
    | Kill
    | Reboot
    | Flush
    | Run
    | Stop
    | CgroupLimit
    | ClockShift
    | ClockStrobe
    | UndoTimer
)

AT_ONCE = (Restart, Kill, Flush)  # over when they are done: nobody reverts them

_KINDS: dict[str, type[Any]] = {cls.__name__: cls for cls in typing.get_args(Effect)}


def changes(effects: Iterable[Effect]) -> frozenset[str]:
    """What of the user's they hold in another state than before, which no second fault may."""
    held = set()
    for effect in effects:
        match effect:
            case Unit():
                held.add(effect.unit)
            case CgroupLimit():
                held.add(f"{effect.unit}'s {effect.file} {effect.key}".rstrip())
            case Run():
                held.add(f"hook {effect.hook}")
            case Stop():
                held.update(f"process {victim[0]}" for victim in effect.victims)
            case ClockShift():
                held.add("the clock")
    return frozenset(held)


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
        case FixedSet():
            return (
                f"set    {effect.name} (IPv{effect.family} {effect.kind}, to be asked by a filter):"
                f" {', '.join(effect.entries)}"
            )
        case Pipe():
            return f"pipe   {effect.device} mark {effect.mark:#x} → {effect.link} {_shape(effect)}"
        case IngressPipe():
            sets = ", ".join(
                " ".join(
                    [catch.peers]
                    + [f"and {name}" for name in (catch.ports, catch.local_ports) if name]
                    + ["but", *filter(None, (catch.safe_nets, catch.safe_ports))]
                )
                for catch in effect.catches
            )
            return f"inlet  {effect.device} from {sets} → {effect.link} {_shape(effect)}"
        case Chain():
            where = f"{effect.table}/{effect.hook}{', at its end' if effect.end else ''}"
            head = f"chain  {effect.name} ({_where(effect)} {where})"
            return "\n".join([head, *(f"         {_rule(rule)}" for rule in effect.rules)])
        case Holder():
            ramp = f", over {effect.ramp / 1_000_000:g} s" if effect.ramp else ""
            return f"holder {effect.name}: {_work(effect)}{ramp}"
        case Worker():
            at = f" at {effect.service}" if effect.service else ""
            return f"worker {effect.name}: {effect.program}{at} {effect.arguments}"
        case Unit():
            return f"unit   {effect.unit}: {effect.state}"
        case Restart():
            return f"unit   {effect.unit}: restarted"
        case Kill():
            pids = ", ".join(str(victim[0]) for victim in effect.victims)
            return f"signal {effect.signal} to {pids}"
        case Reboot():
            return f"reboot in good order, once, in boot {effect.boot or '(this one)'}"
        case Flush():
            return f"flush  {effect.what}"
        case Run():
            undo = f"; undo: {' '.join(effect.undo)}" if effect.undo else ""
            return f"hook   {effect.hook} as {effect.user}: {' '.join(effect.argv)}{undo}"
        case Stop():
            pids = ", ".join(str(victim[0]) for victim in effect.victims)
            return f"stop   processes {pids}"
        case CgroupLimit():
            what = f"{effect.file} {effect.key}".rstrip()
            return f"limit  {effect.unit}: {what} from {effect.before} to {effect.value}"
        case ClockStrobe():
            return f"clock  {effect.offset / 1e6:+g} s and back, every {effect.span / 1e6:g} s"
        case ClockShift():
            return f"clock  {effect.offset / 1e6:+g} s"
        case UndoTimer():
            undone = ", ".join(describe(from_text(text)) for text in effect.undo)
            return f"timer  {effect.name} (systemd, runs out with the lease) undoes: {undone}"


def _where(effect: LeasedSet | PulsedSet | Chain) -> str:
    return f"IPv{effect.family}" + (" nftables" if effect.backend == "nft" else "")


def _shape(pipe: Pipe | IngressPipe) -> str:
    parts = [_netem(pipe.netem)] if pipe.netem else []
    if pipe.tbf:
        rate, burst, limit = pipe.tbf.rate * 8, pipe.tbf.burst, pipe.tbf.limit
        parts.append(f"tbf rate {rate} bit/s, burst {burst} bytes, limit {limit} bytes")
    return ", then ".join(parts) or "(dummy: swallowed)"


def _netem(netem: Netem) -> str:
    parts = [f"limit {netem.limit}"]
    if netem.delay or netem.jitter:
        parts.append(f"delay {netem.delay / 1000:g}ms ±{netem.jitter / 1000:g}ms")
    if netem.distribution != "uniform":
        parts.append(f"distribution {netem.distribution}")
    if netem.bursts:
        p, r, bad, good = (value / 10_000 for value in dataclasses.astuple(netem.bursts))
        parts.append(f"loss gemodel p {p:g}% r {r:g}% 1-h {bad:g}% 1-k {good:g}%")
    for name in ("loss", "corrupt", "duplicate", "reorder"):
        share = getattr(netem, name)
        parts += [f"{name} {share / 10_000:g}%"] if share else []
    return f"netem {', '.join(parts)}"


def _work(holder: Holder) -> str:
    match holder.work:
        case "burn":
            quota = f"{holder.cpu_quota} of {holder.cpu_period} µs"
            return f"{holder.workers} burner(s), cgroup quota {quota}"
        case "hold":
            return f"{holder.memory} bytes, cgroup cap {holder.memory_max} bytes"
        case "cache":
            cap = f"cgroup cap {holder.memory_max} bytes"
            return f"{holder.memory} bytes of the page cache, {cap}"
        case "churn":
            quota = f"cgroup quota {holder.cpu_quota} of {holder.cpu_period} µs"
            return f"takes and gives back {holder.rate} bytes a second, {quota}"
        case "fill":
            return f"an unlinked file of {holder.size} bytes in {holder.directory}"
        case "io":
            way = {"read": "reads", "write": "writes", "both": "reads and writes"}[holder.mode]
            return f"{way} {holder.rate} bytes a second in {holder.directory}"
        case "files":
            return f"{holder.count} open files"


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
        ("--every", str(rule.every or "")),
        ("--uid-owner", "" if rule.uid is None else str(rule.uid)),
        ("--path", rule.cgroup),
        ("--limit", f"{rule.per_day}/day --limit-burst {rule.burst}" if rule.per_day else ""),
        (f"--{rule.own}-type", "LOCAL" if rule.own else ""),
        (f"--original-port ({rule.original_side})", ",".join(rule.original_ports)),
    ):
        if value:
            parts.append(f"{flag} {value}")
    parts += ["--syn"] * rule.syn
    if rule.text:
        parts.append(f"--icase --string {bytes.fromhex(rule.text)!r}")
    target = rule.target
    if target == "MARK":
        return " ".join([*parts, f"→ MARK {rule.mark:#x}/{rule.mark:#x}"])
    details = {
        "CT": f"zone {rule.zone}",
        "REDIRECT": str(rule.to_port),
        "NFQUEUE": f"{rule.queue} --queue-bypass",
        "SEEN": "(only counted)",
        "EXPOSED": "(only counted)",
    }
    return " ".join([*parts, f"→ {target}", details.get(target, rule.reject_with)]).rstrip()
