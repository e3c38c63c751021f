"""cache.flush of a Redis and a memcached: real ones, on sockets of the test's own."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from chaos_agent.linux.boottime import now_us
from chaos_agent.services import Service
from chaos_core.messages import FaultStatus, Revert

PASSWORD = "s3cret-of-the-test"


@pytest.fixture(scope="module")
def place() -> Iterator[str]:
    """A directory with a Redis and a memcached of nobody's in it."""
    with tempfile.TemporaryDirectory(prefix="chaos-kv-") as name:
        os.chown(name, 65534, 65534)
        Path(name).chmod(0o755)
        started = [
            subprocess.Popen(
                words.split(),
                user=65534,
                group=65534,
                extra_groups=(),
                cwd=name,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for words in (
                f"redis-server --port 0 --unixsocket {name}/redis --unixsocketperm 777"
                f" --requirepass {PASSWORD}",
                f"memcached -s {name}/memcached -a 0777 -U 0",
            )
        ]
        try:
            yield name
        finally:
            for process in started:
                process.kill()
                process.wait()


@pytest.fixture
def services(place: str, tmp_path: Path) -> Mapping[str, Service]:
    file = tmp_path / "redis.password"
    file.write_text(PASSWORD)
    file.chmod(0o600)
    return {
        "redis.sessions": Service(f"unix://{place}/redis?db=1", str(file)),
        "memcached.front": Service(f"{place}/memcached"),
    }


@pytest.fixture
def redis(place: str, wait_for: Callable[..., None]) -> Callable[..., str]:
    """Asks the Redis as its users do."""
    wait_for(lambda: Path(place, "redis").exists())

    def ask(database: int, *words: str) -> str:
        argv = ["redis-cli", "-s", f"{place}/redis", "-n", str(database), *words]
        secret = {"REDISCLI_AUTH": PASSWORD}
        return subprocess.run(argv, env=secret, capture_output=True, text=True, check=True).stdout

    for database in (0, 1):
        ask(database, "FLUSHDB")
        ask(database, "MSET", "a", "1", "b", "2", "c", "3", "d", "4", "e", "5")
    return ask


def seen(node: Any, fault: str) -> FaultStatus:
    """How it is by now, while its lease is renewed."""
    node.grant("r-1")
    node.supervisor.tick(now_us())
    status: FaultStatus = node.status(fault)
    return status


@pytest.mark.parametrize(("scope", "left"), [("database", "5\n"), ("server", "0\n")])
def test_a_redis_forgets_what_is_asked_and_nothing_else(
    new_node: Callable[..., Any], redis: Callable[..., str], scope: str, left: str
) -> None:
    """In production too: root has put it on the list."""
    node = new_node("production")
    assert (redis(0, "DBSIZE"), redis(1, "DBSIZE")) == ("5\n", "5\n")
    fault = node.apply("cache.flush", redis="sessions", scope=scope)
    node.await_in_force(fault)
    assert (redis(0, "DBSIZE"), redis(1, "DBSIZE")) == (left, "0\n")
    redis(1, "SET", "again", "v")
    node.grant("r-1")
    node.supervisor.obey(Revert(fault=fault), now_us())
    assert (node.status(fault).state, node.status(fault).clean) == ("ended", True)
    assert redis(1, "DBSIZE") == "1\n"


def test_it_is_proven_though_others_write_all_the_time(
    node: Any, place: str, redis: Callable[..., str]
) -> None:
    """What is left is counted in the transaction that flushes."""
    words = (
        f"redis-benchmark -s {place}/redis -a {PASSWORD} --dbnum 1 -t set -r 100000 -n 100000000"
    )
    busy = subprocess.Popen(
        words.split(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while int(redis(1, "DBSIZE")) < 1000:
            pass
        fault = node.apply("cache.flush", redis="sessions")
        node.await_in_force(fault)
    finally:
        busy.kill()
        busy.wait()
    assert "cmdstat_flushdb" in redis(0, "INFO", "commandstats")


def test_a_redis_that_does_not_let_us_in_is_told(
    node: Any, services: Mapping[str, Service], redis: Callable[..., str], place: str,
    wait_for: Callable[..., None],
) -> None:  # fmt: skip
    Path(services["redis.sessions"].password_file).write_text("wrong")
    fault = node.apply("cache.flush", redis="sessions")
    wait_for(lambda: seen(node, fault).state == "ended")
    status = node.status(fault)
    assert (status.reason, status.clean) == ("not_in_force", True)
    assert "WRONGPASS" in status.detail
    assert place not in status.detail
    assert redis(1, "DBSIZE") != "0\n"


@pytest.fixture
def memcached(place: str, wait_for: Callable[..., None]) -> Callable[[str], str]:
    wait_for(lambda: Path(place, "memcached").exists())

    def ask(text: str) -> str:
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(f"{place}/memcached")
            file = line.makefile("rwb")
            file.write(f"{text}\r\nquit\r\n".encode())
            file.flush()
            return file.read().decode()

    return ask


def test_a_memcached_forgets_what_it_has(node: Any, memcached: Callable[[str], str]) -> None:
    assert memcached("set a 0 0 1\r\nx") == "STORED\r\n"
    assert "VALUE a" in memcached("get a")
    flushes = "STAT cmd_flush 0\r\n"
    assert flushes in memcached("stats")
    fault = node.apply("cache.flush", memcached="front")
    node.await_in_force(fault)
    assert memcached("get a") == "END\r\n"
    assert flushes not in memcached("stats")


def test_a_memcached_that_is_not_there_is_told(
    node: Any, services: Any, wait_for: Callable[..., None]
) -> None:
    services["memcached.front"] = Service("/nonexistent/memcached")
    fault = node.apply("cache.flush", memcached="front")
    wait_for(lambda: seen(node, fault).state == "ended")
    assert "no connection" in node.status(fault).detail
    assert "nonexistent" not in node.status(fault).detail


def test_what_root_has_not_listed_is_refused(node: Any) -> None:
    fault = node.apply("cache.flush", redis="other")
    assert node.status(fault).state == "refused"
    assert "redis.other is not on the list" in node.status(fault).detail
