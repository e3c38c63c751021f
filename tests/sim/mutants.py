"""The rules, each broken on purpose: a simulation that does not notice proves nothing.

A mutant is what a plausible mistake would look like in the product's code. ``rules``
are the invariants of which at least one must notice it; ``first`` is a seed that does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from tests.sim.node import Machine

from chaos_agent.effects import leased_set
from chaos_agent.supervisor import Supervisor
from chaos_controller import grants, preflight
from chaos_controller.aborts import Aborts
from chaos_controller.runs import Runs
from chaos_controller.server import Controller
from chaos_controller.store import epochs
from chaos_core.lease import Lease, LeaseTable

_S = 1_000_000
_grant = LeaseTable.grant
_admit = LeaseTable.admit
_inherit = Controller._inherit
_released = Runs._released


@dataclass(frozen=True, slots=True)
class Mutant:
    """``patches`` are (where, which attribute, what instead)."""

    name: str
    rules: tuple[str, ...]
    first: int
    patches: tuple[tuple[Any, str, Any], ...]

    @contextmanager
    def instead(self) -> Iterator[None]:
        with ExitStack() as stack:
            for where, what, wrong in self.patches:
                stack.enter_context(patch.object(where, what, wrong))
            yield


# ── the agent's ───────────────────────────────────────────────────────────────────────────


def _from_receipt(self: LeaseTable, now: int, **kwargs: Any) -> Any:
    if kwargs["seq"] in self._sent:
        self._sent[kwargs["seq"]] = now
    return _grant(self, now, **kwargs)


def _revives(self: LeaseTable, now: int, **kwargs: Any) -> Any:
    return _grant(self, now - 2 * _S, **kwargs)


def _no_epoch_check(self: LeaseTable, epoch: int) -> bool:
    self.epoch = epoch
    return True


def _extends_deadline(self: LeaseTable, now: int, **kwargs: Any) -> Any:
    for lease in list(self.leases.values()):
        if lease.run in kwargs["runs"]:
            self.leases[lease.fault] = replace(lease, deadline=now + 10**9, admitted_at=now)
    return _grant(self, now, **kwargs)


def _admits_twice(self: LeaseTable, now: int, **kwargs: Any) -> Any:
    self._admitted.clear()
    return _admit(self, now, **kwargs)


def _up(expires_at_us: int) -> int:
    now: int = vars(leased_set)["now_us"]()
    return max(0, -((now - expires_at_us) // _S))


def _nothing(*_: Any) -> None:
    return None


# ── the controller's ──────────────────────────────────────────────────────────────────────


def _grants_on(_authority: Any, faults: Any, _holding: Any) -> tuple[str, ...]:
    return tuple(sorted({fault.run for fault in faults if fault.state == "in_force"}))


async def _does_not_wait(self: Controller, at_least: int) -> None:
    await _inherit(self, at_least)
    self.authority.settled_at = 0


def _counts(last: int, at_least: int = 0, *, chance: int = 0) -> int:
    return max(last + 1, at_least) + 0 * chance


async def _lifts_any(self: Aborts, actor: str, reason: str) -> None:
    await self._store.clear_latch(actor, reason)
    self._authority.latch = None


def _releases_the_silent(self: Runs, run: str, node: str, now: int) -> bool:
    return node not in self._fleet.sessions or _released(self, run, node, now)


def _mutant(name: str, rules: str, first: int, *patches: tuple[Any, str, Any]) -> Mutant:
    return Mutant(name, tuple(rules.split()), first, patches)


MUTANTS = (
    _mutant("expiry counted from receipt", "lease", 4, (LeaseTable, "grant", _from_receipt)),
    _mutant(
        "CLOCK_MONOTONIC, which stops in suspend",
        "lease duration abort",
        54,
        (Machine, "clock", Machine.monotonic),
    ),
    _mutant("no epoch check", "epoch", 75, (LeaseTable, "obey", _no_epoch_check)),
    _mutant(
        "an expired lease revives",  # the kernel's sets alone would prevent it
        "revival",
        128,
        (LeaseTable, "grant", _revives),
        (leased_set.LeasedSetOps, "verify", _nothing),
    ),
    _mutant(
        "the kernel's timeout is rounded up",
        "lease duration",
        0,
        (leased_set, "seconds_left", _up),
    ),
    _mutant("grants go on after an abort", "abort", 245, (grants, "renewable", _grants_on)),
    _mutant(
        "no waiting after a controller's start",
        "radius",
        15,
        (Controller, "_inherit", _does_not_wait),
    ),
    _mutant(
        "a grant extends the deadline", "duration", 5, (LeaseTable, "grant", _extends_deadline)
    ),
    _mutant(
        "the kernel is not told the deadline",
        "duration",
        5,
        (Lease, "hold_until", property(lambda lease: lease.granted_until)),
    ),
    _mutant("a repeated apply starts again", "duration", 323, (LeaseTable, "admit", _admits_twice)),
    _mutant("a revert is not obeyed", "revert", 15, (Supervisor, "_revert", _nothing)),
    _mutant("epochs are a mere counter", "twins", 7, (epochs, "following", _counts)),
    _mutant(
        "a superseded controller starts runs", "radius", 403, (epochs, "check_newest", _nothing)
    ),
    _mutant(
        "a resume lifts an abort that came after it", "latched", 479, (Aborts, "resume", _lifts_any)
    ),
    _mutant("the blast radius is not checked", "radius", 2, (preflight, "check_radius", _nothing)),
    _mutant(
        "a silent node counts as free", "radius", 182, (Runs, "_released", _releases_the_silent)
    ),
)
