"""Everything on this host that carries our tag, found and removed without a journal.

The tags: chains ``CHAOS-<fault>…`` and the jumps to them, sets, links and cgroups
``chs-<fault>…``, redirects with our action index, holder processes by their command line,
and systemd timers ``chs-<fault>…``, which say themselves what they would undo. A clsact
qdisc has no name to tag: it is ours if a link or a filter of ours claims it (see ``pipe``),
and goes with the last of them. An empty clsact without a claim stays, for it may be the
user's, and it does nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from chaos_agent.effects import revert_all, words
from chaos_agent.effects.pipe import release, unhook
from chaos_agent.effects.undo_timer import undone_by
from chaos_agent.linux import children
from chaos_agent.linux.host import Host
from chaos_agent.linux.nftrules import remove_table
from chaos_agent.linux.xtables import FAMILIES, TABLES
from chaos_core.effects import is_ours
from chaos_core.errors import Residue, Unsupported


@dataclass(frozen=True, slots=True)
class Found:
    """One thing of ours. ``remove`` takes it away; idempotent."""

    what: str
    remove: Callable[[], None]

    def __str__(self) -> str:
        return self.what


def find(host: Host) -> list[Found]:
    """Everything on this host that carries the agent's tag, in the order of safe removal.

    A part that cannot be listed is itself reported as found, so the other parts are still removed.
    """
    found: list[Found] = []
    for part in _PARTS:
        try:
            found += part(host)
        except Exception as error:
            what = part.__name__.strip("_")
            found.append(Found(f"{what} that cannot be listed: {words(error)}", lambda: None))
    return found


def remove(host: Host) -> list[str]:
    """Take away all that ``find`` finds. Returns what resisted, and why; nothing stops it."""
    problems = []
    for found in find(host):
        try:
            found.remove()
        except Exception as error:
            problems.append(f"{found}: {words(error)}")
    return problems


def clear(host: Host, pause_s: float, tries: int = 10) -> list[str]:
    """``remove``, again after a pause while something resists; what is left, a line each."""
    for number in range(tries):
        if number:
            time.sleep(pause_s)
        remove(host)
        left = find(host)
        if not left:
            break
    return [f"still there: {found}" for found in left]


def _chains(host: Host) -> list[Found]:
    def removal(family: int, table: str, name: str) -> Callable[[], None]:
        return lambda: host.xtables.remove(4 if family == 4 else 6, table, name)

    return [
        Found(f"chain {name} in {table} (IPv{family})", removal(family, table, name))
        for family in FAMILIES
        for table in TABLES
        for name in host.xtables.chains(family, table)
        if is_ours(name)
    ]


def _tables(host: Host) -> list[Found]:
    """Tables of nftables, with the chains and sets in them."""
    with suppress(Unsupported):
        return [
            Found(
                f"table {family} {name} of nftables",
                lambda family=family, name=name: remove_table(host.nft, family, name),  # type: ignore[misc]
            )
            for family, name in host.nft.tables()
            if is_ours(name)
        ]
    return []


def _filters(host: Host) -> list[Found]:
    names = {link.index: link.name for link in host.tc.links()}
    return [
        Found(
            f"filter {redirect.pref} on {names[index]}",
            lambda redirect=redirect: unhook(host.tc, redirect),  # type: ignore[misc]
        )
        for index in host.tc.clsact_devices()
        if index in names
        for redirect in host.tc.redirects(index)
        if redirect.ours
    ]


def _links(host: Host) -> list[Found]:
    return [
        Found(f"link {link.name}", lambda link=link: release(host.tc, link))  # type: ignore[misc]
        for link in host.tc.links()
        if is_ours(link.name)
    ]


def _sets(host: Host) -> list[Found]:
    with suppress(Unsupported):
        return [
            Found(f"set {head.name}", lambda head=head: host.sets.destroy(head.name))  # type: ignore[misc]
            for head in host.sets.heads()
            if is_ours(head.name)
        ]
    return []


def _processes(_: Host) -> list[Found]:
    return [
        Found(f"holder {name} (process {pid})", lambda pid=pid: children.kill(pid))  # type: ignore[misc]
        for pid, name in children.find().items()
    ]


def _cgroups(host: Host) -> list[Found]:
    with suppress(Unsupported):
        return [
            Found(f"cgroup {name}", lambda name=name: host.cgroups.destroy(name))  # type: ignore[misc]
            for name in host.cgroups.names()
        ]
    return []


def _timers(host: Host) -> list[Found]:
    def removal(name: str) -> Callable[[], None]:
        def undo() -> None:
            left = revert_all(host, undone_by(host, name))
            if left:
                raise Residue("; ".join(left))
            host.systemd.disarm(name)

        return undo

    names = host.systemd.armed()
    if names and host.systemd.going_down():  # none of them will see the next boot
        return []
    return [Found(f"timer {name}", removal(name)) for name in names]


def _hooks(host: Host) -> list[Found]:
    """Whose undo is run by their end. One that failed there is left for people to look at."""

    def removal(name: str) -> Callable[[], None]:
        return lambda: host.systemd.end(name)

    return [Found(f"hook {name}", removal(name)) for name in host.systemd.jobs()]


_PARTS = (_chains, _tables, _filters, _links, _sets, _processes, _cgroups, _timers, _hooks)
