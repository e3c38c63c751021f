"""A scenario's params: what each stands for, and the document with them filled in. Pure.

``${name}`` is replaced wherever a value stands; ``$${name}`` is the text itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from chaos_core.errors import InvalidInput
from chaos_core.faults import nearest
from chaos_experiment.source import MAX_BYTES, Path, Source

# Filled in for each node, for the probe of a target's ``where``.
NODE_FIELDS: Final = ("node.name", "node.address")

_HOLE: Final = re.compile(r"\$(\$?)\{([^{}]*)\}")
_UNFILLED: Final = ("params", "levels", "environments")  # where the values themselves stand
_LONGEST: Final = 4096
_MAX_FILLED: Final = 4 * MAX_BYTES

Problem = Callable[[Path, str, str], None]


def values(
    source: Source, settings: Mapping[str, str], level: str, environment: str, problem: Problem
) -> dict[str, str]:
    """The file's, unless the environment's, the level's or the operator's say another.

    Raises InvalidInput when what was chosen from outside is not in the file.
    """
    data = source.data
    found = {name: text_of(value) for name, value in mapping(data.get("params")).items()}
    for part in ("environments", "levels"):
        for name, given in mapping(data.get(part)).items():
            for key in mapping(given):
                if key not in found:
                    hint = _nearest(key, found, "declare it in params")
                    problem((part, name, key), f"there is no param {key!r}", hint)
    environments = mapping(data.get("environments"))
    promises: dict[str, Any] = {
        key: {} for key, each in mapping(data.get("slo")).items() if mapping(each)
    }
    for chosen, offered, what in (
        (environment, {**promises, **environments}, "environment"),
        (level, mapping(data.get("levels")), "level"),
    ):
        if chosen and chosen not in offered:
            hint = _nearest(chosen, offered, f"it has no {what}s")
            raise InvalidInput(f"there is no {what} {chosen!r}", where=source.name, hint=hint)
        given = mapping(offered.get(chosen))
        found |= {key: text_of(value) for key, value in given.items() if key in found}
    for key in settings:
        if key not in found:
            hint = _nearest(key, found, "it has none")
            what = f"--set {key}: there is no such param"
            raise InvalidInput(what, where=source.name, hint=hint)
    found |= settings
    for key, value in found.items():
        if len(value) > _LONGEST:
            raise InvalidInput(
                f"longer than {_LONGEST} characters", where=source.place(("params", key))
            )
    return found


def filled(source: Source, params: Mapping[str, str], problem: Problem) -> dict[str, Any]:
    """The document with every ``${name}`` replaced. Raises InvalidInput when that grows
    beyond all bounds."""
    used: set[str] = set()
    size = 0

    def walk(value: Any, path: Path) -> Any:
        if isinstance(value, dict):
            return {key: walk(each, (*path, key)) for key, each in value.items()}
        if isinstance(value, list):
            return [walk(each, (*path, number)) for number, each in enumerate(value)]
        return _HOLE.sub(lambda hole: fill(hole, path), value)

    def fill(hole: re.Match[str], path: Path) -> str:
        nonlocal size
        escaped, name = hole.groups()
        if escaped:
            return "${" + name + "}"
        if name in params:
            used.add(name)
            size += len(params[name])
            if size > _MAX_FILLED:
                raise InvalidInput("too long with its params", where=source.place(path))
            return params[name]
        if path[0] != "probes" or name not in NODE_FIELDS:
            hint = _nearest(name, params, "declare it in params")
            problem(path, f"${{{name}}} is not declared in params", hint)
        return hole[0]

    document = {
        key: value if key in _UNFILLED else walk(value, (key,))
        for key, value in source.data.items()
    }
    for name in params:
        if name not in used:
            problem(("params", name), f"param {name!r} is not used", f"write ${{{name}}}")
    return document


def mapping(value: Any) -> Mapping[str, Any]:
    """A mapping, or an empty one for what is none: the models refuse that."""
    return value if isinstance(value, Mapping) else {}


def text_of(value: Any) -> str:
    """A text, or an empty one for what is none."""
    return value if isinstance(value, str) else ""


def texts(value: Any) -> Iterator[str]:
    """All texts in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from texts(each)


def _nearest(name: str, known: Mapping[str, object], nothing: str) -> str:
    return nearest(name, known) if known else nothing
