"""What goes to the screen: tables for people, JSON for programs, errors for both.

Results go to standard output; errors, questions and notes to standard error.
Colour only on a terminal and never with NO_COLOR; tables fit 80 columns. What
came over the wire is printed as text: no markup, no control characters.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import typer

from chaos_core.errors import ChaosError, InvalidInput, Refused

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# Styles of states, phases and verdicts: red only where somebody must look.
STYLES = {
    "connected": "green",
    "held": "green",
    "passed": "green",
    "in_force": "yellow",
    "observe": "yellow",
    "unreachable": "red",
    "quarantined": "red",
    "fenced": "red",
    "failed": "red",
    "no_effect": "red",
    "refused": "red",
    "aborted": "red",
    "abort": "red",
    "interrupted": "red",
    "risky": "yellow",
}


def console(*, stderr: bool = False) -> Console:
    """A console without highlighting or markup."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=False)


def clean(value: object) -> str:
    """One line without control characters.

    A node's words, or another operator's, must neither drive our terminal nor look like
    lines of ours.
    """
    return "".join(c if c.isprintable() else " " if c.isspace() else "�" for c in str(value))


def _lines(text: object) -> str:
    """The same for texts of ours that have several lines."""
    return "\n".join(map(clean, str(text).split("\n")))


def _plain(data: object, **how: Any) -> str:
    """JSON that is as readable as it can be without driving a terminal."""
    text = json.dumps(data, ensure_ascii=False, **how)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def word(value: object, style: str | None = None) -> Text:
    """A word in the style of its meaning."""
    from rich.text import Text

    text = clean(value)
    return Text(text, style=STYLES.get(text, "") if style is None else style)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; a column whose name starts with ``>`` is right-aligned."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        name = column.removeprefix(">")
        made.add_column(name, justify="right" if name != column else "left", overflow="fold")
    for row in rows:
        made.add_row(*map(word, row))
    console().print(made)


def fields(pairs: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one pair a line."""
    pairs = [(name, clean(value)) for name, value in pairs]
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        typer.echo(f"{name:{width}}  {value}")


def document(data: object) -> None:
    """Print one JSON document."""
    typer.echo(_plain(data, indent=2))


def line(data: object) -> None:
    """Print one JSON object on one line, at once: part of a stream."""
    typer.echo(_plain(data, separators=(",", ":")))


def note(text: str) -> None:
    """Tell people something that is not part of the result."""
    typer.echo(_lines(text), err=True)


def error(problem: ChaosError, *, as_json: bool) -> None:
    """Print an error: one or two lines, or one JSON object."""
    if as_json:
        body = {"code": problem.code, "exit": int(problem.exit), "error": problem.what}
        extra = {"where": problem.where, "hint": problem.hint}
        body |= {key: value for key, value in extra.items() if value}
        typer.echo(_plain(body), err=True)
        return
    red = sys.stderr.isatty() and not no_color()
    typer.echo(f"{typer.style('error', fg='red') if red else 'error'}: {_lines(problem)}", err=True)


def confirm(question: str, nobody: str = "there is nobody to ask") -> None:
    """Ask on a terminal. Raises InvalidInput without one, Refused when the answer is no."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InvalidInput(nobody, hint="add --yes")
    if not typer.confirm(question, err=True):
        raise Refused("not confirmed; nothing was done")


def no_color() -> bool:
    """Whether NO_COLOR asks for plain text."""
    import os

    return bool(os.environ.get("NO_COLOR"))


def message(data: Any) -> dict[str, Any]:
    """A protobuf message as JSON data: names as in the contract, JSON texts as values.

    What was not counted is null, and never a zero.
    """
    found: dict[str, Any] = {}
    for field in data.DESCRIPTOR.fields:
        value = getattr(data, field.name)
        counted = field.name == "hits" or field.message_type is None
        if counted and field.has_presence and not data.HasField(field.name):
            found[field.name] = None
        elif field.message_type is not None:
            many = hasattr(value, "append")
            found[field.name] = [message(item) for item in value] if many else message(value)
        elif hasattr(value, "append"):
            found[field.name] = list(value)
        else:
            found[field.name] = _value(field.name, value)
    return found


def _value(name: str, value: Any) -> Any:
    if name not in ("envelope", "params", "schema") or not value:
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value
