"""The lab's shop: a small web application that keeps its goods in PostgreSQL and Redis.

Runs under the VM's own Python with Debian's packages, as a user's would. Two manners, chosen
by SHOP_MANNER: ``sturdy`` has time-outs, retries, a pool, breakers, yesterday's answer for when
the database is away, and sends away whom it cannot serve in time; ``fragile`` has none of
these, which is how such things are often written.

    GET /healthz     the process answers
    GET /item/N      one thing, from the cache or the database
    POST /order/N    one more sold, in the database
    GET /metrics     Prometheus' text format
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psycopg
import redis

STURDY = os.environ.get("SHOP_MANNER", "sturdy") == "sturdy"
DATABASE = os.environ["SHOP_DATABASE"]
CACHE = os.environ["SHOP_CACHE"]
PORT = int(os.environ.get("SHOP_PORT", "8000"))

PATIENCE_S = 0.3 if STURDY else None
POOL = 8 if STURDY else 1
TRIES = 2 if STURDY else 1
CACHED_S = 2
BREAK_S = 1  # what has failed is left alone for so long
AT_ONCE = 16  # requests; one more is told to go elsewhere
ORDER_S = 3
READ = "select id, name, sold from item where id = %s"


class Pool:
    """Connections to the database. A fragile one waits for ever for its only connection."""

    def __init__(self) -> None:
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()
        for _ in range(POOL):
            self._idle.put(None)

    @contextlib.contextmanager
    def connection(self) -> Iterator[Any]:
        found = self._idle.get(timeout=PATIENCE_S)
        try:
            if found is None or found.closed:
                found = connect()
            yield found
        except BaseException:
            if found is not None:
                found.close()
            found = None
            raise
        finally:
            self._idle.put(found)


def connect() -> Any:
    """A connection on which nothing takes longer than the shop's patience."""
    options = f"-c statement_timeout={int(PATIENCE_S * 1000)}" if PATIENCE_S else ""
    extra: Any = {"connect_timeout": 1, "tcp_user_timeout": 500} if STURDY else {}
    return psycopg.connect(DATABASE, options=options, autocommit=True, **extra)


POOLED = Pool()
REDIS = redis.Redis.from_url(
    CACHE, socket_timeout=PATIENCE_S, socket_connect_timeout=PATIENCE_S, health_check_interval=0
)
LAST_KNOWN: dict[int, tuple[float, dict[str, Any]]] = {}
COUNTS: Counter[str] = Counter()
LOCK = threading.Lock()
WORKERS = ThreadPoolExecutor(POOL)
ROOM = threading.BoundedSemaphore(AT_ONCE)


class Breaker:
    """Open after a failure; each second one may try again. A fragile shop has none."""

    def __init__(self) -> None:
        self._tripped = False
        self._until = 0.0

    def lets_through(self) -> bool:
        now = time.monotonic()
        if not self._tripped or not STURDY:
            return True
        if now < self._until:
            return False
        self._until = now + BREAK_S
        return True

    def tell(self, *, good: bool) -> None:
        self._tripped = not good
        self._until = time.monotonic() + BREAK_S


CACHE_BREAKER, DATABASE_BREAKER = Breaker(), Breaker()


def cached(work: Callable[[], Any]) -> Any:
    """What Redis says; nothing when it is away."""
    if not CACHE_BREAKER.lets_through():
        return None
    try:
        found = work()
    except redis.RedisError:
        CACHE_BREAKER.tell(good=False)
        if not STURDY:
            raise
        return None
    CACHE_BREAKER.tell(good=True)
    return found


def ask(work: Callable[[Any], Any]) -> Any:
    """What ``work`` finds on a connection, tried again where that is how it is done here."""
    for attempt in range(TRIES):
        try:
            with POOLED.connection() as db:
                return work(db)
        except (psycopg.Error, queue.Empty):
            if attempt + 1 == TRIES:
                raise
    return None


def item(number: int) -> dict[str, Any]:
    """From the cache, or the database; or else what this process has seen last."""
    key = f"item:{number}"
    found = cached(lambda: REDIS.get(key))
    if found:
        return dict(json.loads(found))
    seen, known = LAST_KNOWN.get(number, (0.0, {}))
    if STURDY and known:
        just_now = time.monotonic() - seen < CACHED_S
        if just_now or not DATABASE_BREAKER.lets_through():
            return known if just_now else {**known, "stale": True}
    try:
        asked = WORKERS.submit(ask, lambda db: db.execute(READ, (number,)).fetchone())
        row = asked.result(PATIENCE_S if known else None)
    except (psycopg.Error, queue.Empty, TimeoutError):
        DATABASE_BREAKER.tell(good=False)
        if STURDY and known:
            return {**known, "stale": True}
        raise
    DATABASE_BREAKER.tell(good=True)
    fresh = {"id": row[0], "name": row[1], "sold": row[2]}
    LAST_KNOWN[number] = time.monotonic(), fresh
    cached(lambda: REDIS.set(key, json.dumps(fresh), ex=CACHED_S))
    return fresh


def order(number: int) -> dict[str, Any]:
    """One more is sold: looked at, then written, in one transaction."""

    def sell(db: Any) -> int:
        with db.transaction():
            if STURDY:  # an order is worth waiting for
                db.execute(f"set local statement_timeout = '{ORDER_S}s'")
            found = db.execute(f"{READ} for update", (number,)).fetchone()
            sold: int = found[2] + 1
            db.execute("update item set sold = %s where id = %s", (sold, number))
        return sold

    return {"id": number, "sold": ask(sell)}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer({"item": item})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self._answer({"order": order})

    def _answer(self, verbs: dict[str, Any]) -> None:
        verb, _, rest = self.path.lstrip("/").partition("/")
        began = time.monotonic()
        if verb == "healthz":
            self._send(200, {"node": socket.gethostname()})
        elif verb == "metrics":
            self._send(200, metrics())
        elif verb in verbs and rest.isdigit():
            self._serve(verbs[verb], int(rest))
        else:
            self._send(404, {"error": "no such page"})
        with LOCK:
            COUNTS["seconds"] += time.monotonic() - began  # type: ignore[assignment]

    def _serve(self, work: Any, number: int) -> None:
        if STURDY and not ROOM.acquire(blocking=False):
            self._send(503, {"error": "busy"})
            return
        try:
            self._send(200, work(number))
        except (psycopg.Error, redis.RedisError, queue.Empty, TypeError) as error:
            self._send(500, {"error": type(error).__name__})
        finally:
            if STURDY:
                ROOM.release()

    def _send(self, status: int, body: Any) -> None:
        with LOCK:
            COUNTS[f"status_{status}"] += 1
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "text/plain" if isinstance(body, str) else "text/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing: nginx writes the access log."""


def metrics() -> str:
    with LOCK:
        lines = [
            f'shop_requests_total{{status="{name.removeprefix("status_")}"}} {count}'
            for name, count in sorted(COUNTS.items())
            if name.startswith("status_")
        ]
        lines.append(f"shop_request_seconds_total {float(COUNTS['seconds']):.6f}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    ThreadingHTTPServer.daemon_threads = True
    ThreadingHTTPServer.request_queue_size = 128
    ThreadingHTTPServer(("", PORT), Handler).serve_forever()
