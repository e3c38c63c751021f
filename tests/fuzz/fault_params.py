"""Parameters of every registered kind, from JSON to compiled effects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

from tests.fuzz import judge
from tests.fuzz.dice import Dice, dumped
from tests.fuzz.harness import Check, Target

from chaos_core import effects, envelope
from chaos_core.errors import ChaosError
from chaos_core.faults import kinds, parse
from chaos_core.messages import MAX_DETAIL, FaultStatus, read_params
from chaos_core.node import Device, NodeView, Protected, Way
from chaos_core.units import Duration

PEERS = (
    *(
        "10.9.0.2",
        "10.0.0.0/24",
        "10.9.0.0/30",
        "fd09::2",
        "10.9.0.3",
        "fd00::/64",
        "0.0.0.0/0",
        "::/0",
    ),
    *("127.0.0.1", "10.0.0.1", "10.0.0.1/24", "224.0.0.1", "10.0.0.9%eth0", "255.255.255.255"),
    *("::ffff:10.0.0.9", "300.1.1.1", "10.0.0.9/33", "", " "),
)
_SOME = (
    NodeView.example(),
    NodeView(
        name="n1",
        cpus=1,
        memory_total=256 << 20,
        devices=(Device("lo", ("127.0.0.1",), loopback=True), Device("v0", ("10.9.0.1",))),
        elsewhere=Way(("v0",)),
        protected=Protected(("10.9.0.7", "fd09::7"), ("192.0.2.0/24", "fd0a::/64"), (22, 2222)),
    ),
    NodeView(
        name="n2",
        cpus=256,
        memory_total=1 << 42,
        devices=tuple(Device(f"e{n}") for n in range(20)),
        ways={"0.0.0.0/0": Way(tuple(f"e{n}" for n in range(20)))},
        elsewhere=Way(kind="blackhole"),
        mark_mask=0x3,
    ),
)


def params(dice: Dice, kind: str) -> dict[str, Any]:
    """Parameters of this kind: good, nearly good, or wild."""
    schema = _schema(kind)
    made: dict[str, Any] = {}
    wild = dice.choice((0, 0, 0, 1, 3))  # of ten parameters
    for name, part in schema.get("properties", {}).items():
        if name in schema.get("required", ()) or dice.randrange(10) < 2 + wild:
            odd = dice.randrange(10) < wild
            made[name] = _nearly(dice, name, part) if odd else _good(dice, name, part)
    if wild and dice.one_in(6):
        made.update({dice.text(): dice.value() for _ in range(dice.randrange(40))})
    if wild and made and dice.one_in(6):
        del made[dice.choice(sorted(made))]
    return made


def _good(dice: Dice, name: str, schema: dict[str, Any]) -> Any:
    """Something that a reasonable operator would write for one parameter."""
    if "enum" in schema or "const" in schema:
        return dice.choice(schema.get("enum") or [schema["const"]])
    schema = next((one for one in schema.get("anyOf", ()) if one != {"type": "null"}), schema)
    match schema.get("format"):
        case "bandwidth":
            return f"{dice.randrange(64, 100_000)}kbit"
        case "duration":
            return f"{dice.randrange(1, 60)}ms"
        case "percentage":
            return f"{dice.randrange(1, 200) / 10}%"
        case "size":
            return f"{dice.randrange(1, 64)}MiB"
    if "peer" in name:
        return dice.sample(PEERS[:6], dice.randrange(1, 4))
    if "port" in name:
        return dice.sample(("80", "443", "8000-8010"), dice.randrange(1, 4))
    if name == "unit":
        return dice.choice(("nginx", "app@1.service", "ssh", "systemd-journald", "chaos-agent"))
    if name in ("database", "redis", "memcached"):
        return "shop"
    if name in ("table", "held"):
        return dice.choice(("orders", "sales.orders"))
    if name in ("find", "replace"):
        return dice.choice(("balance", "bananas", "hex:00ff", "hex:ff00", "x", ""))
    if name == "path":
        return dice.choice(("/srv/data", "/", "/srv/data/", "/srv/../etc", "srv"))
    if schema.get("type") == "integer":
        return dice.randrange(4)
    return ""


def _nearly(dice: Dice, name: str, schema: dict[str, Any]) -> Any:
    """Something that might slip through."""
    if dice.one_in(4):
        return dice.value()
    if schema.get("format") in ("duration", "percentage", "size"):
        return dice.quantity()
    if "peer" in name:
        return dice.choices(PEERS, k=dice.choice((0, 1, 2, 4, 64, 65)))
    if "port" in name:
        ports = ("80", "8000-8010", "0", "65535", "65536", "1:65535", "٣", "22", "")
        return dice.choices(ports, k=dice.choice((0, 1, 7, 15, 16)))
    return dice.choice(("eth0", "lo", "v0", "e1", "../x", "", dice.text()))


@cache
def _schema(kind: str) -> dict[str, Any]:
    return kinds()[kind].model_json_schema()


def text(dice: Dice, kind: str) -> str:
    """The JSON of some parameters, or something in its place."""
    if dice.one_in(20):
        return dice.choice((dice.nested(), dice.text()))
    return dumped(params(dice, kind))


def _make(dice: Dice) -> tuple[str, str, str, int, int]:
    kind = dice.choice(sorted(kinds()))
    profile = dice.choice(sorted(envelope.PROFILES))
    duration = dice.rarely(dice.randrange(1, 60_000_000), dice.number(), sides=6)
    return kind, text(dice, kind), profile, duration, dice.randrange(len(_SOME))


def check(example: tuple[str, str, str, int, int]) -> None:
    """Nothing but a ChaosError comes out; what is accepted is within the envelope."""
    kind, text, profile, duration, place = example
    view, ceilings = _SOME[place], envelope.PROFILES[profile]
    try:
        fault = parse(kind, read_params(text, kind))
        envelope.check(ceilings, fault.draw().on(view.memory_total), Duration(duration))
        asked = NodeView.example(fault.asks())
        view = replace(
            view,
            units=asked.units,
            processes=asked.processes,
            services=asked.services,
            directory=asked.directory,
            systemd=place != 1,
        )
        compiled = fault.compile(view, "0a1b2c3d")
    except ChaosError as error:
        status = FaultStatus(fault="f", run="r", kind="k", state="refused", detail=str(error))
        assert len(status.detail.encode()) <= MAX_DETAIL
        status.model_dump_json()
        return
    assert 0 < duration <= 300_000_000
    assert compiled
    judge.within(ceilings, view, compiled)
    judge.protected_first(view, compiled)
    judge.unharmed(compiled)
    if view.systemd:
        judge.undo_first(compiled)
    assert all(effects.from_json(effects.to_json(effect)) == effect for effect in compiled)
    assert len(compiled) < 60


@contextmanager
def _open() -> Iterator[Check]:
    yield check


TARGET = Target("fault_params", _make, _open)
