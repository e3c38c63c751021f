"""What there is to inject, from the faults' own definitions: as data, and as a page.

``chaosctl faults`` and ``docs/faults.md`` show the same. What was measured of a kind
comes with it, from ``make catalogue``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from chaos_core import faults
from chaos_core.effects import Chain, IngressPipe, Pipe
from chaos_core.envelope import MAX_DURATION, PROFILES, Envelope
from chaos_core.errors import ChaosError
from chaos_core.faults import Fault
from chaos_core.faults._counting import counts_only
from chaos_core.node import NodeView

_EXAMPLE_ID = "00000000"
_SHARES = ("latency", "loss", "cpu", "memory")

_HEAD = """# Faults

What can be injected, kind by kind. This page is generated (`make catalogue`) from the same
definitions that `chaosctl faults` shows and that the agent checks; the figures are what a run on
the lab's VMs measured from outside, with nothing of ours asked. Every fault also has a duration
of at most five minutes, and a lease of three seconds that its last holder ends when nobody
renews it.

Exact effects without touching anything: `chaosctl inject KIND … --dry-run`.
JSON Schema for editors: `chaosctl faults --schema`.
What a node forwards, as for containers, is hit like its own unless the fault says `scope=host`:
[whose traffic](coexistence.md#containers-and-forwarded-traffic). In `FORWARD`, `PREROUTING`,
`POSTROUTING` and at tc's egress and ingress packets pass that it forwards.
A kind of your own: an entry point of the group `chaos.faults`
([how](../core/chaos_core/faults/_plugins.py)).
"""


def describe(cls: type[Fault]) -> dict[str, Any]:
    """A kind as JSON data."""
    return {
        "kind": cls.kind,
        "summary": cls.summary,
        "risky": cls.risky,
        "parameters": parameters(cls),
        "ceilings": ceilings(cls),
        "lease_holder": cls.lease_holder,
        "hooks": hooks(cls),
        "needs": list(cls.needs),
        "example": example(cls),
    }


def example(cls: type[Fault]) -> str:
    """A command line that injects it."""
    return " ".join(f"chaosctl inject {cls.kind} -n NODE {cls.example} --for 60s".split())


def hooks(cls: type[Fault]) -> dict[str, list[str]]:
    """Where in the kernel packets meet the fault of the example, by direction ("" has none).

    Read off what it compiles to, with tables and hooks as iptables names them. Empty for a kind
    that hits no packets.
    """
    words = faults.from_words(cls.example.split())
    ways = (
        ({"direction": way} for way in ("out", "in")) if "direction" in cls.model_fields else [{}]
    )
    found = {}
    for way in ways:
        try:
            fault = faults.parse(cls.kind, words | way)
            effects = fault.compile(NodeView.example(fault.asks()), _EXAMPLE_ID)
        except ChaosError:  # a way that this kind does not go, or a kind of others that fails
            continue
        places: dict[str, None] = {}
        for effect in effects:
            match effect:
                case Chain() if not counts_only(effect):
                    places[f"{effect.table} {effect.hook}"] = None
                case Pipe():
                    places["tc egress"] = None
                case IngressPipe():
                    places["tc ingress"] = None
        if places:
            found[way.get("direction", "")] = list(places)
    return found


def parameters(cls: type[Fault]) -> list[dict[str, Any]]:
    """Name, type, default and meaning of each parameter, required ones first."""
    schema = cls.model_json_schema()
    required = set(schema.get("required", ()))
    listed = [
        {
            "name": name,
            "type": _type(_given(field)),
            "required": name in required,
            "default": field.get("default"),
            "description": field.get("description", ""),
        }
        for name, field in schema["properties"].items()
    ]
    return sorted(listed, key=lambda one: not one["required"])


def _given(field: dict[str, Any]) -> dict[str, Any]:
    """What an optional parameter is when it is given."""
    return next((one for one in field.get("anyOf", ()) if one.get("type") != "null"), field)


def _type(field: dict[str, Any]) -> str:
    if "enum" in field:
        return "|".join(map(str, field["enum"]))
    if field.get("type") == "array":
        return "list"
    shown = field.get("format", field.get("type", "text"))
    return f"{shown}, like {field['examples'][0]}" if "examples" in field else str(shown)


def ceilings(cls: type[Fault]) -> dict[str, dict[str, str]]:
    """By profile: how much of what, and for how long. Destructive kinds: allowed or not."""
    draw = faults.parse(cls.kind, faults.from_words(cls.example.split())).draw()
    shares = [name for name in _SHARES if getattr(draw, name)]
    return {name: _ceiling(profile, shares, draw.fault_class) for name, profile in PROFILES.items()}


def _ceiling(profile: Envelope, shares: list[str], fault_class: str) -> dict[str, str]:
    if fault_class == "destructive" and not profile.destructive:
        return {"allowed": "refused"}
    longest = getattr(profile, f"duration_{fault_class}", MAX_DURATION)
    amounts = {name: str(getattr(profile, name)) for name in shares}
    return {"allowed": "allowed", **amounts, "duration": str(longest), "nodes": profile.nodes}


def default(parameter: Mapping[str, Any]) -> str:
    """A parameter's default for people."""
    if parameter["required"]:
        return "required"
    value = parameter["default"]
    if isinstance(value, list):
        value = ",".join(value)
    return str(value) if value not in ("", None) else "–"


def ceiling_table(cls: type[Fault]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows of the table of its ceilings, a row a profile."""
    limits = ceilings(cls)
    names = list(dict.fromkeys(name for row in limits.values() for name in row))
    rows = [(profile, *(row.get(name, "–") for name in names)) for profile, row in limits.items()]
    return ("profile", *names), rows


def page(measured: Iterable[Mapping[str, Any]]) -> str:
    """``docs/faults.md``. ``measured`` are rows of the catalogue's report, of any kinds."""
    found = list(measured)
    parts = [_HEAD, *_contents(), *_figures(found)]
    for cls in faults.kinds().values():
        parts += _section(cls)
    return "\n".join(parts)


def _contents() -> Iterator[str]:
    yield from _table(
        ("kind", "", "what it does", "who ends it at the latest"),
        [
            (f"[`{kind}`](#{kind.replace('.', '')})", "risky" if cls.risky else "",
             cls.summary, cls.lease_holder)
            for kind, cls in faults.kinds().items()
        ],
    )  # fmt: skip


def _figures(measured: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not measured:
        return
    yield "## Measured\n"
    yield (
        "`make catalogue`, on the lab's VMs. *Gone* is how long after the cause the effect was last"
        " seen from outside: the end of the duration, an abort, SIGKILL of the agent with nobody"
        " to start it again. *Hits* are what the agent itself counted meanwhile.\n"
    )
    yield from _table(
        (
            "kind",
            "asked",
            "measured",
            "hits",
            "gone: duration",
            "abort",
            "agent killed",
            "residue",
            "on",
        ),
        [
            (
                f"`{row['kind']}` {row['params']}".strip(),
                row["asked"],
                row["measured"],
                row["hits"] or "not counted" if "hits" in row else "–",
                *(_seconds(row["gone"].get(cause)) for cause in ("duration", "abort", "killed")),
                row["residue"] or "none",
                row["date"],
            )
            for row in measured
        ],
    )


def _section(cls: type[Fault]) -> Iterator[str]:
    yield f"## {cls.kind}\n"
    yield f"{_paragraphs(cls.__doc__ or cls.summary)}\n"
    yield f"```\n{example(cls)}\n```\n"
    rows = [(f"`{p['name']}`", p["type"], default(p), p["description"]) for p in parameters(cls)]
    if rows:
        yield from _table(("parameter", "type", "default", "meaning"), rows)
    yield from _table(*ceiling_table(cls))
    needs = ", ".join(f"`{need}`" for need in cls.needs)
    asks = "Asks for confirmation. " * cls.risky
    for way, places in hooks(cls).items():
        going = f", `direction={way}`" if way else ""
        yield f"Where packets meet it (as in the example{going}): {', '.join(places)}.\n"
    yield f"Who ends it at the latest: {cls.lease_holder}.\n"
    yield f"{asks}What `chaos-agent doctor` must find: {needs}.\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
    yield ""


def _paragraphs(text: str) -> str:
    """A docstring as Markdown: without its indentation, and with code in single backticks."""
    return "\n".join(line.strip() for line in text.strip().splitlines()).replace("``", "`")


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} s"
