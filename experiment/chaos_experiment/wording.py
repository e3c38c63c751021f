"""Pydantic's problems with a scenario in our words, at their place in the document. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from chaos_core import faults
from chaos_experiment.scenario import ITEMS, RampSpec, Recovery, RepeatSpec, Scenario, SloTargets
from chaos_experiment.source import Path
from chaos_experiment.targets import Target


def place(loc: Sequence[str | int], data: Any) -> tuple[Path, type[BaseModel] | None]:
    """Where in the document pydantic's place is, and which model it is about.

    A place has names of a union's members in it, which are not in the document.
    """
    model: type[BaseModel] | None = Scenario
    path: list[str | int] = []
    models: Mapping[str, type[BaseModel]] = {
        "recovery": Recovery,
        "repeat": RepeatSpec,
        "ramp": RampSpec,
    }
    in_item = False  # behind the union's name of the item that path leads to
    for number, part in enumerate(loc):
        inside = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if part in ("flat", "each") and path == ["slo"]:
            model = SloTargets
        elif _is_item(path) and not in_item and part in ITEMS:
            model, in_item = ITEMS[str(part)], True
        elif inside or (isinstance(data, dict) and part in data):
            if path == ["targets"]:
                model = Target
            elif part in models and number < len(loc) - 1:
                model = models[str(part)]
            path.append(part)
            data, in_item = data[part], False
        else:
            path.append(part)
            data = None
    return tuple(path), model


def _is_item(path: list[str | int]) -> bool:
    return path[-2:-1] in (["timeline"], ["parallel"], ["do"])


def words(problem: Any, model: type[BaseModel] | None) -> tuple[str, str]:
    """One of pydantic's errors in our words, and a hint."""
    names = {f.alias or name: f for name, f in model.model_fields.items()} if model else {}
    name = str(problem["loc"][-1]) if problem["loc"] else ""
    match problem["type"]:
        case "extra_forbidden":
            return f"unknown field {name!r}", faults.nearest(name, names) if names else ""
        case "missing":
            about = names[name].description if name in names else ""
            return "is required", about or ""
        case "dict_type" | "model_type" | "model_attributes_type":
            return "fields are expected here, like `name: value`", ""
        case "tuple_type" | "list_type":
            return "a list is expected here", "like [a, b]"
        case "string_type":
            return "a text is expected here", ""
        case "too_short" | "string_too_short":
            return "must not be empty", ""
    return problem["msg"].removeprefix("Value error, "), ""
