"""JSON Schema (2020-12) of scenario files, for editors: with every fault's and probe's fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from chaos_core import faults
from chaos_experiment import probes
from chaos_experiment.scenario import Scenario

_REF: Final = "#/$defs/{model}"
# Where a number or a choice is expected there may be a param, to be filled in.
_HOLE: Final = {"type": "string", "pattern": r"\$\{"}


def json_schema(known: Mapping[str, type[probes.Probe]] | None = None) -> dict[str, Any]:
    """The schema. ``known`` are the kinds of probes."""
    looks = probes.kinds() if known is None else known
    models: list[type[BaseModel]] = [Scenario, *faults.kinds().values(), *looks.values()]
    refs, defs = models_json_schema([(model, "validation") for model in models], ref_template=_REF)
    found: dict[str, Any] = defs["$defs"]
    for definition in found.values():
        for name, field in definition.get("properties", {}).items():
            definition["properties"][name] = _may_be_filled(field)
    scenario = found.pop(refs[Scenario, "validation"]["$ref"].rpartition("/")[2])
    for item in ("FaultItem", "RampItem"):
        _with_params(found[item], {k: refs[m, "validation"] for k, m in faults.kinds().items()})
    scenario["properties"]["probes"]["additionalProperties"] = {
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
        "properties": {
            kind: {"description": model.summary, **refs[model, "validation"]}
            for kind, model in looks.items()
        },
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **scenario,
        "title": "A scenario of chaosctl",
        "$defs": found,
    }


def _with_params(item: dict[str, Any], kinds: Mapping[str, dict[str, Any]]) -> None:
    """The fields of ``with`` follow from ``fault``. A ramp gives one of them elsewhere."""
    item["properties"]["fault"] = {
        **item["properties"]["fault"],
        "enum": list(kinds),
    }
    if "ramp" in item["properties"]:
        return
    item["allOf"] = [
        {
            "if": {"properties": {"fault": {"const": kind}}, "required": ["fault"]},
            "then": {"properties": {"with": params}},
        }
        for kind, params in kinds.items()
    ]


def _may_be_filled(field: Any) -> Any:
    """The same field, which may be a text with a param in it, or a list written as a text."""
    if not isinstance(field, dict) or field.get("type") in ("string", "object"):
        return field
    if field.get("type") == "array":
        return {"anyOf": [field, {"type": "string"}], "description": field.get("description", "")}
    if "anyOf" in field and any(each.get("type") == "string" for each in field["anyOf"]):
        return field
    kept = {key: value for key, value in field.items() if key in ("description", "default")}
    return {"anyOf": [field, _HOLE], **kept}
