"""Text from outside, made safe to keep, to log and to show.

Whoever may write a reason, a label or a device's name could otherwise write lines that
look like ours, or drive the terminal of the one who reads them.
"""

from __future__ import annotations


def printable(value: object, limit: int) -> str:
    """One line without control characters, at most ``limit`` bytes of UTF-8.

    White space becomes a space; what else cannot be seen (escapes, marks that reverse
    the direction of writing, halves of a surrogate pair) becomes ``�``.
    """
    text = str(value)
    line = "".join(_visible(c) for c in text[: limit + 1])
    data = line.encode()
    if len(data) <= limit:
        return line
    return data[: limit - len("…".encode())].decode(errors="ignore") + "…"


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else "�"
