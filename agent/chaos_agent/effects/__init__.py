"""The primitives on a real kernel: one module each, all with the same five verbs.

``ops(effect)`` finds the module by the name of the effect's type. All verbs are
idempotent, and work from any half-applied state. Effects are applied in the order of
a compiled fault and reverted in the opposite one.
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from chaos_agent.linux.host import Host
from chaos_core.effects import Effect, Reboot, UndoTimer, Worker
from chaos_core.errors import ChaosError

if TYPE_CHECKING:  # an undo loads no more than it needs
    from chaos_agent.effects.counters import Counters
    from chaos_core.hits import Hits

FAILED = "the agent has failed: "
# What comes after one of these in a fault is applied once it is read back as in force.
AWAITED = (Worker,)


class Ops(Protocol):
    """What can be done with one kind of effect.

    Times are CLOCK_BOOTTIME in µs. ``expires_at_us`` is the end of the lease;
    ``deadline_us`` the end of the fault, which no renewal moves (default: the
    longest a fault may last, counted from now). Both bind only what holds a lease
    by itself: LeasedSet, PulsedSet, Holder and UndoTimer.
    """

    def apply(
        self, host: Host, effect: Any, expires_at_us: int, deadline_us: int | None = None
    ) -> None:
        """Put the effect in force, or finish what was half applied.

        Raises Unsupported when this kernel cannot, NotInForce when the lease is over.
        """

    def verify(self, host: Host, effect: Any) -> str | None:
        """Read everything back; None when in force, else one line that says what differs."""

    def renew(self, host: Host, effect: Any, expires_at_us: int) -> None:
        """Move the end of the lease. Raises NotInForce when it is over: nothing revives."""

    def revert(self, host: Host, effect: Any) -> None:
        """Take away what is ours of it, whatever of it is there."""

    def absent(self, host: Host, effect: Any) -> str | None:
        """None when nothing of it is left, else one line that names what is."""


@runtime_checkable
class Pulsing(Protocol):
    """What effects have beside that do not stay as they are while they are in force."""

    def turn(self, host: Host, effect: Any, expires_at_us: int) -> int:
        """Do what this moment asks for, under a lease until then; when to ask again."""


@runtime_checkable
class Counting(Protocol):
    """An optional ability: the kernel counts how much the effect hits."""

    def count(self, host: Host, effect: Any, counters: Counters) -> Hits | None:
        """How much so far, by ``counters`` or what else the kernel says; None: not counted."""


@runtime_checkable
class Eventful(Protocol):
    """An optional ability: hits are events that the kernel counts for a group of the user's."""

    def events(self, host: Host, effect: Any) -> Hits | None:
        """How often it has ever happened, also before; None: not counted."""


def ops(effect: Effect) -> Ops:
    """The verbs for this effect: its type's module, loaded when first needed."""
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(effect).__name__).lower()
    found: Ops = import_module(f"{__name__}.{name}").OPS
    return found


def load() -> None:
    """Load the verbs of all effects, for who has time now and none later."""
    for module in pkgutil.iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")


def next_boots(host: Host, effects: Sequence[Effect]) -> bool:
    """Whether only the next boot can end these: what systemd holds, while it goes down.

    It takes no order then, and after a boot its transient units are no more, and its
    services are what they are enabled to be. A reboot ends with the boot by its nature.
    """
    held = any(isinstance(effect, UndoTimer | Reboot) for effect in effects)
    return held and host.systemd.going_down()


def went_with_the_machine(host: Host, difference: Sequence[str]) -> bool:
    """Whether all that differs (``snapshot.diff``) is gone, while the machine goes down.

    Services that stop take their links and rules along, and the next boot has them again. But
    what is there and was not before is never passed over: it may be ours.
    """
    gone = bool(difference) and all(line.startswith("- ") for line in difference)
    return gone and host.systemd.going_down()


def words(error: Exception) -> str:
    """What to tell of an error. An unexpected one says its type, and where it was raised."""
    if isinstance(error, ChaosError | OSError):
        return str(error)
    at, where = error.__traceback__, ""
    while at is not None:
        where = f" ({at.tb_frame.f_globals.get('__name__')}:{at.tb_lineno})"
        at = at.tb_next
    return f"{FAILED}{type(error).__name__}: {error}{where}"


def revert_all(
    host: Host, effects: Sequence[Effect], step: Callable[[], None] = lambda: None
) -> list[str]:
    """Revert them in the opposite order and prove their absence; what is left, a line each.

    Whatever fails, the rest is still reverted. But a timer is disarmed only when what it
    would undo has been seen to be gone. ``step`` is called before each.
    """
    left: list[str] = []
    for effect in reversed(effects):
        step()
        if left and isinstance(effect, UndoTimer):
            continue
        try:
            ops(effect).revert(host, effect)
            problem = ops(effect).absent(host, effect)
        except Exception as error:  # the rest is still to be reverted
            problem = f"{type(effect).__name__}: {words(error)}"
        if problem:
            left.append(problem)
    return left
