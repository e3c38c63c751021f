"""docs/probes.md, from the probes' own definitions. Pure."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Final

from chaos_experiment.probes import Probe, kinds
from chaos_experiment.probes.tcp import Tcp

_HEAD: Final = """# Probes

Written by `tools/probes-page.py` from the definitions in `experiment/chaos_experiment/probes/`.

A probe looks on a schedule that no slow answer can shift: looks are due at absolute times, each is
made whether or not those before it were answered. So a service that stands still for a second shows
everything that would have waited, not the one request that a closed loop would have sent
(coordinated omission; `bench/probe_truth.py`). That the machine which looks was held up is not
counted as the service's latency; a look that it missed by more than the timeout has failed.

What cannot be told has failed: an empty query, a NaN, no answer. A probe talks to the host
that its address or URL names and to no other: redirects are not followed, proxies not asked.
Names and figures, never secrets: a password is the name of a file in the controller's
`/etc/chaos/secrets/` (its first line), or else of a variable `CHAOS_SECRET_<NAME>` there; a
command is a name in `controller.toml`:

```toml
[probes]
secrets = "/etc/chaos/secrets"
protected = ["10.0.9.0/24"]               # no probe talks to these
[probes.commands]
queue-depth = ["/usr/local/bin/queue-depth", "--orders"]
```

Who looks is the controller, or with `from` the nodes of a target: by the same schedule, within what
their own `agent.toml` allows ([how](scenarios.md#probes)).

Before anything begins the controller asks of every probe whether it could look: a query that
Prometheus cannot parse, a command that is not allowed, a secret that is not there, a host that
is `protected` or a cloud's metadata address, a load on the controller's own ports. Each is
refused with its place in the file; that nobody answers now is for preflight to say.

## All kinds take

| parameter | default | meaning |
|---|---|---|
"""
_VALUE: Final = {"duration": "a time", "percent": "a share", "": "a number"}


def page() -> str:
    """The whole file."""
    common = "".join(_row(name, Tcp) for name in Probe.model_fields)
    return _HEAD + common + "".join(_section(kind) for kind in kinds().values())


def _section(kind: type[Probe]) -> str:
    own = [name for name in kind.model_fields if name not in Probe.model_fields]
    place = {"node": " Looks from nodes.", "either": " Looks from nodes too."}.get(kind.place, "")
    example = kind.model_validate(kind.example)
    lines = "\n".join(f"      {key}: {_yaml(value)}" for key, value in kind.example.items())
    value = "the latency" if example.latency else _VALUE[example.unit]
    return (
        f"\n## {kind.kind}\n\n{kind.summary[0].upper()}{kind.summary[1:]}.{place} "
        f"Value in the example: {value}.\n{inspect.cleandoc(kind.__doc__ or '')}\n\n"
        f"```yaml\nprobes:\n  shop:\n    {kind.kind}:\n{lines}\n```\n\n"
        "| parameter | default | meaning |\n|---|---|---|\n"
        + "".join(_row(name, kind) for name in own)
    )


def _row(name: str, kind: type[Probe]) -> str:
    field = kind.model_fields[name]
    default = "required" if field.is_required() else _yaml(field.default) or "none"
    return f"| `{field.alias or name}` | {default} | {field.description} |\n"


def _yaml(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case list() | tuple():
            return f"[{', '.join(map(_yaml, value))}]" if value else ""
        case Mapping():
            return ""
    text = str(value)
    return f'"{text}"' if set(text) & set("{}[]'=") else text
