"""postgres.*: on a real server, seen by its other users; and who ends it when we are dead."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.errors import DeadlockDetected, LockNotAvailable

from chaos_agent.effects import ops
from chaos_agent.linux import children
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.host import Host
from chaos_agent.services import Service
from chaos_core.effects import Worker
from chaos_core.messages import FaultStatus, Revert

SECOND = 1_000_000
PASSWORD = "s3cret-of-the-test"
_BIN = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
_SETTINGS = (
    *("listen_addresses=", "fsync=off", "deadlock_timeout=300ms", "autovacuum=off"),
    *("log_lock_waits=on", "shared_buffers=16MB"),
)
_SCHEMA = """
    CREATE TABLE orders (id int PRIMARY KEY, n int NOT NULL);
    CREATE TABLE items (id int PRIMARY KEY, n int NOT NULL);
    INSERT INTO orders SELECT i, 0 FROM generate_series(1, 20) i;
    INSERT INTO items SELECT i, 0 FROM generate_series(1, 20) i;
    CREATE ROLE chaos LOGIN PASSWORD 's3cret-of-the-test';
    GRANT SELECT, UPDATE ON orders, items TO chaos;
    CREATE TABLE secret (id int);
    CREATE VIEW seen AS SELECT * FROM orders;
"""


@pytest.fixture(scope="module")
def place() -> Iterator[str]:
    """A server of our own, of nobody's, on a socket in a directory of its own."""
    assert _BIN, "PostgreSQL is not installed: run tools/bootstrap.sh"
    with tempfile.TemporaryDirectory(prefix="chaos-pg-") as name:
        os.chown(name, 65534, 65534)
        Path(name).chmod(0o755)
        data = f"{name}/data"

        def as_nobody(program: str, *words: str) -> None:
            done = subprocess.run(
                [str(_BIN[-1] / program), *words],
                user=65534,
                group=65534,
                extra_groups=(),
                cwd=name,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr

        as_nobody("initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync")
        rules = "local all chaos scram-sha-256\nlocal all all trust\n"
        Path(data, "pg_hba.conf").write_text(rules)
        options = " ".join(f"-c {setting}" for setting in _SETTINGS)
        log = f"{name}/log"
        as_nobody("pg_ctl", "-D", data, "-w", "-l", log, "-o", f"-k {name} {options}", "start")
        try:
            with psycopg.connect(host=name, user="postgres", autocommit=True) as session:
                session.execute(_SCHEMA)
            yield name
        finally:
            as_nobody("pg_ctl", "-D", data, "-m", "immediate", "stop")


@pytest.fixture
def services(place: str, tmp_path: Path) -> Mapping[str, Service]:
    file = tmp_path / "shop.password"
    file.write_text(f"{PASSWORD}\n")
    file.chmod(0o600)
    dsn = f"postgresql:///postgres?host={place}&user=chaos"
    return {"postgres.shop": Service(dsn, str(file))}


@pytest.fixture
def user(place: str) -> Callable[..., Any]:
    """Runs a statement as the application does, with so much patience; the rows, if any."""

    def ask(statement: str, patience: str = "200ms") -> Any:
        with psycopg.connect(host=place, user="postgres", autocommit=True) as session:
            session.execute("SELECT set_config('lock_timeout', %s, false)", (patience,))
            found = session.execute(statement)
            return found.fetchall() if found.description else None

    return ask


@pytest.fixture
def ours(user: Callable[..., Any]) -> Callable[[], int]:
    """How many sessions of ours the server has."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'chaos-%'"
    return lambda: int(user(query)[0][0])


def blocked(user: Callable[..., Any], statement: str) -> bool:
    try:
        user(statement)
    except LockNotAvailable:
        return True
    return False


READ, WRITE = "SELECT * FROM orders", "UPDATE orders SET n = n WHERE id = 1"


def worker_pid() -> int:
    (pid,) = [pid for pid, name in children.find().items() if name.endswith("-w")]
    return pid


def seen(node: Any, fault: str) -> FaultStatus:
    """How it is by now, while its lease is renewed."""
    node.grant("r-1")
    node.supervisor.tick(now_us())
    status: FaultStatus = node.status(fault)
    return status


def end(node: Any, fault: str) -> None:
    node.supervisor.obey(Revert(fault=fault), now_us())
    assert (node.status(fault).state, node.status(fault).clean) == ("ended", True)


# ── postgres.lock ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("mode", "reads", "writes"),
    [
        ("access exclusive", False, False),
        ("exclusive", True, False),
        ("share", True, False),
    ],
)
def test_a_locked_table_is_closed_to_whom_the_mode_says(
    node: Any,
    user: Callable[..., Any],
    ours: Callable[[], int],
    wait_for: Callable[..., None],
    mode: str,
    reads: bool,
    writes: bool,
) -> None:
    assert not blocked(user, WRITE)
    fault = node.apply("postgres.lock", database="shop", table="orders", mode=mode)
    node.await_in_force(fault)
    assert (not blocked(user, READ), not blocked(user, WRITE)) == (reads, writes)
    assert not blocked(user, "UPDATE items SET n = n")
    named = user("SELECT application_name FROM pg_stat_activity WHERE application_name ~ 'chaos'")
    assert named == [(f"chaos-{fault}",)]
    node.grant("r-1")
    end(node, fault)
    wait_for(lambda: ours() == 0)
    assert not blocked(user, WRITE)


@pytest.mark.parametrize("key", [42, -7, 2**63 - 1])
def test_an_advisory_key_is_held(node: Any, user: Callable[..., Any], key: int) -> None:
    fault = node.apply("postgres.lock", database="shop", advisory=key)
    node.await_in_force(fault)
    assert user(f"SELECT pg_try_advisory_lock({key})") == [(False,)]
    assert user(f"SELECT pg_try_advisory_lock({key - 1})") == [(True,)]
    end(node, fault)
    assert not blocked(user, f"SELECT pg_advisory_lock({key})")


def test_nobody_queues_behind_us_while_we_wait(
    node: Any, place: str, user: Callable[..., Any], wait_for: Callable[..., None]
) -> None:
    """A long transaction has the table: others go on past us, and it is not in force."""
    with psycopg.connect(host=place, user="postgres") as other:
        other.execute(WRITE)
        fault = node.apply("postgres.lock", database="shop", table="orders")
        wait_for(lambda: "others hold" in seen(node, fault).detail, 10)
        for _ in range(10):
            assert not blocked(user, READ)
            node.grant("r-1")
        assert node.status(fault).state == "applying"
    node.await_in_force(fault)
    assert blocked(user, READ)


def test_no_secret_is_told_to_anybody(node: Any, place: str, tmp_path: Path) -> None:
    fault = node.apply("postgres.lock", database="shop", table="orders")
    node.await_in_force(fault)
    end(node, fault)
    kept = [path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert any(b"postgres.shop" in text for text in kept)
    fault = node.apply("postgres.lock", database="shop", table="orders")
    node.await_in_force(fault)
    kept.append(Path(f"/proc/{worker_pid()}/cmdline").read_bytes())
    kept.append(Path(f"/proc/{worker_pid()}/environ").read_bytes())
    kept.append(node.status(fault).model_dump_json().encode())
    for text in kept:
        assert PASSWORD.encode() not in text
        assert place.encode() not in text


# ── its end ───────────────────────────────────────────────────────────────────────────────


def lock(fault: str = "0000000b") -> Worker:
    text = f'{{"fault": "{fault}", "work": "lock", "table": "orders", "mode": "access exclusive"}}'
    return Worker(f"chs-{fault}-w", "postgres", text, "postgres.shop")


def test_the_server_lets_go_when_it_hears_nothing_of_us(
    host: Host, user: Callable[..., Any], wait_for: Callable[..., None]
) -> None:
    """The worker is stopped, and its own timer is far away."""
    effect = lock()
    ops(effect).apply(host, effect, now_us() + 60 * SECOND)
    wait_for(lambda: ops(effect).verify(host, effect) is None)
    assert blocked(user, READ)
    pid = worker_pid()
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: not blocked(user, READ), 8)
    assert children.stopped(pid)
    ops(effect).revert(host, effect)
    assert ops(effect).absent(host, effect) is None


def test_a_stopped_worker_is_killed_by_its_timer(
    host: Host, wait_for: Callable[..., None], ours: Callable[[], int]
) -> None:
    effect = lock()
    ops(effect).apply(host, effect, now_us() + 3 * SECOND)
    wait_for(lambda: ops(effect).verify(host, effect) is None)
    os.kill(worker_pid(), signal.SIGSTOP)
    wait_for(lambda: not children.find(), 8)
    wait_for(lambda: ours() == 0, 2)


@pytest.mark.parametrize("how", ["worker", "keeper", "server"])
def test_whoever_dies_the_table_is_free(
    node: Any,
    host: Host,
    user: Callable[..., Any],
    ours: Callable[[], int],
    wait_for: Callable[..., None],
    how: str,
) -> None:
    fault = node.apply("postgres.lock", database="shop", table="orders")
    node.await_in_force(fault)
    match how:
        case "worker":
            os.kill(worker_pid(), signal.SIGKILL)
        case "keeper":
            host.close()
        case "server":
            user("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                 " WHERE application_name ~ '^chaos-'")  # fmt: skip
    wait_for(lambda: ours() == 0 and not blocked(user, READ), 3)
    if how != "keeper":
        wait_for(lambda: seen(node, fault).state == "ended")
        assert (node.status(fault).reason, node.status(fault).clean) == ("disturbed", True)
    if how == "server":
        assert "terminating connection" in node.status(fault).detail


# ── postgres.slow ─────────────────────────────────────────────────────────────────────────


def test_a_share_of_the_queries_is_delayed_and_none_by_more(node: Any, place: str) -> None:
    """One asks at random moments for 6 s, of 300 ms in each 600."""
    fault = node.apply("postgres.slow", database="shop", table="orders", delay="300ms", share="50%")
    node.await_in_force(fault)
    took: list[float] = []
    with psycopg.connect(host=place, user="postgres", autocommit=True) as session:
        until = time.monotonic() + 6
        while time.monotonic() < until:
            time.sleep((len(took) * 0.137) % 0.1)
            began = time.monotonic()
            session.execute(READ)
            took.append(time.monotonic() - began)
            node.grant("r-1")
    assert seen(node, fault).state == "in_force", node.status(fault).detail
    delayed = [seconds for seconds in took if seconds > 0.02]
    assert 4 <= len(delayed) <= 14  # ten spans, and it is seldom that one is missed
    assert max(took) < 0.3 + 0.15
    assert max(took) > 0.15
    end(node, fault)
    with psycopg.connect(host=place, user="postgres", autocommit=True) as session:
        began = time.monotonic()
        session.execute(READ)
        assert time.monotonic() - began < 0.15


def test_a_span_that_was_waited_for_is_no_longer_than_any(
    node: Any, place: str, wait_for: Callable[..., None]
) -> None:
    """A transaction has the table for half of a span, and all of some: others wait no longer."""
    with psycopg.connect(host=place, user="postgres") as other:
        other.execute(WRITE)
        fault = node.apply(
            "postgres.slow", database="shop", table="orders", delay="300ms", share="50%"
        )
        wait_for(lambda: "others hold" in seen(node, fault).detail, 10)
        with psycopg.connect(host=place, user="postgres", autocommit=True) as session:
            for _ in range(20):
                began = time.monotonic()
                session.execute(READ)
                assert time.monotonic() - began < 0.3 + 0.15
                node.grant("r-1")
        assert node.status(fault).state == "applying"
    node.await_in_force(fault)


# ── postgres.deadlock ─────────────────────────────────────────────────────────────────────


def deadlocks(user: Callable[..., Any]) -> int:
    return int(
        user("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")[0][0]
    )


def test_the_server_counts_deadlocks_of_our_own_at_the_rate(
    node: Any, user: Callable[..., Any], ours: Callable[[], int], wait_for: Callable[..., None]
) -> None:
    """20 a minute: one at once, and the third six seconds later."""
    before = deadlocks(user)
    began = time.monotonic()
    fault = node.apply("postgres.deadlock", database="shop", rate=20)
    node.await_in_force(fault)

    def third() -> bool:
        node.grant("r-1")
        return deadlocks(user) >= before + 3

    wait_for(third, 20)
    assert time.monotonic() - began > 5.5
    assert deadlocks(user) == before + 3
    assert not blocked(user, WRITE)
    end(node, fault)
    wait_for(lambda: ours() == 0)


@contextmanager
def workload(place: str, first: str, then: str) -> Iterator[list[str]]:
    """Four users whose transactions do the one and then the other; how each of them ended."""
    ends: list[str] = []
    stop = threading.Event()

    def work(number: int) -> None:
        with psycopg.connect(host=place, user="postgres", autocommit=True) as session:
            while not stop.is_set():
                try:
                    with session.transaction():
                        session.execute(first.format(number))
                        time.sleep(0.02)
                        session.execute(then.format(number))
                    ends.append("done")
                except DeadlockDetected:
                    ends.append("deadlock")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    try:
        yield ends
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize(
    ("params", "first"),
    [
        ({"table": "orders"}, "SELECT n FROM orders WHERE id = {}"),
        ({"table": "orders", "held": "items"}, "UPDATE items SET n = n WHERE id = {}"),
    ],
)
def test_users_transactions_become_victims_and_nothing_of_theirs_is_changed(
    node: Any,
    place: str,
    user: Callable[..., Any],
    wait_for: Callable[..., None],
    params: dict[str, str],
    first: str,
) -> None:
    total = "SELECT sum(n) FROM orders"
    (before,) = user(total)[0]
    with workload(place, first, "UPDATE orders SET n = n + 1 WHERE id = {}") as ends:
        wait_for(lambda: len(ends) > 20)
        assert "deadlock" not in ends
        fault = node.apply("postgres.deadlock", database="shop", rate=12, **params)
        node.await_in_force(fault)
        assert "deadlock" in ends
        end(node, fault)
        after = len(ends)
        wait_for(lambda: len(ends) > after + 100)
        assert "deadlock" not in ends[after + 4 :]
    assert user(total)[0][0] == before + ends.count("done")


@pytest.mark.parametrize(
    ("held", "first"),
    [
        ("orders", "SELECT n FROM orders WHERE id = {}"),
        ("items", "UPDATE items SET n = n WHERE id = {}"),
    ],
)
def test_users_become_victims_no_more_often_than_was_asked_for(
    node: Any, place: str, held: str, first: str
) -> None:
    """Three times a minute: one circle at once, and then for four seconds none."""
    with workload(place, first, "UPDATE orders SET n = n WHERE id = {}") as ends:
        fault = node.apply("postgres.deadlock", database="shop", rate=3, table="orders", held=held)
        node.await_in_force(fault)
        time.sleep(1)  # until every user of the circle has been told
        seen, until = ends.count("deadlock"), time.monotonic() + 4
        assert seen
        while time.monotonic() < until:
            node.grant("r-1")
            time.sleep(0.5)
        assert ends.count("deadlock") == seen
        end(node, fault)


def test_where_nobody_can_be_a_victim_it_is_not_in_force(
    node: Any, user: Callable[..., Any], wait_for: Callable[..., None]
) -> None:
    """Single statements hold nothing that they could be asked to wait for."""
    assert not blocked(user, WRITE)
    fault = node.apply("postgres.deadlock", database="shop", table="orders", rate=20)
    wait_for(lambda: "come by" in seen(node, fault).detail, 10)
    assert node.status(fault).state == "applying"
    end(node, fault)
    assert not blocked(user, WRITE)


# ── what cannot be ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ("nothing", "there is no table nothing"),
        ("seen", "seen is not a table"),
        ("secret", "permission denied"),
    ],
)
def test_what_cannot_be_locked_ends_at_once_with_the_reason(
    node: Any, wait_for: Callable[..., None], table: str, why: str
) -> None:
    fault = node.apply("postgres.lock", database="shop", table=table)
    wait_for(lambda: seen(node, fault).state == "ended")
    status = node.status(fault)
    assert (status.reason, status.clean) == ("not_in_force", True)
    assert why in status.detail


def test_who_does_not_get_in_is_told_and_nothing_of_the_way(
    node: Any, services: Mapping[str, Service], place: str, wait_for: Callable[..., None]
) -> None:
    Path(services["postgres.shop"].password_file).write_text("wrong")
    fault = node.apply("postgres.lock", database="shop", table="orders")
    wait_for(lambda: seen(node, fault).state == "ended")
    detail = node.status(fault).detail
    assert "password authentication failed" in detail
    assert 'chaos"' not in detail
    assert place not in detail


def test_a_password_that_others_can_read_is_not_used(
    node: Any, services: Mapping[str, Service]
) -> None:
    Path(services["postgres.shop"].password_file).chmod(0o644)
    fault = node.apply("postgres.lock", database="shop", table="orders")
    status = node.status(fault)
    assert status.state in ("refused", "ended")
    assert status.clean
    assert "by others than root" in status.detail


def test_what_root_has_not_listed_is_refused(node: Any) -> None:
    fault = node.apply("postgres.lock", database="other", table="orders")
    assert node.status(fault).state == "refused"
    assert "postgres.other is not on the list" in node.status(fault).detail
