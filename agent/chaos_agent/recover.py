"""``chaos-agent recover``: take off whatever of ours is on this node. Offline, idempotent.

It runs before the keeper starts and after it stops, by systemd, in the keeper's own
start, since those two may have been killed as well, and by hand. First
the journal: what was begun and is not known to be undone is reverted in reverse
and compared with its snapshot. Then the sweep: everything that carries our tag
goes, whether or not a journal knows of it. It must never touch anything else.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from chaos_agent import snapshot
from chaos_agent.effects import next_boots, revert_all, sweep, went_with_the_machine, words
from chaos_agent.journal import Intent, Journal, quarantine_file, read_quarantine
from chaos_agent.linux.boottime import boot_id
from chaos_agent.linux.host import Host
from chaos_core.errors import Refused
from chaos_core.log import Log

_RETRY_S = 0.2
_BUDGET = 8_000_000  # µs, for all reverts together; systemd gives `recover` 20 s (TimeoutStopSec)


@dataclass(slots=True)
class Report:
    """What was found: faults from the journal, residue by tag, and what still differs."""

    faults: list[str] = field(default_factory=list)
    swept: list[str] = field(default_factory=list)
    difference: list[str] = field(default_factory=list)


def recover(host: Host, state: Path, clock: Callable[[], int], log: Log) -> Report:
    """Bring the node back to what it was. A difference is kept as quarantine.

    A journal that cannot be opened is reported and does not keep the sweep from running.
    """
    report = Report()
    try:
        journal = Journal(state)
    except Refused as error:
        log.error("no journal", why=str(error))
        report.difference.append(str(error))
        _sweep(host, report)
        return report
    try:
        found = journal.open_intents()
        intents = [intent for intent in found if not next_boots(host, intent.effects)]
        damaged = journal.damaged
        _revert(host, intents, clock, log)
        _sweep(host, report)
        for intent in intents:
            _close(host, journal, intent, clock(), report, log)
        if damaged:
            _set_aside(journal, damaged, report)
        if report.difference:
            _quarantine(state, report)
        journal.rotate()
    finally:
        journal.close()
    return report


def _set_aside(journal: Journal, damaged: int, report: Report) -> None:
    """Say once that something was begun of which nobody can tell whether it is wholly undone."""
    report.difference.append(
        f"{journal.path}: {damaged} entries cannot be read; what carries our tag was swept, the"
        " rest could not be compared"
    )
    try:
        journal.set_aside()
    except OSError as error:
        report.difference.append(f"{journal.path}: cannot be set aside: {error.strerror}")


def _quarantine(state: Path, report: Report) -> None:
    """Beside what the node is quarantined for already: nobody has looked at that yet."""
    why = dict.fromkeys([*read_quarantine(state), *report.difference])
    try:
        quarantine_file(state).write(list(why))
    except OSError as error:
        report.difference.append(f"the quarantine cannot be kept: {error.strerror}")


def _sweep(host: Host, report: Report) -> None:
    report.swept = [str(item) for item in sweep.find(host)]
    if report.swept:
        report.difference += sweep.clear(host, _RETRY_S)


def _close(host: Host, journal: Journal, intent: Intent, at: int, report: Report, log: Log) -> None:
    """Compare a reverted fault with its snapshot and journal that it is over.

    While the machine goes down others' things go as well, and the next boot closes it.
    """
    rebooted = intent.boot != boot_id()
    reason = "reboot" if rebooted else "recover"
    difference = [] if rebooted else _compare(host, intent)
    if went_with_the_machine(host, difference):
        return
    unkept = journal.done(at, fault=intent.fault, reason=reason, difference=difference)
    report.faults.append(f"{intent.fault} ({intent.kind}): {reason}")
    report.difference += [f"fault {intent.fault}: {line}" for line in difference]
    log.info(
        "recovered",
        fault=intent.fault,
        run=intent.run,
        reason=reason,
        clean=not difference,
        journal=unkept or "kept",
    )


def _revert(host: Host, intents: list[Intent], clock: Callable[[], int], log: Log) -> None:
    """All of them in the opposite order; and again, as long as something resists and time is left.

    Another program holds the xtables lock, say, or PID 1 is busy with a reload.
    """
    until = clock() + _BUDGET
    while True:
        left = {intent.fault: revert_all(host, intent.effects) for intent in reversed(intents)}
        if not any(left.values()) or clock() > until:
            break
        time.sleep(_RETRY_S)
    for fault, problems in left.items():
        for problem in problems:
            log.error("revert failed", fault=fault, why=problem)


def _compare(host: Host, intent: Intent) -> list[str]:
    """What is not as it was before, of what the fault brings or changes."""
    try:
        after = snapshot.take(host, snapshot.scope_of(intent.effects))
    except Exception as error:
        return [f"the node cannot be read back: {words(error)}"]
    return [*snapshot.our_doing(intent.before, after), *host.xtables.damage]


def release_quarantine(state: Path, reason: str, log: Log) -> None:
    """Let faults start again on this node; the caller has seen that it is clean."""
    was = read_quarantine(state)
    quarantine_file(state).remove()
    log.info("quarantine lifted", why=reason, was="; ".join(was))
