"""A run as it happens: ``T+m:ss`` lines, a countdown on a terminal, and the verdict.

The exit code follows from the verdict alone, so that a script can tell a fault
that held from one that failed, was refused or was aborted.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from chaos_core.errors import Exit
from chaosctl import output

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

    from chaos_proto.v1.chaos_pb2 import RunEvent

_EXITS = {
    "held": Exit.DONE,
    "passed": Exit.DONE,
    "failed": Exit.FAILED,
    "interrupted": Exit.FAILED,
    "refused": Exit.REFUSED,
    "aborted": Exit.ABORTED,
    "no_effect": Exit.NO_EFFECT,
}


def exit_of(verdict: str) -> Exit:
    """The exit code of a run that ended so; one that we do not know is a failure."""
    return _EXITS.get(verdict, Exit.FAILED)


def stamp(at_us: int) -> str:
    """``T+m:ss`` since the run's start."""
    minutes, seconds = divmod(at_us // 1_000_000, 60)
    return f"T+{minutes}:{seconds:02d}"


class View(Protocol):
    """Shows the events of runs as they come."""

    def show(self, event: RunEvent) -> None: ...


class JsonLines:
    """One JSON object a line."""

    def show(self, event: RunEvent) -> None:
        output.line(output.message(event))


class Lines:
    """One line an event; ``several`` runs are told apart by name."""

    def __init__(self, *, several: bool = False, verdicts: bool = True) -> None:
        self._several = several
        self._verdicts = verdicts
        self._console = output.console()

    def show(self, event: RunEvent) -> None:
        if event.event != "verdict":  # its reason stands on the line of the last phase
            self._line(event)
        if event.verdict and self._verdicts:
            self._verdict(event)

    def _line(self, event: RunEvent) -> None:
        from rich.text import Text

        what = event.phase if event.event == "phase" else event.node or event.event
        text = Text.assemble(
            (f"{output.clean(event.run)}  " if self._several else "", "dim"),
            (f"{stamp(event.at_us):8}", "dim"),
            output.word(f"{what:10}", output.STYLES.get(what, "cyan")),
            *(" ", output.clean(event.text)),
        )
        self._console.print(text, soft_wrap=True)

    def _verdict(self, event: RunEvent) -> None:
        from rich.text import Text

        style = f"bold {output.STYLES.get(event.verdict, 'red')}"
        name = f"run {output.clean(event.run)}: "
        self._console.print(Text.assemble(name, output.word(event.verdict, style)), soft_wrap=True)


class Countdown(Lines):
    """The lines, and beneath them what is going on and for how much longer."""

    def __init__(self, duration_us: int, console: Console, status: Status) -> None:
        super().__init__()
        self._console = console
        self._status = status
        self._duration_s = duration_us / 1_000_000
        self._ends_at: float | None = None
        self._phase = "starting"

    def show(self, event: RunEvent) -> None:
        if event.event == "phase":
            self._phase = output.clean(event.phase)
            observing = event.phase == "observe"
            self._ends_at = time.monotonic() + self._duration_s if observing else None
        if event.verdict:
            self._status.stop()
        super().show(event)

    def __rich__(self) -> str:
        """What stands beside the spinner; asked for at each refresh."""
        if self._ends_at is None:
            return self._phase
        left = max(0, round(self._ends_at - time.monotonic()))
        return f"in force, {left // 60}:{left % 60:02d} to go   (chaosctl abort ends it now)"


@contextmanager
def view(*, as_json: bool, duration_us: int) -> Iterator[View]:
    """The view that fits: JSON, plain lines, or a countdown on a terminal."""
    if as_json:
        yield JsonLines()
    elif not sys.stdout.isatty():
        yield Lines()
    else:
        console = output.console()
        with console.status("") as status:
            countdown = Countdown(duration_us, console, status)
            status.update(countdown)
            yield countdown
