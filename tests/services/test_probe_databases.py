"""``postgres``, ``redis`` and ``etcd`` beside the real ones."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest
from pydantic import ValidationError
from tests.services.looks import look, look_until
from tests.services.private import free_port, running

from chaos_core.errors import InvalidInput
from chaos_core.units import Duration
from chaos_experiment.probes import Context
from chaos_experiment.probes.etcd import Etcd
from chaos_experiment.probes.postgres import Postgres
from chaos_experiment.probes.redis import Redis

_PROGRAMS = Path("/usr/lib/postgresql/15/bin")
_PASSWORD = "open sesame"


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    secrets = tmp_path_factory.mktemp("secrets")
    (secrets / "db").write_text(_PASSWORD + "\n")
    (secrets / "wrong").write_text("sesame\n")
    return Context(secrets=secrets)


class Databases:
    """A PostgreSQL primary with a replica, as URLs, and how to order them about."""

    def __init__(self, primary: int, replica: int) -> None:
        self.ports = {"primary": primary, "replica": replica}
        self.primary, self.replica = (
            f"postgresql://postgres@127.0.0.1:{port}/postgres" for port in (primary, replica)
        )

    def order(self, sql: str, at: str = "primary") -> None:
        subprocess.run(
            [_PROGRAMS / "psql", "-qh127.0.0.1", f"-p{self.ports[at]}", "-Upostgres", "-c", sql],
            env={"PGPASSWORD": _PASSWORD},
            check=True,
            timeout=20,
            stdout=subprocess.DEVNULL,
        )


@pytest.fixture(scope="module")
def databases() -> Iterator[Databases]:
    ports = free_port(), free_port()
    with tempfile.TemporaryDirectory() as name, ExitStack() as servers:
        where = Path(name)
        shutil.chown(where, "postgres")
        (where / "password").write_text(_PASSWORD)
        (where / "password").chmod(0o644)
        _as_postgres(
            "initdb", "-D", where / "a", "-A", "scram-sha-256", "-U", "postgres", "--no-sync",
            f"--pwfile={where}/password",
        )  # fmt: skip
        servers.enter_context(_server(where, "a", ports[0]))
        _as_postgres(
            "pg_basebackup", "-D", where / "b", "-R", "-c", "fast", "--no-sync",
            "-d", f"host=127.0.0.1 port={ports[0]} user=postgres password='{_PASSWORD}'",
        )  # fmt: skip
        servers.enter_context(_server(where, "b", ports[1]))
        yield Databases(*ports)


def _as_postgres(program: str, *arguments: str | Path) -> None:
    argv = [_PROGRAMS / program, *arguments]
    subprocess.run(
        argv, user="postgres", check=True, timeout=60, stdout=subprocess.DEVNULL, cwd="/"
    )


def _server(where: Path, name: str, port: int) -> AbstractContextManager[None]:
    argv = [
        *(str(_PROGRAMS / "postgres"), "-D", str(where / name), "-p", str(port), "-k", ""),
        *("-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "shared_buffers=8MB"),
    ]
    return running(argv, port, where / f"{name}.log", user="postgres")


async def test_what_a_query_gives(databases: Databases, context: Context) -> None:
    async def gives(query: str, **fields: str) -> tuple[bool, float | None, str]:
        given = {"url": databases.primary, "password": "db", "what": "query", "query": query}
        probe = Postgres.model_validate({**given, "timeout": "5s", **fields})
        seen = await look(probe, context)
        return seen.ok, seen.value, seen.text

    assert await gives("SELECT count(*) FROM generate_series(1, 42)") == (True, 42.0, "42")
    assert await gives("SELECT 1.5 WHERE 'a' LIKE '%a'") == (True, 1.5, "1.5")
    assert await gives("SELECT true") == (True, 1.0, "1")
    assert await gives("SELECT 'abc-' || 'def'") == (True, None, "abc-def")
    assert await gives("SELECT NULL") == (False, None, "the query gave NULL")
    assert await gives("SELECT 1 WHERE false") == (False, None, "no row")
    assert await gives("SELECT generate_series(1, 2)") == (False, None, "more than one row")
    assert await gives("SELEC 1") == (False, None, 'syntax error at or near "SELEC"')
    refused = (False, None, "cannot execute CREATE TABLE in a read-only transaction")
    assert await gives("CREATE TABLE t (x int)") == refused
    late = await gives("SELECT pg_sleep(9)", timeout="300ms")
    assert late in {
        (False, None, "timed out after 300ms"),
        (False, None, "canceling statement due to statement timeout"),
    }
    assert "password authentication failed" in (await gives("SELECT 1", password="wrong"))[2]
    assert "no secret 'none'" in (await gives("SELECT 1", password="none"))[2]


async def test_how_far_a_replica_is_behind(databases: Databases, context: Context) -> None:
    replica = Postgres(url=databases.replica, password="db", timeout=Duration.parse("5s"))
    primary = Postgres(url=databases.primary, password="db", timeout=Duration.parse("5s"))
    databases.order("CREATE TABLE t AS SELECT 1 AS x")
    even = await look_until(replica, lambda row: row.value == 0, context=context)
    assert (even.value, even.text) == (0.0, "0.000 s behind")
    attached = await look(primary, context)
    assert attached.ok
    databases.order("SELECT pg_wal_replay_pause()", at="replica")
    databases.order("INSERT INTO t VALUES (2)")
    behind = await look_until(
        replica, lambda row: (row.value or 0) > 500_000, seconds=10, context=context
    )
    assert behind.value is not None
    assert 500_000 < behind.value < 15_000_000
    databases.order("SELECT pg_wal_replay_resume()", at="replica")
    caught_up = await look_until(replica, lambda row: row.value == 0, context=context)
    assert caught_up.value == 0


async def test_a_database_that_is_not_there(context: Context) -> None:
    url = f"postgresql://postgres@127.0.0.1:{free_port()}/postgres"
    seen = await look(Postgres(url=url, password="db"), context)
    assert not seen.ok
    assert "refused" in seen.text
    with pytest.raises(InvalidInput, match="no secret"):
        await Postgres(url=url, password="none").check(context)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"url": "postgresql://me:pw@db/shop"}, "a scenario holds no password"),
        ({"url": "postgresql://me@db/shop?password=pw"}, "the URL takes only sslmode"),
        ({"url": "postgresql://me@db/shop?hostaddr=10.0.0.1"}, "the URL takes only sslmode"),
        ({"url": "mysql://me@db/shop"}, "is not like postgresql://"),
        ({"url": "postgresql://me@db/shop", "what": "query"}, "query: goes with"),
        ({"url": "postgresql://me@db/shop", "query": "SELECT 1"}, "query: goes with"),
        ({"url": "postgresql://me@db/shop", "password": "../x"}, "String should match pattern"),
    ],
)
def test_a_scenario_holds_no_password(fields: dict[str, str], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Postgres.model_validate(fields)


async def test_redis(context: Context, tmp_path: Path) -> None:
    port = free_port()
    address = f"127.0.0.1:{port}"
    argv = ["/usr/bin/redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    nobody = await look(Redis(address=address))
    assert nobody.text == "connection refused"
    with running([*argv, "--requirepass", _PASSWORD], port, tmp_path / "redis.log"):
        refused = await look(Redis(address=address))
        assert (refused.ok, refused.text) == (False, "NOAUTH Authentication required.")
        wrong = await look(Redis(address=address, password="wrong"), context)
        assert wrong.text.startswith("WRONGPASS")
        pong = await look(Redis(address=address, password="db"), context)
        assert (pong.ok, pong.text) == (True, "PONG")
        assert pong.value is not None
        assert 0 < pong.value < 2_000_000
        replicas = Redis(address=address, password="db", field="connected_slaves")
        assert (await look(replicas, context)).value == 0
        role = await look(Redis(address=address, password="db", field="role"), context)
        assert (role.ok, role.value, role.text) == (True, None, "master")
        odd = await look(Redis(address=address, password="db", field="odd"), context)
        assert (odd.ok, odd.text) == (False, "INFO says nothing of odd")


async def test_etcd(tmp_path: Path) -> None:
    port, peers = free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    argv = [
        "/usr/bin/etcd",
        f"--data-dir={tmp_path}/data",
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        f"--listen-peer-urls=http://127.0.0.1:{peers}",
        "--unsafe-no-fsync",
    ]
    nobody = await look(Etcd(url=url))
    assert nobody.text == "connection refused"
    with running(argv, port, tmp_path / "etcd.log"):
        seen = await look_until(Etcd(url=url), lambda row: row.value == 1)
        assert (seen.ok, seen.value, seen.text) == (True, 1.0, "healthy, 1 changes of leader")
