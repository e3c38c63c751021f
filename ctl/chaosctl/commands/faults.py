"""``chaosctl faults``: what there is to inject, from the faults' own definitions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from chaosctl import output
from chaosctl.options import Output, OutputOption

if TYPE_CHECKING:
    from chaos_core.envelope import Envelope
    from chaos_core.faults import Fault

_SHARES = ("latency", "loss", "cpu", "memory")


def complete(incomplete: str) -> list[str]:
    """Kinds that begin like this, for the shell."""
    from chaos_core import faults as known

    return [kind for kind in known.kinds() if kind.startswith(incomplete)]


KindArgument = Annotated[str, typer.Argument(metavar="KIND", autocompletion=complete)]


def faults(
    kind: Annotated[str, typer.Argument(metavar="[KIND]", autocompletion=complete)] = "",
    form: OutputOption = Output.TABLE,
) -> None:
    """List the kinds of faults, or everything about one of them."""
    from chaos_core import faults as known

    if kind:
        cls = known.lookup(kind)
        output.document(describe(cls)) if form is Output.JSON else _show(cls)
    elif form is Output.JSON:
        output.document([describe(cls) for cls in known.kinds().values()])
    else:
        output.table(
            ("KIND", "", "WHAT IT DOES"),
            [(c.kind, "risky" if c.risky else "", c.summary) for c in known.kinds().values()],
        )


def describe(cls: type[Fault]) -> dict[str, Any]:
    """A kind as JSON data."""
    return {
        "kind": cls.kind,
        "summary": cls.summary,
        "risky": cls.risky,
        "parameters": parameters(cls),
        "ceilings": ceilings(cls),
        "lease_holder": cls.lease_holder,
        "needs": list(cls.needs),
        "example": example(cls),
    }


def example(cls: type[Fault]) -> str:
    """A command line that injects it."""
    return f"chaosctl inject {cls.kind} -n NODE {cls.example} --for 60s"


def parameters(cls: type[Fault]) -> list[dict[str, Any]]:
    """Name, type, default and meaning of each parameter, required ones first."""
    schema = cls.model_json_schema()
    required = set(schema.get("required", ()))
    listed = [
        {
            "name": name,
            "type": _type(field),
            "required": name in required,
            "default": field.get("default"),
            "description": field.get("description", ""),
        }
        for name, field in schema["properties"].items()
    ]
    return sorted(listed, key=lambda one: not one["required"])


def _type(field: dict[str, Any]) -> str:
    if "enum" in field:
        return "|".join(map(str, field["enum"]))
    if field.get("type") == "array":
        return "list"
    shown = field.get("format", field.get("type", "text"))
    return f"{shown}, like {field['examples'][0]}" if "examples" in field else str(shown)


def ceilings(cls: type[Fault]) -> dict[str, dict[str, str]]:
    """By profile: how much of what, and for how long. Destructive kinds: allowed or not."""
    from chaos_core.envelope import PROFILES
    from chaos_core.faults import parse

    draw = parse(cls.kind, dict(pair.split("=", 1) for pair in cls.example.split())).draw()
    shares = [name for name in _SHARES if getattr(draw, name)]
    return {name: _ceiling(profile, shares, draw.fault_class) for name, profile in PROFILES.items()}


def _ceiling(profile: Envelope, shares: list[str], fault_class: str) -> dict[str, str]:
    from chaos_core.envelope import MAX_DURATION

    if fault_class == "destructive" and not profile.destructive:
        return {"allowed": "refused"}
    longest = getattr(profile, f"duration_{fault_class}", MAX_DURATION)
    amounts = {name: str(getattr(profile, name)) for name in shares}
    return {"allowed": "allowed", **amounts, "duration": str(longest), "nodes": profile.nodes}


def _show(cls: type[Fault]) -> None:
    risky = "  (risky: asks first)" if cls.risky else ""
    typer.echo(f"{cls.kind}: {cls.summary}{risky}\n")
    output.table(
        ("PARAMETER", "TYPE", "DEFAULT", "MEANING"),
        [(one["name"], one["type"], _default(one), one["description"]) for one in parameters(cls)],
    )
    typer.echo("")
    limits = ceilings(cls)
    names = list(dict.fromkeys(name for row in limits.values() for name in row))
    output.table(
        ("PROFILE", *(name.upper() for name in names)),
        [(profile, *(row.get(name, "–") for name in names)) for profile, row in limits.items()],
    )
    typer.echo(f"\nended at the latest by: {cls.lease_holder}")
    typer.echo(f"example: {example(cls)}")


def _default(parameter: dict[str, Any]) -> str:
    if parameter["required"]:
        return "required"
    default = parameter["default"]
    return str(default) if default not in ("", [], None) else "–"
