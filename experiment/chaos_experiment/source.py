"""YAML text as plain data that remembers its lines. Pure.

Scalars stay the text that was written, so that ``1:30`` and ``on`` do not become 90 and
true; what they mean is decided by the models. What YAML has beyond that is refused: anchors
and aliases (a small file could be endless), tags, keys that stand there twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from chaos_core.errors import InvalidInput

MAX_BYTES: Final = 256 * 1024
MAX_DEPTH: Final = 16
MAX_VALUES: Final = 4000  # of texts, lists and mappings: a controller reads it between two beats

Path = tuple[str | int, ...]

# libyaml's is ten times as fast; not every build of PyYAML has it.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Source:
    """A document: mappings, lists and texts, and the line (from 1) where each begins."""

    name: str
    data: dict[str, Any]
    lines: Mapping[Path, int]

    def place(self, path: Path) -> str:
        """``web.yaml:31:timeline[1].with.delay``; the nearest line that is known."""
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        field_name = dotted(path)
        line = self.lines.get(known, 1)
        return f"{self.name}:{line}" + (f":{field_name}" if field_name else "")

    def line(self, path: Path) -> str:
        """``web.yaml:31``."""
        return f"{self.name}:{self.lines.get(path, 1)}"


def dotted(path: Path) -> str:
    """A path as people write it: ``timeline[1].with.delay``; lists count from 0."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def read(text: str, name: str) -> Source:
    """Raises InvalidInput, saying where, for what is no document of ours."""
    if len(text.encode(errors="replace")) > MAX_BYTES:
        raise InvalidInput(f"longer than {MAX_BYTES // 1024} KiB", where=name)
    reader = _Reader(name)
    try:
        data = reader.document(yaml.parse(text, Loader=_LOADER))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)  # none for bytes that are no text
        where = f"{name}:{mark.line + 1}" if mark else name
        what = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot read it"
        raise InvalidInput(
            f"not YAML: {what}",
            where=where,
            hint="check indentation and brackets; quote a text with `: ` in it",
        ) from None
    except ValueError:  # PyYAML's own, on escapes of characters that do not exist
        raise InvalidInput("not YAML: an escape of no character", where=name) from None
    if not isinstance(data, dict):
        raise InvalidInput("no fields, like `title: …`", where=f"{name}:1")
    return Source(name, data, reader.lines)


@dataclass(slots=True)
class _Reader:
    name: str
    lines: dict[Path, int] = field(default_factory=dict)

    def document(self, events: Iterator[yaml.Event]) -> Any:
        data: Any = None
        seen = False
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                if seen:
                    raise self._refusal(event, "a second document in one file", "make it a file")
                seen = True
                data = self._value(next(events), events, ())
        return data

    def _value(self, event: yaml.Event, events: Iterator[yaml.Event], path: Path) -> Any:
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise self._refusal(event, "anchors and aliases are not read", "use params and ${name}")
        if _tag(event):
            raise self._refusal(event, f"tags like {_tag(event)} are not read", "leave it out")
        if len(path) > MAX_DEPTH:
            raise self._refusal(event, f"nested more than {MAX_DEPTH} deep", "")
        self.lines.setdefault(path, _line(event))
        if len(self.lines) > MAX_VALUES:
            raise self._refusal(event, f"more than {MAX_VALUES} values", "several scenarios")
        if isinstance(event, yaml.ScalarEvent):
            if any("\ud800" <= character <= "\udfff" for character in event.value):
                raise self._refusal(event, "half of a character (a surrogate)", "leave it out")
            return event.value
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(inner := next(events), yaml.SequenceEndEvent):
                items.append(self._value(inner, events, (*path, len(items))))
            return items
        found: dict[str, Any] = {}
        while not isinstance(inner := next(events), yaml.MappingEndEvent):
            if not isinstance(inner, yaml.ScalarEvent) or inner.anchor or _tag(inner):
                raise self._refusal(inner, "a name of a field is expected", "like `title: …`")
            key = inner.value
            if key in found:
                raise self._refusal(inner, f"{dotted((*path, key))} is there twice", "keep one")
            self.lines[(*path, key)] = _line(inner)
            found[key] = self._value(next(events), events, (*path, key))
        return found

    def _refusal(self, event: yaml.Event, what: str, hint: str) -> InvalidInput:
        return InvalidInput(what, where=f"{self.name}:{_line(event)}", hint=hint)


def _tag(event: yaml.Event) -> str:
    return getattr(event, "tag", None) or ""


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1
