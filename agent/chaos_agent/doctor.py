"""Whether this host can do what faults are made of: by trying, never by a list of modules.

Everything is tried on throw-away objects (``chs-doctor``, ``CHAOS-doctor``) that no
packet ever meets, and that are gone when ``examine`` returns.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from chaos_agent.effects.pipe import release
from chaos_agent.linux import caches, clock, tcx
from chaos_agent.linux.catching import SetMatch
from chaos_agent.linux.cgroups import Caps
from chaos_agent.linux.host import Host
from chaos_agent.linux.nfqueue import Queue
from chaos_agent.linux.systemd import RUNNING
from chaos_agent.linux.tcvalues import Link
from chaos_agent.linux.xtables import FAMILIES
from chaos_core.effects import (
    CHAIN_PREFIX,
    LINK_PREFIX,
    Chain,
    Family,
    Netem,
    Rule,
    Table,
    Tbf,
    is_ours,
)
from chaos_core.errors import Busy, ChaosError, Unsupported

_NAME = f"{LINK_PREFIX}doctor"
_CHAIN = f"{CHAIN_PREFIX}doctor"
_MARK = 0x0F000000
_QUEUE = 31_000  # none of a fault's
_CAP_KILL, _CAP_SYS_TIME = 5, 25  # capability.h
_TRIAL_CAPS = (
    ("cgroup-cpu", Caps(cpu_quota=10_000)),
    ("cgroup-memory", Caps(memory_max=2**20)),
)
_COME_BACK = ("chaos-agent.service", "chaos-link.service")
_BUS = Path("/run/dbus/system_bus_socket")
_RULES: tuple[tuple[str, Table, Rule], ...] = (
    ("xt_set", "mangle", Rule("RETURN", match_set=_NAME, set_side="dst")),
    ("mark", "mangle", Rule("MARK", mark=_MARK, mask=_MARK)),
    ("multiport", "mangle", Rule("RETURN", protocol="udp", source_ports=("67", "68"))),
    ("statistic", "mangle", Rule("DROP", probability=10_000)),
    ("xt_owner", "mangle", Rule("RETURN", uid=0)),
    ("xt_cgroup", "mangle", Rule("RETURN", cgroup="/")),
    ("xt_limit", "filter", Rule("RETURN", per_day=1, burst=1)),
    ("xt_string", "mangle", Rule("RETURN", text="0061")),
    ("reject", "filter", Rule("REJECT")),
    ("ct-zone", "raw", Rule("CT", zone=1)),
    ("redirect", "nat", Rule("REDIRECT", protocol="tcp", to_port=1)),
    ("xt_addrtype", "mangle", Rule("RETURN", own="src")),
    ("xt_nfqueue", "security", Rule("NFQUEUE", queue=_QUEUE)),
    ("tcp-reset", "filter", Rule("REJECT", protocol="tcp", syn=True, reject_with="tcp-reset")),
)


@dataclass(frozen=True, slots=True)
class Ability:
    """One thing that faults need. ``why`` says what is missing when not ``ok``, or why it is not

    known. Names are those of ``Fault.needs``; a name that ends in ``-ipv6`` is the IPv6 half
    of the one without.
    """

    name: str
    ok: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What was tried, and which firewalls are in use here."""

    abilities: tuple[Ability, ...]
    firewall: str


def examine(host: Host, hooks: Collection[str] = (), services: Collection[str] = ()) -> Report:
    """Try everything, and leave nothing behind. ``hooks`` and ``services`` are those that root

    has listed on this node, by name.
    """
    found = [
        *(*_pipes(host), *_sets_and_rules(host, 4), *_sets_and_rules(host, 6)),
        *(*_cgroups(host), _try("systemd", host.systemd.version), _try("freezer", _freezer)),
        _try("reboot", lambda: _reboot(host)),
        _try("kill", _kill),
        *_limits(),
        _try("clock", _clock),
        _try("drop-caches", _drop_caches),
        Ability("hook", ok=bool(hooks), why="" if hooks else "hook: none is in agent.toml"),
        _try("task-io", lambda: Path("/proc/self/io").read_text()),
        _try("worker", _worker),
        _try("postgres", lambda: _postgres(services)),
        _try("nfqueue", lambda: Queue(_QUEUE).close()),
    ]
    return Report(tuple(found), _firewall(host))


def lacking(host: Host, names: Collection[str]) -> dict[str, str]:
    """Which of these this host has not, and why: of what takes no set, and only for IPv4."""
    tries: dict[str, Callable[[], object]] = {
        "worker": _worker,
        "kill": _kill,
        "reboot": lambda: _reboot(host),
        **{name: partial(_trial_group, host, caps) for name, caps in _TRIAL_CAPS},
    }
    found = [_try(name, attempt) for name, attempt in tries.items() if name in names]
    for name, table, rule in _RULES:
        if name in names:
            chain = Chain(_CHAIN, 4, table, "OUTPUT", (rule,), host.backend)
            found.append(_try(name, lambda chain=chain: _trial_rule(host, chain)))  # type: ignore[misc]
    return {ability.name: ability.why for ability in found if not ability.ok}


def translates(host: Host) -> bool:
    """Whether addresses are translated here, as for published ports, and rules can ask for the

    original port. That is only tried where connections are tracked already: such a rule has the
    kernel track all of them, and drop packets when the table of connections is full.
    """
    if not any("nat" in host.xtables.tables(family) for family in FAMILIES):
        chains: list[dict[str, Any]] = []
        with suppress(Unsupported):
            chains = host.nft.run({"list": {"chains": None}})
        if not any(item.get("chain", {}).get("type") == "nat" for item in chains):
            return False
    rule = Rule("RETURN", protocol="tcp", original_ports=("1",), original_side="dst")
    chain = Chain(_CHAIN, 4, "mangle", "OUTPUT", (rule,), host.backend)
    try:
        _trial_rule(host, chain)
    except Busy:
        raise
    except (ChaosError, OSError):
        return False
    return True


def _try(name: str, attempt: Callable[[], object]) -> Ability:
    """What is busy just now is not missing: a fault that needs it finds out by itself."""
    try:
        attempt()
    except Busy as error:
        return Ability(name, ok=True, why=f"{name}: not tried: {error.what}")
    except (ChaosError, OSError) as error:
        what = error.what if isinstance(error, ChaosError) else str(error)
        return Ability(name, ok=False, why=f"{name}: {what}")
    return Ability(name, ok=True)


def _pipes(host: Host) -> Iterator[Ability]:
    for kind in ("dummy", "ifb"):  # an ifb comes last and serves for the rest
        _remove_link(host)
        yield _try(kind, lambda kind=kind: host.tc.add_link(_NAME, kind))  # type: ignore[misc]
    with suppress(ChaosError):
        if host.tc.link(_NAME) is None:
            host.tc.add_link(_NAME, "dummy")
    link = host.tc.link(_NAME)
    if link is None:
        yield from (
            Ability(name, ok=False, why=f"{name}: there is no link to try it on")
            for name in ("tbf", "netem", "clsact", "em_ipset", "tcx", "fw")
        )
        return
    try:
        yield from _qdiscs(host, link)
    finally:
        _remove_link(host)


def _qdiscs(host: Host, link: Link) -> Iterator[Ability]:
    yield _try("tbf", lambda: host.tc.add_tbf(link, Tbf(rate=10_000, burst=10_000, limit=10_000)))
    yield _try("netem", lambda: host.tc.add_netem(link, Netem(delay=1000)))
    yield _try("clsact", lambda: host.tc.add_clsact(link.index))
    yield _try("em_ipset", lambda: _catch(host, link))
    yield _try("tcx", lambda: _tcx(link))
    yield _try("fw", lambda: host.tc.add_redirect(link.index, 1, _MARK, _MARK, link, claim=False))


def _tcx(link: Link) -> None:
    """Not needed by any fault: whether BPF programs in their way would be seen."""
    if tcx.programs(link.index, "egress") is None:
        raise Unsupported(
            "bpf(2) may not be called, so nobody sees BPF programs (TCX) that take packets"
            " before a fault does: `bpftool net` lists them"
        )


def _catch(host: Host, link: Link) -> None:
    """What ingress takes: a filter by set, and a set of ports."""
    try:
        host.sets.create(_NAME, 4, "hash:net,port", timeout=None)
        asked = [
            SetMatch(host.sets.index(_NAME), "src,src"),
            SetMatch(host.sets.index(_NAME), "src,dst"),
        ]
        host.tc.add_catch(link.index, 4, asked, link, claim=False)
        for redirect in host.tc.redirects(link.index):
            host.tc.delete_redirect(redirect)
    finally:
        host.sets.destroy(_NAME)


def _remove_link(host: Host) -> None:
    """A link takes its qdiscs and filters along."""
    link = host.tc.link(_NAME)
    if link is not None:
        release(host.tc, link)


def _sets_and_rules(host: Host, family: Family) -> Iterator[Ability]:
    suffix = "" if family == 4 else "-ipv6"
    with _trial_set(host, family) as ipset:
        yield Ability(f"ipset{suffix}", ipset.ok, ipset.why)
        for name, table, rule in _RULES:
            chain = Chain(_CHAIN, family, table, "OUTPUT", (rule,), host.backend)
            yield _try(f"{name}{suffix}", lambda chain=chain: _trial_rule(host, chain))  # type: ignore[misc]


def _trial_rule(host: Host, chain: Chain) -> None:
    host.chains(chain.backend).try_rule(chain)


@contextmanager
def _trial_set(host: Host, family: Family) -> Iterator[Ability]:
    def attempt() -> None:
        sets = host.sets_of(host.backend)
        sets.create(_NAME, family)
        sets.put(_NAME, family, ["192.0.2.1/32" if family == 4 else "2001:db8::1/128"], 1)

    try:
        yield _try("ipset", attempt)
    finally:
        with suppress(Unsupported):
            host.sets_of(host.backend).destroy(_NAME)


def _cgroups(host: Host) -> Iterator[Ability]:
    for name, caps in _TRIAL_CAPS:
        yield _try(name, lambda caps=caps: _trial_group(host, caps))  # type: ignore[misc]


def _trial_group(host: Host, caps: Caps) -> None:
    try:
        host.cgroups.create(_NAME, caps)
        differs = host.cgroups.difference(_NAME, caps)
        if differs:
            raise Unsupported(differs)
    finally:
        host.cgroups.destroy(_NAME)


def _freezer() -> None:
    if not any(Path("/sys/fs/cgroup").glob("*/cgroup.freeze")):
        raise Unsupported("cgroups cannot freeze here: that takes cgroup v2, mounted alone")


def _limits() -> Iterator[Ability]:
    for file in ("cpu.max", "memory.high", "io.max", "pids.max"):
        controller = file.partition(".")[0]
        yield _try(f"limit-{controller}", lambda file=file: _limit(file))  # type: ignore[misc]


def _limit(file: str) -> None:
    if not any(Path("/sys/fs/cgroup/system.slice").glob(f"*/{file}")):
        raise Unsupported(
            f"no service's cgroup has a {file}: that takes cgroup v2, and its controller in"
            " system.slice"
        )


def _worker() -> None:
    if RUNNING.is_dir() and not _BUS.exists():
        raise Unsupported("processes with a network are started by systemd: install dbus")


def _postgres(services: Collection[str]) -> None:
    """Without connecting: the keeper has no network."""
    if find_spec("psycopg") is None:
        raise Unsupported("psycopg is not installed: it comes with chaosctl[postgres]")
    if not any(name.startswith("postgres.") for name in services):
        raise Unsupported("no [postgres.NAME] is in agent.toml")


def _kill() -> None:
    if not _capable(_CAP_KILL):
        raise Unsupported("processes of other users cannot be signalled without CAP_KILL")


def _clock() -> None:
    """Without moving it: that alone would wake everybody who waits for the clock to be set."""
    clock.may_step()
    if not _capable(_CAP_SYS_TIME):
        raise Unsupported("the clock cannot be moved without CAP_SYS_TIME")


def _drop_caches() -> None:
    """Without dropping any: the kernel refuses this value, but not before it lets us write."""
    caches.flushes()
    try:
        caches.DROP.write_text("0")
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def _reboot(host: Host) -> None:
    """Without rebooting: whether the agent would be there again, and could say so."""
    host.systemd.version()
    for unit in _COME_BACK:
        state = host.systemd.enabled(unit)
        if state != "enabled":
            raise Unsupported(f"{unit} is {state}, not enabled: the agent would not come back")


def _capable(capability: int) -> bool:
    status = Path("/proc/self/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> capability & 1)


def _firewall(host: Host) -> str:
    """Which firewalls there are, and which of them keeps our rules."""
    ours = {"xtables": "legacy xtables", "nft": "nftables"}[host.backend]
    with suppress(Unsupported):
        found = [" ".join(table) for table in host.nft.tables() if not is_ours(table[1])]
        if found:
            return f"rules of ours go to {ours}; tables of nftables: {', '.join(found)}"
    return f"rules of ours go to {ours}"
