"""Chains of our own in xtables' tables, through python-iptables.

Promises: one commit a change, under /run/xtables.lock, rebuilt from fresh when
someone else changed the table meanwhile (EAGAIN). Foreign chains and rules are
never touched; a table is only opened when it is in use or about to be, because
opening one loads its module. A fresh handle is made for every change and read,
so it belongs to the network namespace of the moment.

A commit replaces a whole table, so foreign rules are compared before and after it, under the
lock. ``damage`` lists what a commit changed and should not have; the end of the fault reports it.

Rules are compared as bytes, the way ``iptables -C`` does it: what libxtables
builds from the Rule against what the kernel holds. No text is parsed, and nothing
is lost in translation.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tenacity

from chaos_agent.linux import waiting
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.distribution import module_hint
from chaos_agent.linux.xtrules import Entry, build_jump, build_rule, entry_of, iptc
from chaos_core.effects import Chain, Family, Table, is_ours
from chaos_core.errors import Busy, ChaosError, NotInForce, Unsupported

FAMILIES: tuple[Family, ...] = (4, 6)
TABLES: tuple[Table, ...] = ("raw", "mangle", "filter", "nat", "security")
_LOCK = Path("/run/xtables.lock")
_LOCK_WAIT = 1_000_000  # µs
_LOCK_MEMORY = 2_000_000  # µs for which a lock that was not to be had is not waited for again
_LETS_PASS = ("ACCEPT", "QUEUE", "NFQUEUE")  # the rest of the table is not asked any more
_NAMES: dict[Family, Path] = {
    4: Path("/proc/net/ip_tables_names"),
    6: Path("/proc/net/ip6_tables_names"),
}
_BUSY = "Resource temporarily unavailable"


class _Changed(ChaosError):
    """The kernel refused a commit because the table had changed since it was read."""


class Xtables:
    """The legacy backend. Must be used from one thread (python-iptables).

    Without state but for ``damage`` and what ``difference`` has counted, since reading costs.
    """

    def __init__(self) -> None:
        self._counted: dict[tuple[Family, str, str], tuple[int, ...]] = {}
        self._wanted: dict[tuple[Family, str, str], tuple[Chain, list[Entry]]] = {}
        self.damage: list[str] = []
        self._gave_up_at = -_LOCK_MEMORY

    def tables(self, family: Family) -> list[str]:
        """The tables in use in this network namespace, in the kernel's order. Opens none."""
        thread = Path("/proc/thread-self") / _NAMES[family].relative_to("/proc")
        try:
            return thread.read_text().split()
        except OSError:
            return []

    def works(self) -> bool:
        """Whether this kernel has such tables at all; opening one loads its module."""
        try:
            with self._open(4, "mangle"):
                return True
        except Unsupported:
            return False

    def put(self, chain: Chain) -> None:
        """Make the chain and its jump what ``chain`` says, in one commit.

        Raises Unsupported when a match, target or table is missing.
        """

        def change(table: Any) -> None:
            if table.is_chain(chain.name):
                _delete_jumps(table, chain)
                table.flush_entries(chain.name)
            else:
                table.create_chain(chain.name)
            wanted = []
            for rule in chain.rules:
                built = build_rule(table, chain.family, rule)
                wanted.append(entry_of(built, chain.family))
                table.append_entry(chain.name, built.rule)
            self._wanted[_key(chain)] = chain, wanted
            jump = build_jump(table, chain.family, chain.name).rule
            if chain.end:
                table.append_entry(chain.hook, jump)
            else:
                table.insert_entry(chain.hook, jump, 0)

        self._change(chain.family, chain.table, chain.name, change)

    def remove(self, family: Family, table_name: str, name: str) -> None:
        """Remove one of our chains with all jumps to it. Idempotent; no commit if absent."""
        if not is_ours(name):
            raise ChaosError(f"{name} is not a chain of ours", where=table_name)
        self._counted.pop((family, table_name, name), None)
        self._wanted.pop((family, table_name, name), None)
        if table_name not in self.tables(family):
            return

        def change(table: Any) -> bool:
            jumps = [
                chain.name
                for chain in table.chains
                for entry in _entries(table, family, chain.name)
                if entry.target == name
            ]
            if not jumps and not table.is_chain(name):
                return False
            for hook in jumps:
                rule = build_jump(table, family, name)
                buffer = rule.rule
                table.delete_entry(hook, buffer, rule.mask)
            table.flush_entries(name)
            table.delete_chain(name)
            return True

        self._change(family, table_name, name, change)

    def difference(self, chain: Chain) -> str | None:
        """One line that says how the kernel differs from ``chain``; None when it does not."""
        if chain.table not in self.tables(chain.family):
            return f"table {chain.table} (IPv{chain.family}) is not in use"
        with self._open(chain.family, chain.table) as table:
            if not table.is_chain(chain.name):
                return f"chain {chain.name} is missing in {chain.table} (IPv{chain.family})"
            found = list(_entries(table, chain.family, chain.name))
            self._counted[_key(chain)] = tuple(entry.packets for entry in found)
            try:
                wanted = self._entries_of(table, chain)
            except Unsupported as error:
                return error.what
            hooked = {
                one.name: list(_entries(table, chain.family, one.name)) for one in table.chains
            }
        if len(found) != len(wanted):
            return f"chain {chain.name} has {len(found)} rules, not {len(wanted)}"
        for number, (have, want) in enumerate(zip(found, wanted, strict=True), 1):
            if have != want:
                return f"rule {number} of {chain.name} is {have.text}, not {want.text}"
        return (
            _jump_difference(chain, hooked)
            or _overwritten(chain, hooked, chain.table)
            or _robbed(chain, hooked)
        )

    def _entries_of(self, table: Any, chain: Chain) -> list[Entry]:
        """What the kernel should say of the chain, built once: the sets that it names are there

        for as long as it is. Raises Unsupported.
        """
        made_of, entries = self._wanted.get(_key(chain), (None, []))
        if made_of != chain:
            rules = (build_rule(table, chain.family, rule) for rule in chain.rules)
            entries = [entry_of(rule, chain.family) for rule in rules]
            self._wanted[_key(chain)] = chain, entries
        return entries

    def obstacle(self, chain: Chain) -> str | None:
        """A rule of somebody else's because of which ``chain`` would have no effect, or too much

        of one: a mark that is kept with a connection outlives the lease. Or one that would not
        see the packets that ``chain`` queues.
        """
        for table in ("mangle", "nat") if _mark_of(chain) else ():
            found = _overwritten(chain, self.chains(chain.family, table), table)
            if found:
                return found
        return _robbed(chain, self.chains(chain.family, chain.table)) if _queues(chain) else None

    def last_packets(self, chain: Chain) -> tuple[int, ...]:
        """The same as ``packets``, as it was when ``difference`` was last asked."""
        return self._counted.get(_key(chain), ())

    def packets(self, chain: Chain) -> tuple[int, ...]:
        """How many packets each rule has met, in order. Empty when it is not there."""
        if chain.table not in self.tables(chain.family):
            return ()
        with self._open(chain.family, chain.table) as table:
            if not table.is_chain(chain.name):
                return ()
            return tuple(e.packets for e in _entries(table, chain.family, chain.name))

    def chains(self, family: Family, table_name: str) -> dict[str, list[Entry]]:
        """Every chain of a table in use with its rules. Empty for a table that is not."""
        return self.read(family, table_name)[1] if table_name in self.tables(family) else {}

    def names(self, family: Family, table_name: str) -> list[str]:
        """The chains of a table in use."""
        with self._open(family, table_name) as table:
            return [one.name for one in table.chains]

    def read(
        self, family: Family, table_name: str
    ) -> tuple[dict[str, str], dict[str, list[Entry]]]:
        """The policy of each built-in chain of a table in use, and every chain with its rules."""
        with self._open(family, table_name) as table:
            chains = table.chains
            return (
                {one.name: one.get_policy().name for one in chains if one.is_builtin()},
                {one.name: list(_entries(table, family, one.name)) for one in chains},
            )

    def leftover(self, chain: Chain) -> str | None:
        """One line when something of the chain is still there, if only a jump to it."""
        chains = self.chains(chain.family, chain.table)
        where = f"{chain.table} (IPv{chain.family})"
        if chain.name in chains:
            return f"chain {chain.name} is still in {where}"
        for name, entries in chains.items():
            if any(entry.target == chain.name for entry in entries):
                return f"a jump to {chain.name} is still in {name} of {where}"
        return None

    def try_rule(self, chain: Chain) -> None:
        """Commit ``chain`` without a jump and take it away again: can this kernel do it?

        Raises Unsupported when it cannot. Nothing ever passes through such a chain.
        """

        def change(table: Any) -> None:
            if not table.is_chain(chain.name):
                table.create_chain(chain.name)
            table.flush_entries(chain.name)
            for rule in chain.rules:
                table.append_entry(chain.name, build_rule(table, chain.family, rule).rule)

        try:
            self._change(chain.family, chain.table, chain.name, change)
        finally:
            self.remove(chain.family, chain.table, chain.name)

    # ── the one way to change a table ─────────────────────────────────────────────────

    def _change(
        self, family: Family, table_name: str, where: str, change: Callable[[Any], bool | None]
    ) -> None:
        """Run ``change`` on a fresh handle and commit, unless it returns False."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Changed),
            wait=tenacity.wait_random(0, 0.02),
            stop=tenacity.stop_after_attempt(20),
        )
        try:
            retrying(self._change_once, family, table_name, where, change)
        except tenacity.RetryError:
            raise Busy(
                f"table {table_name} (IPv{family}) kept changing under 20 attempts",
                where=where,
                hint="another program rewrites the firewall all the time; stop it and try again",
            ) from None

    def _change_once(
        self, family: Family, table_name: str, where: str, change: Callable[[Any], bool | None]
    ) -> None:
        with self._lock(where), self._open(family, table_name) as table:
            others = _others(table, family, where)
            try:
                if change(table) is False:
                    return
                table.commit()
                table.refresh()
            except (iptc().IPTCError, iptc().XTablesError) as error:
                if _BUSY in str(error):
                    raise _Changed(f"table {table_name} (IPv{family}) has changed") from None
                raise Unsupported(
                    f"table {table_name} (IPv{family}) refuses: {error}",
                    where=where,
                    hint=f"the kernel or iptables lacks a match or target: {module_hint()}",
                ) from None
            if _others(table, family, where) != others:
                said = f"a commit to table {table_name} (IPv{family}) has changed rules of others"
                self.damage.append(said)
                raise NotInForce(said, where=where)

    @contextmanager
    def _lock(self, where: str) -> Iterator[None]:
        """Hold the lock that the iptables tools take. Raises Busy after a second of waiting.

        It does not wait again within two seconds of giving up: a fault has several chains and its
        revert is retried, and meanwhile this thread must also serve the leases of other faults.
        """
        descriptor = os.open(_LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            now = now_us()
            until = now if now < self._gave_up_at + _LOCK_MEMORY else now + _LOCK_WAIT
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if now_us() > until:
                        self._gave_up_at = now_us()
                        raise Busy(
                            f"{_LOCK} is held by another program",
                            where=where,
                            hint=f"find it with `fuser {_LOCK}`",
                        ) from None
                    waiting.pause(0.005)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _open(self, family: Family, name: str) -> Iterator[Any]:
        lib = iptc()
        try:
            table = (lib.Table if family == 4 else lib.Table6)(name, autocommit=False)
            table.refresh()
        except lib.IPTCError as error:
            raise Unsupported(
                f"no xtables table {name} for IPv{family} ({error})",
                hint="this host has no legacy iptables; see `chaos-agent doctor`",
            ) from None
        try:
            yield table
        finally:
            table.close()


def _entries(table: Any, family: Family, chain: str) -> Iterator[Entry]:
    """The chain's rules as comparable values."""
    raw = table.first_rule(chain)
    while raw:
        target = table.get_target(raw)
        data = ctypes.string_at(ctypes.addressof(raw), raw.next_offset)
        yield Entry.read(data, family, (target or b"").decode())
        raw = table.next_rule(raw)


def _others(table: Any, family: Family, name: str) -> dict[str, tuple[str, list[Entry]]]:
    """All chains but ours and the one of that name: policies, and rules that do not lead to one."""

    def foreign(one: str) -> bool:
        return one != name and not is_ours(one)

    return {
        chain.name: (
            chain.get_policy().name if chain.is_builtin() else "",
            [one for one in _entries(table, family, chain.name) if foreign(one.target)],
        )
        for chain in table.chains
        if foreign(chain.name)
    }


def _key(chain: Chain) -> tuple[Family, str, str]:
    return chain.family, chain.table, chain.name


def _mark_of(chain: Chain) -> int:
    """The mark's bits that the chain writes; 0 when it writes none."""
    return next((rule.mask for rule in chain.rules if rule.target == "MARK"), 0)


def _queues(chain: Chain) -> bool:
    return any(rule.target == "NFQUEUE" for rule in chain.rules)


def _delete_jumps(table: Any, chain: Chain) -> None:
    for entry in list(_entries(table, chain.family, chain.hook)):
        if entry.target == chain.name:
            rule = build_jump(table, chain.family, chain.name)
            buffer = rule.rule
            table.delete_entry(chain.hook, buffer, rule.mask)


def _jump_difference(chain: Chain, chains: dict[str, list[Entry]]) -> str | None:
    """The jump must be there once, with nothing above it that lets packets pass it by."""
    above = chains[chain.hook]
    jumps = [number for number, entry in enumerate(above) if entry.target == chain.name]
    if len(jumps) != 1:
        return f"{len(jumps)} jumps from {chain.hook} to {chain.name}, not 1"
    for entry in above[: jumps[0]]:
        reached = [entry, *_reached(chains, [entry.target])]
        if entry.target == "RETURN" or any(each.target in _LETS_PASS for each in reached):
            return f"a foreign rule stands above the jump to {chain.name}: {entry.text}"
    return None


def _overwritten(chain: Chain, chains: dict[str, list[Entry]], table: str) -> str | None:
    """A foreign rule behind ours that touches the mark which ``chain`` writes, if it does."""
    mask = _mark_of(chain)
    for entry in _reached(chains, [chain.hook]) if mask else ():
        if entry.writes_mark(mask):
            return (
                f"a rule of somebody else's in {table} {chain.hook} (IPv{chain.family})"
                f" writes or keeps the mark's bits {mask:#x}: {entry.text}"
            )
    return None


def _robbed(chain: Chain, chains: dict[str, list[Entry]]) -> str | None:
    """A foreign rule behind ours, if ``chain`` queues: what comes back passes the table by."""
    if not _queues(chain):
        return None
    entries = chains.get(chain.hook, [])
    targets = [entry.target for entry in entries]
    behind = targets.index(chain.name) + 1 if chain.name in targets else 0
    for entry in entries[behind:]:
        if not is_ours(entry.target):
            return (
                f"a rule of somebody else's in {chain.table} {chain.hook} (IPv{chain.family})"
                f" would not see the packets: {entry.text}"
            )
    return None


def _reached(chains: dict[str, list[Entry]], names: list[str]) -> list[Entry]:
    """All rules that a packet may meet from these chains on, without those of our own chains."""
    seen: set[str] = set()
    found = []
    while names:
        name = names.pop()
        if name in seen or name not in chains or is_ours(name):
            continue
        seen.add(name)
        found += chains[name]
        names += [entry.target for entry in chains[name]]
    return found
