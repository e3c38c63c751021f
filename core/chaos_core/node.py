"""What a fault may know about the node it is compiled for: facts, as values.

The agent fills a NodeView from the kernel; ``--dry-run`` without a controller
uses ``NodeView.example()``. Everything that depends on routing is answered
here, so that ``compile`` stays a pure function.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from chaos_core.addresses import Network, network
from chaos_core.effects import Backend
from chaos_core.errors import Unsupported

DEFAULT_MARK_MASK = 0x0F000000

# Local file systems that know files without a name (O_TMPFILE), and whose free blocks are
# what they say. Not tmpfs, which is memory; not zfs, which frees late; no network.
DISKS = ("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs")


@dataclass(frozen=True, slots=True)
class Device:
    """A network interface. ``prefs`` are the filter preferences in use on its clsact egress,
    ``vrf`` is the VRF that it belongs to.

    ``egress_taken`` and ``ingress_taken`` say why no detour can be made there; empty: it can.
    """

    name: str
    addresses: tuple[str, ...] = ()  # without prefix length
    loopback: bool = False
    prefs: frozenset[int] = frozenset()
    vrf: str = ""
    egress_taken: str = ""
    ingress_taken: str = ""

    def free_pref(self, but: frozenset[int] = frozenset()) -> int:
        """The lowest preference not in use, so that our filter is asked first if it can be."""
        return next(pref for pref in range(1, 0x10000) if pref not in self.prefs | but)


@dataclass(frozen=True, slots=True)
class Way:
    """How packets to a network leave the node, as its kernel routes them.

    ``devices`` are the interfaces, sorted: all next hops, for all packets that the rules of
    routing tell apart. Where it is empty, ``kind`` is the kernel's word for the route:
    ``local``, ``broadcast``, ``multicast``, ``blackhole``, ``unreachable``, ``prohibit``, or
    ``none`` when there is no route.
    """

    devices: tuple[str, ...] = ()
    kind: str = "unicast"


NO_WAY = Way(kind="none")


@dataclass(frozen=True, slots=True)
class Protected:
    """What is never touched: traffic, beside ARP, neighbour discovery and DHCP.

    ``controllers`` are addresses, ``peers`` CIDRs, ``ssh_ports`` TCP ports. ``units``
    are names of services, or patterns with ``*``, which no fault stops or pauses.
    """

    controllers: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    ssh_ports: tuple[int, ...] = (22,)
    units: tuple[str, ...] = ()

    def networks(self) -> tuple[Network, ...]:
        return tuple(network(text) for text in (*self.controllers, *self.peers))


@dataclass(frozen=True, slots=True)
class Asks:
    """What a fault must know of a node beside what every fault gets. Empty: nothing.

    ``towards`` are CIDRs to which the node's ways are wanted; with an ``interface``, those of
    sockets that are bound to it too.
    """

    units: tuple[str, ...] = ()  # services by name
    limits: tuple[str, ...] = ()  # files of those services' cgroups
    cgroups: tuple[str, ...] = ()  # paths of cgroup v2
    processes: ProcessQuery | None = None
    ssh: bool = False  # who is logged in
    ssh_ports: bool = False  # where SSH servers listen, in addition to network.ssh_ports
    directory: str = ""  # a path: its file system
    block_of: str = ""  # a path: the disk that holds it
    clock: bool = False
    flushes: bool = False  # how often caches were dropped
    hook: str = ""  # by its name
    service: str = ""  # of those that root has listed, like postgres.shop
    towards: tuple[str, ...] = ()
    interface: str = ""
    abilities: tuple[str, ...] = ()  # of those that doctor tries, beside Fault.needs
    translation: bool = False  # whether addresses are translated there


@dataclass(frozen=True, slots=True)
class ProcessQuery:
    """Which processes: of a unit, with a text (and ``*``) in the command line, by number, or of
    the cgroup that listens at a TCP port. All that are given must hold."""

    unit: str = ""
    cmdline: str = ""
    pid: int = 0
    port: int = 0


NOTHING = Asks()
_EXAMPLE_PID = 4242
_EXAMPLE_UPTIME = 86_400_000_000
_EXAMPLE_LIMITS = {
    "cpu.max": "max 100000",
    "io.max": "",
    "memory.current": str(256 * 2**20),
    "memory.high": "max",
    "pids.current": "12",
    "pids.max": "4915",
}


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """A process. ``started`` is its start in clock ticks since boot: pid and start together
    are an identity that no later process has. ``unit`` is systemd's service and ``session`` the
    scope of a login, if any. ``stopped`` is one that somebody has stopped, by a signal or to
    trace it. ``caught`` are the signals that it handles, as a mask."""

    pid: int
    started: int
    name: str
    unit: str = ""
    kernel: bool = False
    stopped: bool = False
    caught: int = 0
    session: str = ""

    def handles(self, number: int) -> bool:
        """Whether it has a handler for the signal of that number."""
        return bool(self.caught >> (number - 1) & 1)


@dataclass(frozen=True, slots=True)
class CgroupFacts:
    """A service's own cgroup (v2): its path below the root and its inode, which is another one
    with each start. ``files`` are those that were asked for and are there: without its
    controller, a group has none."""

    path: str
    inode: int
    files: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class UnitFacts:
    """A unit of systemd's: its own name for it, whether it runs, whether somebody froze it.

    ``invocation`` is another one with each start, in hexadecimal. ``dependents`` are the
    units at work that systemd stops, and restarts, together with it. ``cgroup`` is its
    path in cgroup v2, empty when it does not run; ``main`` its main process, 0 if it has none.
    """

    id: str
    active: bool
    frozen: bool = False
    invocation: str = ""
    dependents: tuple[str, ...] = ()
    cgroup: CgroupFacts | None = None
    main: int = 0


@dataclass(frozen=True, slots=True)
class Hook:
    """A command that root allows here, and what undoes it; both are run as ``user``, without a
    shell, for no longer than ``timeout`` µs."""

    name: str
    run: tuple[str, ...]
    undo: tuple[str, ...]
    user: str
    timeout: int


@dataclass(frozen=True, slots=True)
class ClockFacts:
    """Where the wall clock stands: REALTIME − BOOTTIME in µs, in the boot of that id."""

    difference: int
    boot: str


@dataclass(frozen=True, slots=True)
class DirectoryFacts:
    """A path, and the file system behind it. Sizes are in bytes.

    ``real`` is the path, or where the first link in it leads. ``device`` is ``st_dev``,
    ``type`` as in /proc/self/mounts. ``free`` counts what only root can use as well.
    ``system`` names what of the machine's own, or ours, is on the same file system.
    ``writable`` is for the agent.
    """

    real: str
    directory: bool = True
    writable: bool = True
    type: str = "ext4"
    mount: str = "/"
    device: int = 0
    total: int = 0
    free: int = 0
    system: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FileLimits:
    """Open files: ``fs.file-max``, how many there are, and how many a process of ours may have."""

    most: int = 2**20
    taken: int = 0
    ours: int = 2**19


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node as a fault sees it. What it did not ask for (``Fault.asks``) is empty, and so
    is what does not exist."""

    name: str
    cpus: int
    memory_total: int  # bytes
    devices: tuple[Device, ...] = ()
    ways: Mapping[str, Way] = field(default_factory=dict)  # by CIDR: those asked for
    elsewhere: Way = NO_WAY  # to all that ``ways`` does not name
    protected: Protected = Protected()
    mark_mask: int = DEFAULT_MARK_MASK  # our bits of the fwmark
    marks_in_use: frozenset[int] = frozenset()
    profile: str = "production"
    systemd: bool = False
    backend: Backend = "xtables"  # the firewall that is in use there
    boot: str = ""  # the id of this boot
    now: int = 0  # CLOCK_BOOTTIME in µs: how long this boot has lasted
    files: FileLimits = FileLimits()
    units: Mapping[str, UnitFacts] = field(default_factory=dict)
    processes: tuple[ProcessFacts, ...] = ()
    cgroups: Mapping[str, int] = field(default_factory=dict)  # path → inode, its units' as well
    ssh: tuple[tuple[str, str], ...] = ()  # connections: own address, other address
    directory: DirectoryFacts | None = None
    block: str = ""  # the whole disk that holds a path, as major:minor
    clock: ClockFacts | None = None
    flushes: tuple[int, int] = (0, 0)  # of the page cache, of dentries and inodes, since boot
    hook: Hook | None = None
    services: frozenset[str] = frozenset()  # databases and caches that root has listed
    unable: Mapping[str, str] = field(default_factory=dict)  # missing abilities, and why
    translates: bool = False  # addresses (NAT), and rules can ask for the original port

    @classmethod
    def example(cls, asks: Asks = NOTHING) -> NodeView:
        """A node for dry runs without a node: one interface, both families, 4 CPUs, 8 GiB.

        It has systemd, and what is asked for is there: the units, one process, and the
        directory on a disk of 100 GiB that is 60 % full. All its packets leave by one
        interface: the one that is asked for, or eth0.
        """
        interface = asks.interface if asks.interface not in ("", "lo") else "eth0"
        places = {name: f"/system.slice/{name}" for name in asks.units}
        return cls(
            name="example",
            cpus=4,
            memory_total=8 * 2**30,
            devices=(Device("lo", ("127.0.0.1", "::1"), loopback=True), Device(interface)),
            elsewhere=Way((interface,)),
            systemd=True,
            now=_EXAMPLE_UPTIME,
            units={
                name: UnitFacts(
                    name,
                    active=True,
                    cgroup=CgroupFacts(path, 1, _EXAMPLE_LIMITS),
                    main=_EXAMPLE_PID,
                )
                for name, path in places.items()
            },
            processes=(ProcessFacts(_EXAMPLE_PID, 1, "example", "example.service", caught=-1),),
            block="8:0",
            hook=Hook(asks.hook, ("/usr/bin/true",), ("/usr/bin/true",), "nobody", 5_000_000)
            if asks.hook
            else None,
            services=frozenset({asks.service}),
            clock=ClockFacts(1_795_000_000_000_000, "00000000-0000-4000-8000-000000000000"),
            cgroups=dict.fromkeys((*asks.cgroups, *places.values()), 1),
            directory=DirectoryFacts(asks.directory, total=100 * 2**30, free=40 * 2**30),
        )

    def device(self, name: str) -> Device | None:
        return next((device for device in self.devices if device.name == name), None)

    def way(self, peer: Network) -> Way:
        """How packets to ``peer`` leave, which a fault must have asked for."""
        return self.ways.get(str(peer), self.elsewhere)

    def free_mark(self) -> int:
        """A bit of our mask that no fault on this node uses. Raises Unsupported if none.

        One bit each, so that a packet can carry the marks of several faults.
        """
        taken = 0
        for mark in self.marks_in_use:
            taken |= mark
        free = self.mark_mask & ~taken
        if not free:
            raise Unsupported(
                f"all bits of the mark's mask {self.mark_mask:#x} are in use by faults in force",
                hint="wait for one to end, or widen network.mark_mask in agent.toml",
            )
        return free & -free
