"""connections.hold: whom it may reach."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from chaos_core import faults
from chaos_core.effects import Worker
from chaos_core.errors import InvalidInput, Refused
from chaos_core.faults.connections_hold import ConnectionsHold
from chaos_core.node import NodeView, Protected

ID = "0a1b2c3d"
NODE = replace(
    NodeView.example(), protected=Protected(controllers=("10.0.0.9",), peers=("fd00::/64",))
)


def compiled(**given: Any) -> tuple[Any, ...]:
    return faults.parse("connections.hold", {"count": 5, **given}).compile(NODE, ID)


@pytest.mark.parametrize(
    ("to", "host"),
    [("10.0.0.2:5432", "10.0.0.2"), ("[fd01::2]:5432", "fd01::2"), ("127.0.0.1:5432", "127.0.0.1")],
)
def test_it_is_one_worker(to: str, host: str) -> None:
    (worker,) = compiled(to=to)
    assert isinstance(worker, Worker)
    said = {"host": host, "port": 5432, "count": 5, "rate": 200}
    assert (worker.name, json.loads(worker.arguments)) == (f"chs-{ID}-w", said)


def test_a_name_is_for_the_controller_to_look_up() -> None:
    fault = faults.parse("connections.hold", {"to": "db.example.com:5432", "count": 5})
    assert isinstance(fault, ConnectionsHold)
    assert fault.named() == "db.example.com"
    with pytest.raises(InvalidInput, match=r"to: 'db\.example\.com' is a name"):
        fault.compile(NODE, ID)


@pytest.mark.parametrize("to", ["10.0.0.9:443", "[fd00::5]:443", "10.0.0.2:22"])
def test_what_is_protected_is_not_exhausted(to: str) -> None:
    with pytest.raises(Refused, match="protected"):
        compiled(to=to)


@pytest.mark.parametrize(
    "given",
    [
        *(
            {"to": to}
            for to in (
                "10.0.0.2",
                "role=db:5432",
                "db",
                "300.0.0.1:1",
                "10.0.0.2:0",
                "10.0.0.2:x",
                ":5432",
                "",
            )
        ),
        {"to": "10.0.0.2:5432", "count": 0},
        {"to": "10.0.0.2:5432", "count": 10_001},
        {"to": "10.0.0.2:5432", "rate": 0},
    ],
)
def test_nonsense_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        compiled(**given)
