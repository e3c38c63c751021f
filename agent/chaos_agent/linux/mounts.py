"""What is mounted where, as this process sees it: /proc/self/mountinfo, proc_pid_mountinfo(5)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount. ``options`` are those of the file system; ``source`` may be empty."""

    point: str
    kind: str
    source: str
    options: str


def read(text: str | None = None) -> list[Mount]:
    """All of them, in the kernel's order. ``text`` is what the kernel says, read if not given."""
    if text is None:
        text = Path("/proc/self/mountinfo").read_text(errors="replace")
    found = []
    for line in text.splitlines():
        fields, _, rest = line.partition(" - ")
        kind, source, options = rest.split(" ", 2)  # an empty source is two blanks in a row
        found.append(Mount(_unescaped(fields.split(" ")[4]), kind, source, options))
    return found


def _unescaped(text: str) -> str:
    """Blanks and backslashes in a path, as the kernel writes them: ``\\\\040``."""
    for octal, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(octal, character)
    return text
