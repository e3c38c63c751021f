"""postgres.*: what may be asked, and that no address or password is in what is compiled."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chaos_agent.config import parse as parse_config
from chaos_agent.services import Service
from chaos_core import effects, envelope, faults
from chaos_core.effects import Worker
from chaos_core.errors import EnvelopeExceeded, InvalidInput, Refused, Unsupported
from chaos_core.node import NodeView
from chaos_core.units import SECOND

NODE = replace(NodeView.example(), services=frozenset({"postgres.shop", "redis.shop"}))
TOML = """
[postgres.shop]
dsn = "postgresql://chaos@10.0.0.5:5432/shop?sslmode=require"
password_file = "/etc/chaos/shop.password"
[redis.sessions]
url = "rediss://10.0.0.6/2"
[memcached.front]
address = "[fd00::7]:11211"
"""


def compiled(kind: str, **given: Any) -> dict[str, Any]:
    (worker,) = faults.parse(f"postgres.{kind}", {"database": "shop", **given}).compile(
        NODE, "0123abcd"
    )
    assert isinstance(worker, Worker)
    assert (worker.name, worker.program) == ("chs-0123abcd-w", "postgres")
    assert worker.service == "postgres.shop"
    assert effects.from_text(effects.to_text(worker)) == worker
    assert "at postgres.shop" in effects.describe(worker)
    found: dict[str, Any] = json.loads(worker.arguments)
    assert found.pop("fault") == "0123abcd"
    return found


def test_what_the_worker_is_told() -> None:
    assert compiled("lock", table="sales.orders") == {
        "work": "lock",
        "table": "sales.orders",
        "mode": "access exclusive",
    }
    assert compiled("lock", advisory="-7") == {"work": "advisory", "key": -7}
    assert compiled("lock", advisory=0) == {"work": "advisory", "key": 0}
    assert compiled("deadlock") == {"work": "deadlock", "rate": 6}
    assert compiled("deadlock", table="a", rate=2) == {
        "work": "victims",
        "rate": 2,
        "table": "a",
        "held": "a",
    }
    assert compiled("deadlock", table="a", held="b")["held"] == "b"
    assert compiled("slow", table="a", delay="250ms", share="25%") == {
        "work": "slow",
        "table": "a",
        "delay": 0.25,
        "share": 0.25,
    }


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        ("lock", {}, "give table or advisory"),
        ("lock", {"table": "a", "advisory": 1}, "give table or advisory"),
        ("lock", {"table": "a; DROP TABLE b"}, "not a table's name"),
        ("lock", {"table": 'a"b'}, "not a table's name"),
        ("lock", {"table": "a.b.c"}, "not a table's name"),
        ("lock", {"table": "pg_class"}, "PostgreSQL's own"),
        ("lock", {"table": "pg_catalog.pg_class"}, "PostgreSQL's own"),
        ("lock", {"table": "a", "mode": "row share"}, "mode"),
        ("lock", {"advisory": 2**63}, "advisory"),
        ("lock", {"table": "a", "database": "postgresql://x"}, "not a name"),
        ("lock", {"table": "a", "dsn": "postgresql://x"}, "unknown parameter"),
        ("deadlock", {"held": "a"}, "held"),
        ("deadlock", {"rate": 21}, "rate"),
        ("slow", {}, "'table' is required"),
        ("slow", {"table": "a", "delay": "9ms"}, "delay"),
        ("slow", {"table": "a", "delay": "6s"}, "delay"),
        ("slow", {"table": "a", "share": "91%"}, "share"),
        ("slow", {"table": "a", "share": "0%"}, "share"),
    ],
)
def test_what_makes_no_sense_is_refused(kind: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(said)):
        faults.parse(f"postgres.{kind}", {"database": "shop", **given})


def test_a_database_that_is_not_listed_is_refused() -> None:
    fault = faults.parse("postgres.lock", {"database": "other", "table": "a"})
    with pytest.raises(Refused, match=r"postgres\.other is not on the list.*\n.*agent\.toml"):
        fault.compile(NODE, "0123abcd")
    fault = faults.parse("cache.flush", {"memcached": "shop"})
    with pytest.raises(Refused, match=r"memcached\.shop is not on the list"):
        fault.compile(NODE, "0123abcd")


def test_databases_are_not_touched_in_production_and_listed_caches_are() -> None:
    production = envelope.PROFILES["production"]
    for kind in ("lock", "deadlock", "slow"):
        fault = faults.parse(f"postgres.{kind}", {"database": "shop", "table": "a"})
        with pytest.raises(EnvelopeExceeded):
            envelope.check(production, fault.draw(), SECOND)
    envelope.check(production, faults.parse("cache.flush", {"redis": "shop"}).draw(), SECOND)


def test_a_cache_is_flushed_by_its_name() -> None:
    (worker,) = faults.parse("cache.flush", {"redis": "shop", "scope": "server"}).compile(
        NODE, "0123abcd"
    )
    assert isinstance(worker, Worker)
    assert (worker.program, worker.service) == ("flush", "redis.shop")
    assert json.loads(worker.arguments) == {"fault": "0123abcd", "what": "redis", "scope": "server"}
    for wrong in (
        {"redis": "a", "memcached": "b"},
        {"redis": "a", "what": "slab"},
        {"memcached": "b", "scope": "server"},
        {"redis": "redis://x"},
    ):
        with pytest.raises(InvalidInput):
            faults.parse("cache.flush", wrong)


# ── agent.toml ────────────────────────────────────────────────────────────────────────────


def test_the_list_is_read_from_the_nodes_file() -> None:
    assert parse_config(TOML, "agent.toml").services == {
        "postgres.shop": Service(
            "postgresql://chaos@10.0.0.5:5432/shop?sslmode=require", "/etc/chaos/shop.password"
        ),
        "redis.sessions": Service("rediss://10.0.0.6/2"),
        "memcached.front": Service("[fd00::7]:11211"),
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[postgres.shop]", "dsn is like"),
        ("[postgres.shop]\ndsn = 'host=a'", "dsn is like"),
        ("[postgres.shop]\ndsn = 1", "dsn is like"),
        ("[postgres.shop]\ndsn = 'postgresql://a:b@c/d'", "password_file"),
        ("[postgres.shop]\ndsn = 'postgresql://c/d?password=b'", "password_file"),
        ("[postgres.shop]\ndsn = 'postgresql://c/d'\npassword_file = 'x'", "absolute path"),
        ("[postgres.shop]\ndsn = 'postgresql://c/d'\npassword = 'x'", "it may say dsn"),
        ("[postgres.Shop]\ndsn = 'postgresql://c/d'", "use 1 to 32"),
        ("[postgres]\ndsn = 'postgresql://c/d'", "it may say dsn"),
        ("[redis.a]\nurl = 'http://c/d'", "url is like"),
        ("[redis.a]\nurl = 'redis://:secret@c/0'", "password_file"),
        ("[memcached.a]\naddress = 'a'", "address is like"),
        ("[memcached.a]\naddress = 'a:1'\npassword_file = '/x'", "it may say address"),
        ("redis = 1", "redis are tables"),
        ("[postgre.shop]\ndsn = 'x'", "did you mean 'postgres'"),
    ],
)
def test_a_list_that_makes_no_sense_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_config(text, "agent.toml")
    assert said in str(caught.value)
    assert caught.value.where.startswith("agent.toml")
    assert "secret" not in str(caught.value)


def test_a_password_is_read_from_a_file_of_roots_alone(tmp_path: Path) -> None:
    file = tmp_path / "password"
    service = Service("postgresql://a/b", str(file))
    with pytest.raises(Unsupported, match="cannot be read"):
        service.credentials()
    file.write_text("secret\n")
    for mode in (0o644, 0o640, 0o602):
        file.chmod(mode)
        with pytest.raises(Unsupported, match="by others than root"):
            service.credentials()
    file.chmod(0o400)
    assert service.credentials() == {"address": "postgresql://a/b", "password": "secret"}
    assert Service("postgresql://a/b").credentials()["password"] == ""
