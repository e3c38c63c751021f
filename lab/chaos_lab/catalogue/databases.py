"""Faults of databases and caches, measured by those who use them."""

from __future__ import annotations

import time
from functools import partial
from typing import Self

from chaos_lab.catalogue.probe import NODE, Measure, Probe
from chaos_lab.drill.context import Drill
from chaos_lab.drill.measure import Answers, Stream, delayed
from chaos_lab.fleet import Fleet

_SERVICES = ("postgresql@15-main", "redis-server", "memcached")
_PASSWORD = "of-the-lab"  # noqa: S105 - of a VM that nobody reaches
_FILE = "/etc/chaos/shop.password"
LISTED = f"""
[postgres.shop]
dsn = "postgresql://chaos@127.0.0.1/postgres"
password_file = "{_FILE}"
[redis.sessions]
url = "redis://127.0.0.1:6379/0"
[memcached.front]
address = "127.0.0.1:11211"
"""
_SCHEMA = """
DROP TABLE IF EXISTS orders;
DROP ROLE IF EXISTS chaos;
CREATE TABLE orders (id int PRIMARY KEY, n int NOT NULL);
INSERT INTO orders SELECT i, 0 FROM generate_series(1, 100) i;
CREATE ROLE chaos LOGIN PASSWORD 'of-the-lab';
GRANT UPDATE ON orders TO chaos;
"""

# Twenty queries a second, and how long each took in ms; one that takes 300 is given up.
_READER = """
import itertools, psycopg, time
session = psycopg.connect("dbname=postgres", autocommit=True)
session.execute("SET lock_timeout = 300")
for number in itertools.count(1):
    start = time.perf_counter()
    try:
        session.execute("SELECT n FROM orders WHERE id = 1")
        print(number, (time.perf_counter() - start) * 1000, flush=True)
    except psycopg.errors.LockNotAvailable:
        print(number, "none", flush=True)
    time.sleep(0.05)
"""
# Transactions that read and then write, and how each of them ends.
_WRITER = """
import psycopg, time
session = psycopg.connect("dbname=postgres", autocommit=True)
while True:
    try:
        with session.transaction():
            session.execute("SELECT n FROM orders WHERE id = 1")
            time.sleep(0.05)
            session.execute("UPDATE orders SET n = n + 1 WHERE id = 1")
        print("done", flush=True)
    except psycopg.errors.DeadlockDetected:
        print("deadlock", flush=True)
"""
_PATIENCE_S = 15.0


def give(drill: Drill) -> None:
    """Start the node's PostgreSQL, Redis and memcached; ``LISTED`` tells its agent of them."""
    stock(drill.fleet, NODE, *_SERVICES)


def stock(fleet: Fleet, node: str, *services: str) -> None:
    """Start services, PostgreSQL among them, with a table, and a role whose password is there."""
    fleet.exec(node, ["systemctl", "start", *services], timeout=120)
    _psql(fleet, node, _SCHEMA)
    fleet.put(node, _FILE, _PASSWORD, mode=0o600)


def _python(program: str) -> list[str]:
    """A program for the node, as its PostgreSQL's own user."""
    return ["runuser", "-u", "postgres", "--", "python3", "-u", "-c", program]


def _sql(drill: Drill, text: str) -> str:
    return _psql(drill.fleet, NODE, text)


def _psql(fleet: Fleet, node: str, text: str) -> str:
    words = ["runuser", "-u", "postgres", "--", "psql", "-qAtX", "-v", "ON_ERROR_STOP=1", "-c"]
    return fleet.exec(node, [*words, text], timeout=60).stdout.strip()


class Queries(Answers):
    """Queries on a table, as a user of the database sees them."""

    def __init__(self, drill: Drill) -> None:
        self.interval, self.replies = 0.05, []
        Stream.__init__(self, drill.fleet.popen(NODE, _python(_READER)))


class Reads(Probe):
    """Whether, and when, a query on the table is answered."""

    def __init__(self, drill: Drill) -> None:
        self.drill, self.queries = drill, Queries(drill)

    def __enter__(self) -> Self:
        self.queries.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.queries.__exit__(None, None, None)

    def base(self) -> None:
        self.queries.wait(lambda reply: reply.rtt is not None)

    def gone_after(self, since: float) -> float:
        return self.queries.clean_after(since, delayed(60))

    def during(self) -> tuple[str, bool]:
        self.queries.wait(delayed(250))
        since = time.monotonic()
        time.sleep(3)
        asked = [reply for reply in self.queries.replies if reply.at > since]
        answered = [reply for reply in asked if reply.rtt is not None]
        return f"{len(answered)} of {len(asked)} answered", bool(asked) and not answered


class Waits(Reads):
    """How long the queries that wait do so, and how many of those come by."""

    SECONDS, DELAY_MS, SHARE = 10, 200, 0.4

    def during(self) -> tuple[str, bool]:
        self.queries.wait(delayed(60))
        since = time.monotonic()
        time.sleep(self.SECONDS)
        took = [reply.rtt or 300 for reply in self.queries.replies if reply.at > since]
        waited = [ms for ms in took if ms > 20]
        spans = self.SECONDS * 1000 * self.SHARE / self.DELAY_MS
        text = (
            f"{len(waited)} of {spans:.0f} spans met a query, the longest wait {max(took):.0f} ms"
        )
        fits = 0.5 * self.DELAY_MS <= max(took) <= self.DELAY_MS + 60
        return text, fits and 0.6 * spans <= len(waited) <= 1.2 * spans


class Deadlocks(Probe):
    """What the server counts."""

    SECONDS = 20

    def __init__(self, drill: Drill) -> None:
        self.drill = drill

    def __exit__(self, *_: object) -> None:
        pass

    def base(self) -> None:
        pass

    def counted(self) -> int:
        text = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        return int(_sql(self.drill, text))

    def during(self) -> tuple[str, bool]:
        before, since = self.counted(), time.monotonic()
        time.sleep(self.SECONDS)
        count, seconds = self.counted() - before, time.monotonic() - since
        rate = count / seconds * 60
        return f"{count} in {seconds:.0f} s: {rate:.1f} a minute", 15 <= rate <= 25

    def gone_after(self, since: float) -> float:
        text = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'chaos-%'"
        while time.monotonic() < since + _PATIENCE_S:
            now = time.monotonic()
            if _sql(self.drill, text) == "0":
                return now - since
        return _PATIENCE_S


class Ends(Stream):
    """How the transactions of one user end."""

    def __init__(self, drill: Drill) -> None:
        self.ends: list[str] = []
        super().__init__(drill.fleet.popen(NODE, _python(_WRITER)))

    def take(self, at: float, line: str) -> None:  # noqa: ARG002
        self.ends.append(line.strip())


class Victims(Deadlocks):
    """What the users' transactions get."""

    def __init__(self, drill: Drill) -> None:
        super().__init__(drill)
        self.users = [Ends(drill) for _ in range(2)]

    def __enter__(self) -> Self:
        for user in self.users:
            user.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        for user in self.users:
            user.__exit__(None, None, None)

    def ends(self, how: str) -> int:
        return sum(user.ends.count(how) for user in self.users)

    def base(self) -> None:
        self.before = self.ends("deadlock")

    def during(self) -> tuple[str, bool]:
        done = self.ends("done")
        time.sleep(self.SECONDS)
        victims, others = self.ends("deadlock") - self.before, self.ends("done") - done
        return f"{victims} got 40P01, {others} went through", victims > 0 < others


class Flushed(Probe):
    """What is left of a thousand keys."""

    KEYS = 1000
    _FILL = """
import socket, sys
line = socket.create_connection(("127.0.0.1", int(sys.argv[1]))).makefile("rwb")
for n in range(int(sys.argv[2])):
    line.write(sys.argv[3].encode().decode("unicode_escape").format(n).encode())
    line.flush(); line.readline()
"""
    _LEFT = """
import socket, sys
line = socket.create_connection(("127.0.0.1", int(sys.argv[1]))).makefile("rwb")
left = 0
for n in range(int(sys.argv[2])):
    line.write(f"get k{n}\\r\\n".encode()); line.flush()
    if line.readline()[:3] not in (b"END", b"$-1"):
        left += 1; line.readline(); sys.argv[1] == "11211" and line.readline()
print(left)
"""

    def __init__(self, port: str, write: str, drill: Drill) -> None:
        self.drill, self.port, self.write = drill, port, write

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, program: str, *words: str) -> str:
        argv = ["python3", "-c", program, self.port, str(self.KEYS), *words]
        return self.drill.fleet.exec(NODE, argv, timeout=60).stdout.strip()

    def base(self) -> None:
        self.run(self._FILL, self.write)
        self.before = self.run(self._LEFT)

    def during(self) -> tuple[str, bool]:
        left = self.run(self._LEFT)
        return f"{left} of {self.before} keys left", (left, self.before) == ("0", str(self.KEYS))

    def gone_after(self, since: float) -> float:  # noqa: ARG002 - it is over at once
        return 0.0


MEASURES = (
    Measure("postgres.lock", "database=shop table=orders", "no query answered", Reads),
    Measure(
        "postgres.slow",
        f"database=shop table=orders delay={Waits.DELAY_MS}ms share={Waits.SHARE:.0%}",
        f"{Waits.SHARE:.0%} of the time queries wait, up to {Waits.DELAY_MS} ms",
        Waits,
    ),
    Measure("postgres.deadlock", "database=shop rate=20", "20 a minute, counted by it", Deadlocks),
    Measure(
        "postgres.deadlock",
        "database=shop table=orders rate=20",
        "transactions get error 40P01",
        Victims,
    ),
    Measure(
        "cache.flush",
        "redis=sessions",
        "no key left",
        partial(Flushed, "6379", r"set k{} v\r\n"),
        lasts=False,
    ),
    Measure(
        "cache.flush",
        "memcached=front",
        "no key left",
        partial(Flushed, "11211", r"set k{} 0 0 1\r\nv\r\n"),
        lasts=False,
    ),
)
