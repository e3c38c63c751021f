"""Workers: processes of ours with a network, under a lease; and the HTTP proxy that one runs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from chaos_agent.effects import ops, sweep
from chaos_agent.linux import children
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.host import Host
from chaos_core.effects import Worker
from chaos_core.errors import NotInForce
from chaos_core.messages import Revert

SECOND = 1_000_000
PORT, PROXY = 8080, 18080
BODY = b"x" * 10_000

_SERVICE = f"""
import http.server, socket
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = b"x" * 10_000
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(201)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
server = Server(("::", {PORT}), Handler)
print("ready", flush=True)
server.serve_forever()
"""

_CLIENT = """
import http.client, json, sys, time
host, port, asks = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
line = http.client.HTTPConnection(host, port, timeout=5)
said = []
for method, path, body in asks:
    start = time.perf_counter()
    try:
        line.request(method, path, body)
        got = line.getresponse()
        data = got.read()
        said.append([got.status, len(data), time.perf_counter() - start])
    except http.client.IncompleteRead as error:
        said.append([-1, len(error.partial), 0]); line.close()
    except (OSError, http.client.HTTPException) as error:
        said.append([0, 0, 0]); line.close()
print(json.dumps(said))
"""


def worker(harm: dict[str, Any]) -> Worker:
    return Worker("chs-0000000a-w", "http", json.dumps({"port": PROXY, "harm": harm}))


def put_in_force(host: Host, effect: Worker, wait_for: Callable[..., None]) -> None:
    ops(effect).apply(host, effect, now_us() + 30 * SECOND)
    wait_for(lambda: ops(effect).verify(host, effect) is None)


@pytest.fixture
def service(net: Any, sh: Callable[..., str]) -> Iterator[Any]:
    """An HTTP service here, whose port is redirected to the proxy's for whoever comes from v0."""
    process = subprocess.Popen([sys.executable, "-c", _SERVICE], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    for tool in ("iptables-legacy", "ip6tables-legacy"):
        words = f"-t nat -A PREROUTING -i v0 -p tcp --dport {PORT} -j REDIRECT --to-ports {PROXY}"
        sh(tool, *words.split())

    def ask(*asks: tuple[str, str] | tuple[str, str, str], family: int = 4) -> Any:
        wanted = json.dumps([[*ask, None][:3] for ask in asks])
        out = net.there(sys.executable, "-c", _CLIENT, net.near[family], str(PORT), wanted)
        return json.loads(out)

    yield ask
    process.kill()
    process.wait()


@pytest.mark.parametrize("family", [4, 6])
def test_what_is_not_hurt_passes_unharmed(
    host: Host, service: Any, wait_for: Callable[..., None], family: int
) -> None:
    """Several requests on one connection, with bodies both ways."""
    put_in_force(host, worker({"status": 503, "path": "/other/*"}), wait_for)
    asks = [("GET", "/"), ("POST", "/", "y" * 70_000), ("GET", "/other?no")]
    said = service(*asks, family=family)
    assert [(status, size) for status, size, _ in said] == [
        (200, len(BODY)),
        (201, 70_000),
        (200, len(BODY)),  # the path is /other, which /other/* does not mean
    ]


@pytest.mark.parametrize(
    ("harm", "ask", "status", "size"),
    [
        ({"status": 503}, ("GET", "/a"), 503, 0),
        ({"status": 503, "method": "POST"}, ("GET", "/a"), 200, len(BODY)),
        ({"status": 503, "method": "POST"}, ("POST", "/a", "yy"), 503, 0),
        ({"status": 418, "path": "/api/*"}, ("GET", "/api/x?y=1"), 418, 0),
        ({"status": 418, "path": "/api/*"}, ("GET", "/web/x"), 200, len(BODY)),
        ({"truncate": 100}, ("GET", "/a"), -1, 100),
        ({"status": 503, "share": 0.0}, ("GET", "/a"), 200, len(BODY)),
    ],
)
def test_a_request_is_hurt_as_asked(
    host: Host,
    service: Any,
    wait_for: Callable[..., None],
    harm: dict[str, Any],
    ask: tuple[str, str],
    status: int,
    size: int,
) -> None:
    put_in_force(host, worker(harm), wait_for)
    ((found, length, _),) = service(ask)
    assert (found, length) == (status, size)


def test_a_share_of_requests_is_a_share(
    host: Host, service: Any, wait_for: Callable[..., None]
) -> None:
    """300 at 30 %: outside of 50–130 less than once in a million runs (binomial)."""
    put_in_force(host, worker({"status": 503, "share": 0.3}), wait_for)
    said = service(*[("GET", "/")] * 300)
    assert 50 <= sum(status == 503 for status, *_ in said) <= 130
    assert {status for status, *_ in said} == {200, 503}


def test_a_delay_is_added_to_those_that_match(
    host: Host, service: Any, wait_for: Callable[..., None]
) -> None:
    put_in_force(host, worker({"delay": 0.2, "path": "/slow"}), wait_for)
    slow, quick = service(("GET", "/slow"), ("GET", "/quick"))
    assert (slow[0], quick[0]) == (200, 200)
    assert slow[2] >= 0.2 > quick[2]


def test_more_than_the_limit_in_a_period_is_too_many(
    host: Host, service: Any, wait_for: Callable[..., None]
) -> None:
    put_in_force(host, worker({"limit": 3, "period": 60.0}), wait_for)
    said = service(*[("GET", "/")] * 8)
    assert [status for status, *_ in said] == [200] * 3 + [429] * 5


def test_what_is_not_http_is_relayed(
    host: Host, net: Any, sh: Callable[..., str], wait_for: Callable[..., None]
) -> None:
    """TLS, say: the first bytes are no method."""
    echo = (
        "import socket\n"
        f"s = socket.create_server(('0.0.0.0', {PORT}))\n"
        "print(flush=True)\n"
        "c = s.accept()[0]\n"
        "while d := c.recv(100): c.sendall(d[::-1])\n"
    )
    words = f"-t nat -A PREROUTING -i v0 -p tcp --dport {PORT} -j REDIRECT --to-ports {PROXY}"
    sh("iptables-legacy", *words.split())
    put_in_force(host, worker({"status": 503}), wait_for)
    process = subprocess.Popen([sys.executable, "-c", echo], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        ask = (
            "import socket; c = socket.create_connection(('10.9.0.1', 8080), 5)\n"
            "c.sendall(bytes([22, 3, 1])); print(list(c.recv(10)))"
        )
        assert net.there(sys.executable, "-c", ask).strip() == "[1, 3, 22]"
    finally:
        process.kill()
        process.wait()


# ── the fault ─────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def unproxied(service: Any, sh: Callable[..., str]) -> Any:
    """The same service, without the redirection by hand."""
    for tool in ("iptables-legacy", "ip6tables-legacy"):
        sh(tool, "-t", "nat", "-F", "PREROUTING")
    return service


@pytest.mark.parametrize("backend", ["xtables", "nft"])
def test_requests_of_the_chosen_peers_fail_and_only_theirs(
    node: Any, net: Any, unproxied: Any, users: Any, sh: Callable[..., str], backend: str
) -> None:
    if backend == "nft":
        node.engine.host.__dict__["backend"] = "nft"
    before = users.listing(), sh("nft", "-s", "list", "ruleset")
    for family in (4, 6):
        assert unproxied(("GET", "/"), family=family)[0][0] == 200
    fault = node.apply("http.fault", port=PORT, status=503, peers=[*net.peers(4), *net.peers(6)])
    assert unproxied(("GET", "/"))[0][0] == 200  # what leads to the proxy comes after it
    node.await_in_force(fault)
    node.grant("r-1")
    for family in (4, 6):
        assert unproxied(("GET", "/"), family=family)[0][0] == 503
        node.grant("r-1")
    assert "x" * 9 in net.there(
        *("curl", "-s", "--interface", net.bystander[4], f"http://{net.near[4]}:{PORT}/")
    )
    node.look()
    assert node.status(fault).state == "in_force"
    node.supervisor.obey(Revert(fault=fault), now_us())
    assert (node.status(fault).state, node.status(fault).clean) == ("ended", True)
    assert unproxied(("GET", "/"))[0][0] == 200
    assert (users.listing(), sh("nft", "-s", "list", "ruleset")) == before


def test_a_proxy_that_dies_ends_the_fault(
    node: Any, unproxied: Any, wait_for: Callable[..., None]
) -> None:
    fault = node.apply("http.fault", port=PORT, delay="100ms")
    node.await_in_force(fault)
    (pid,) = [pid for pid, name in children.find().items() if name.endswith("-w")]
    node.grant("r-1")
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not node.look() and node.status(fault).state == "ended")
    assert (node.status(fault).reason, node.status(fault).clean) == ("disturbed", True)
    assert unproxied(("GET", "/"))[0][0] == 200


def test_a_proxy_that_is_stopped_while_it_starts_is_gone_with_its_fault(
    node: Any, wait_for: Callable[..., None]
) -> None:
    """It has armed no timer yet, so that nobody but the keeper would end it."""
    fault = node.apply("http.fault", port=PORT, status=503)
    workers = node.engine.host.workers
    (pid,) = workers.pids(*workers.names())
    os.kill(pid, signal.SIGSTOP)

    def over() -> bool:
        node.grant("r-1")
        node.look()
        return bool(node.status(fault).state == "ended")

    wait_for(over)  # not after the twelve seconds that a fault has to be wholly there
    assert (node.status(fault).reason, node.status(fault).clean) == ("not_in_force", True)
    assert pid not in children.find()


def test_without_its_keeper_the_service_answers_again(
    node: Any, host: Host, unproxied: Any, wait_for: Callable[..., None]
) -> None:
    """The proxy is gone with its keeper; what redirects to it, with the lease."""
    node.await_in_force(node.apply("http.fault", port=PORT, status=503))
    host.close()
    wait_for(lambda: unproxied(("GET", "/"))[0][0] == 200, 5)


def test_a_proxy_that_does_not_start_is_a_fault_that_was_never_there(
    node: Any, net: Any, unproxied: Any, wait_for: Callable[..., None]
) -> None:
    """Its port is taken, say. Nobody is sent to where nobody listens."""
    with socket.create_server(("", 27_001)):
        fault = node.apply("http.fault", port=PORT, status=503, peers=net.peer[4])
        wait_for(lambda: not node.look() and node.status(fault).state == "ended")
    assert (node.status(fault).reason, node.status(fault).clean) == ("not_in_force", True)
    assert unproxied(("GET", "/"))[0][0] == 200


# ── connections ───────────────────────────────────────────────────────────────────────────


@pytest.fixture
def pool(net: Any) -> Iterator[Callable[[int], str]]:
    """Starts a service at the peer that takes so many connections, and has no backlog."""
    started: list[subprocess.Popen[bytes]] = []

    def serve(most: int) -> str:
        program = (
            "import socket\n"
            "s = socket.create_server(('', 5432), backlog=1)\n"
            "print(flush=True)\n"
            f"held = [s.accept()[0] for _ in range({most})]\n"
            "s.close(); input()\n"
        )
        words = [*net._there, sys.executable, "-c", program]
        started.append(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        assert started[-1].stdout is not None
        started[-1].stdout.readline()
        return f"{net.peer[4]}:5432"

    yield serve
    for process in started:
        process.kill()
        process.wait()


def open_connections(sh: Callable[..., str]) -> int:
    return len(sh("ss", "-Htn", "state", "established", "dport = 5432").splitlines())


def test_connections_are_held_renewed_and_gone_with_the_fault(
    node: Any, pool: Callable[[int], str], sh: Callable[..., str]
) -> None:
    fault = node.apply("connections.hold", to=pool(1000), count=60, rate=1000)
    node.await_in_force(fault)
    assert open_connections(sh) == 60
    node.grant("r-1")
    node.supervisor.obey(Revert(fault=fault), now_us())
    assert (node.status(fault).state, node.status(fault).clean) == ("ended", True)
    assert open_connections(sh) == 0


def test_a_pool_that_is_full_is_told_and_not_called_in_force(
    node: Any, pool: Callable[[int], str], wait_for: Callable[..., None]
) -> None:
    """Those that it did take are held: that is the effect. But it is not what was asked."""
    fault = node.apply("connections.hold", to=pool(20), count=60, rate=1000)
    wait_for(lambda: not node.look() and "20 of 60" in node.status(fault).detail)
    assert node.status(fault).state == "applying"


# ── the lease ─────────────────────────────────────────────────────────────────────────────


def alive(effect: Worker) -> list[int]:
    return [pid for pid, name in children.find().items() if name == effect.name]


def test_a_worker_ends_with_its_lease_though_it_is_stopped(
    host: Host, wait_for: Callable[..., None]
) -> None:
    effect = worker({"status": 503})
    ops(effect).apply(host, effect, now_us() + 3 * SECOND)
    wait_for(lambda: ops(effect).verify(host, effect) is None)
    (pid,) = alive(effect)
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: "stopped" in (ops(effect).verify(host, effect) or ""))
    wait_for(lambda: not alive(effect), 6)
    wait_for(lambda: is_over(host, effect))  # a process that dies loses its name before its files
    with pytest.raises(NotInForce):
        ops(effect).renew(host, effect, now_us() + SECOND)


def is_over(host: Host, effect: Worker) -> bool:
    try:
        ops(effect).verify(host, effect)
    except NotInForce:
        return True
    return False


def test_a_renewal_moves_its_end_and_the_deadline_does_not(
    host: Host, wait_for: Callable[..., None]
) -> None:
    effect = worker({"status": 503})
    start = now_us()
    ops(effect).apply(host, effect, start + 2 * SECOND, start + 5 * SECOND)
    wait_for(lambda: ops(effect).verify(host, effect) is None)
    ops(effect).renew(host, effect, start + 100 * SECOND)
    while now_us() < start + 4 * SECOND:
        assert ops(effect).verify(host, effect) is None
        time.sleep(0.05)
    wait_for(lambda: not alive(effect), 5)


@pytest.mark.parametrize("renewed", [True, False])
@pytest.mark.usefixtures("net")
def test_a_worker_that_starts_late_has_the_lease_that_was_renewed_meanwhile(renewed: bool) -> None:
    """As on a starved node: what it was started with is over when its first line runs."""
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    with ours:
        ours.send(worker({"status": 503}).arguments.encode() + b"\n")
        if renewed:
            ours.send(f"{now_us() + SECOND}\n{now_us() + 60 * SECOND}\n".encode())
        times = (now_us() + 300 * SECOND, now_us() - SECOND, os.getpid())
        words = ["chs-0000000a-w", "http", *map(str, times)]
        argv = [sys.executable, "-I", "-m", "chaos_agent.workers", *words]
        line = theirs.fileno()
        with theirs, subprocess.Popen(argv, stdin=line, stdout=line, cwd="/") as late:
            theirs.close()
            try:
                if renewed:
                    assert ours.recv(4096).split()[0] == str(late.pid).encode()
                assert late.poll() is None if renewed else late.wait(10) == -signal.SIGKILL
            finally:
                late.kill()


def test_the_end_of_its_keeper_is_its_own(host: Host, wait_for: Callable[..., None]) -> None:
    effect = worker({"status": 503})
    put_in_force(host, effect, wait_for)
    host.workers._running[effect.name].line.close()  # as a SIGKILL would
    wait_for(lambda: not alive(effect), 2)


def test_a_worker_is_reverted_and_swept(host: Host, wait_for: Callable[..., None]) -> None:
    effect = worker({"status": 503})
    put_in_force(host, effect, wait_for)
    ops(effect).apply(host, effect, now_us() + 30 * SECOND)  # again: one of them is left
    wait_for(lambda: ops(effect).verify(host, effect) is None)
    assert len(alive(effect)) == 1
    assert any("0000000a-w" in str(found) for found in sweep.find(host))
    ops(effect).revert(host, effect)
    assert ops(effect).absent(host, effect) is None
    assert not alive(effect)
    put_in_force(host, effect, wait_for)
    assert sweep.remove(host) == []
    assert not alive(effect)
