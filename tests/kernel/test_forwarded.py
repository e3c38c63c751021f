"""What the node forwards is hit like its own: containers that call, and ports published for them.

The node has what Docker makes: a bridge, a container behind it, MASQUERADE for what it sends and
DNAT for a port that is published. Every network fault is tried on four paths, by both families:
calls of the node and of the container to the peer's port, and calls of the peer to a service of
the node and to the published port. With ``scope=host`` the container's two are left alone.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from socket import SOCK_DGRAM, SOCK_STREAM
from typing import Any, NamedTuple

import dns.message
import pytest
from tests.kernel.test_dns import OTHER, RIGHT, Resolvers, ask

from chaos_agent.doctor import examine
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.host import Host
from chaos_core.faults import kinds
from chaos_core.faults._network import NetworkFault
from chaos_core.messages import Revert

AF = {4: socket.AF_INET, 6: socket.AF_INET6}
GATEWAY = {4: "172.17.0.1", 6: "fd17::1"}
CONTAINER = {4: "172.17.0.2", 6: "fd17::2"}
SUBNET = {4: "172.17.0.0/16", 6: "fd17::/64"}
THEIRS, OWN, PUBLISHED, INSIDE = 5432, 8090, 8080, 80
NAME = "db.example.com"
SENT = 12  # datagrams of an exchange: more than the bucket of a rate holds
SIZE = 1200
PATHS = ("node calls", "container calls", "node serves", "container serves")
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Docker:
    """The bridge, the container behind it, and the rules that Docker writes for them."""

    def __init__(self, net: Any, sh: Callable[..., str], firewall: str) -> None:
        self.net = net
        here = _own_net()
        try:
            assert _libc.unshare(_CLONE_NEWNET) == 0
            self.namespace = _own_net()
        finally:
            _within(here)
            os.close(here)
        there = ("nsenter", f"--net=/proc/{os.getpid()}/fd/{self.namespace}")
        for words in (
            "ip link add docker0 type bridge",
            f"ip link add c0 type veth peer name eth0 netns {there[1].removeprefix('--net=')}",
            "ip link set c0 master docker0 up",
            "ip link set docker0 up",
            f"ip addr add {GATEWAY[4]}/16 dev docker0",
            f"ip -6 addr add {GATEWAY[6]}/64 dev docker0 nodad",
        ):
            sh(*words.split())
        for words in (
            "ip link set lo up",
            "ip link set eth0 up",
            f"ip addr add {CONTAINER[4]}/16 dev eth0",
            f"ip -6 addr add {CONTAINER[6]}/64 dev eth0 nodad",
            f"ip route add default via {GATEWAY[4]}",
            f"ip -6 route add default via {GATEWAY[6]}",
        ):
            sh(*there, *words.split())
        for family, key in ((4, "ipv4.ip_forward"), (6, "ipv6.conf.all.forwarding")):
            sh("sysctl", "-qw", f"net.{key}=1")
            for command in self._rules(family, firewall):
                sh(*command.split())

    def _rules(self, family: int, firewall: str) -> list[str]:
        """As Docker 28 writes them, in one chain."""
        inside = f"[{CONTAINER[6]}]:{INSIDE}" if family == 6 else f"{CONTAINER[4]}:{INSIDE}"
        if firewall == "nft":
            ip, table = ("ip6", "ip6 nat") if family == 6 else ("ip", "ip nat")
            local = f"fib daddr type local meta l4proto {{ tcp, udp }} th dport {PUBLISHED}"
            return [
                f"nft add table {table}",
                f"nft add chain {table} PREROUTING {{ type nat hook prerouting priority -100; }}",
                f"nft add chain {table} POSTROUTING {{ type nat hook postrouting priority 100; }}",
                f"nft add chain {table} OUTPUT {{ type nat hook output priority -100; }}",
                f"nft add rule {table} OUTPUT {local} dnat to {inside}",
                f"nft add rule {table} PREROUTING iifname != docker0 {local} dnat to {inside}",
                f"nft add rule {table} POSTROUTING {ip} saddr {SUBNET[family]}"
                " oifname != docker0 masquerade",
            ]
        tool = "ip6tables-legacy -w" if family == 6 else "iptables-legacy -w"
        dnat = f"-j DNAT --to-destination {inside}"
        return [
            f"{tool} -P FORWARD DROP",
            f"{tool} -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            f"{tool} -A FORWARD -i docker0 -j ACCEPT",
            f"{tool} -A FORWARD -o docker0 -j ACCEPT",
            f"{tool} -t nat -N DOCKER",
            f"{tool} -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
            f"{tool} -t nat -A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER",
            f"{tool} -t nat -A POSTROUTING -s {SUBNET[family]} ! -o docker0 -j MASQUERADE",
            *(
                f"{tool} -t nat -A DOCKER ! -i docker0 -p {protocol} --dport {PUBLISHED} {dnat}"
                for protocol in ("tcp", "udp")
            ),
        ]

    def inside(self, make: Callable[[], Any]) -> Any:
        """What ``make`` makes in the container; a socket stays there."""
        here = _own_net()
        try:
            _within(self.namespace)
            return make()
        finally:
            _within(here)
            os.close(here)

    def socket(self, where: str, family: int, kind: int) -> socket.socket:
        def make() -> socket.socket:
            return socket.socket(AF[family], kind)

        places = {"node": lambda made: made(), "peer": self.net.at_peer, "container": self.inside}
        found: socket.socket = places[where](make)
        return found

    def ends(self, path: str, family: int) -> tuple[str, str, tuple[str, int], int]:
        """Who calls, who serves, the address that is called, and the port that is served."""
        who, _, what = path.partition(" ")
        if what == "calls":
            return who, "peer", (self.net.peer[family], THEIRS), THEIRS
        if who == "node":
            return "peer", "node", (self.net.near[family], OWN), OWN
        return "peer", "container", (self.net.near[family], PUBLISHED), INSIDE


def _own_net() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY)


def _within(namespace: int) -> None:
    assert _libc.setns(namespace, _CLONE_NEWNET) == 0


@pytest.fixture(scope="module", autouse=True)
def _agent_has_started() -> None:
    """As the agent tries all at its start: the first time is longer than a lease in the guest."""
    here = _own_net()
    try:
        assert _libc.unshare(_CLONE_NEWNET) == 0
        with Host() as host:
            examine(host)
    finally:
        _within(here)
        os.close(here)


@pytest.fixture(params=["xtables", "nft"])
def firewall(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def docker(
    net: Any, sh: Callable[..., str], wait_for: Callable[..., None], firewall: str
) -> Iterator[Docker]:
    made = Docker(net, sh, firewall)
    for family in (4, 6):
        for path in PATHS:
            wait_for(partial(passes, made, path, family), 10)
    yield made
    os.close(made.namespace)


# ── what becomes of traffic ───────────────────────────────────────────────────────────────


class Echoes(NamedTuple):
    """Of ``SENT`` datagrams: how many came back, how many as they were, and how soon in s."""

    back: int
    whole: int
    first: float
    last: float


def exchange(docker: Docker, path: str, family: int) -> Echoes:
    """What comes back of datagrams that are echoed."""
    caller, server, address, port = docker.ends(path, family)
    with ExitStack() as stack:
        client, echo = (
            stack.enter_context(docker.socket(where, family, SOCK_DGRAM))
            for where in (caller, server)
        )
        peer = docker.net.peer[family]
        echo.bind((peer if server == "peer" else "", port))
        client.bind((peer if caller == "peer" else "", 0))
        sent = [struct.pack("!I", number) + b"balance".ljust(SIZE, b".") for number in range(SENT)]
        began = time.monotonic()
        for data in sent:
            with suppress(PermissionError):  # a local firewall's way of saying no
                client.sendto(data, address)
        back: list[bytes] = []
        times = [float("inf")]
        while select.select([client, echo], [], [], 0.1 if len(back) >= SENT else 0.4)[0]:
            for one in select.select([client, echo], [], [], 0)[0]:
                data, source = one.recvfrom(2048)
                if one is echo:
                    with suppress(PermissionError):
                        echo.sendto(data, source)
                else:
                    times.append(time.monotonic() - began)
                    back.append(data)
        return Echoes(len(back), len(set(back) & set(sent)), min(times), times[-1])


def passes(docker: Docker, path: str, family: int) -> bool:
    return exchange(docker, path, family).whole == SENT


def connection(docker: Docker, path: str, family: int) -> str:
    """``ok``, or what keeps a TCP connection from being made."""
    caller, server, address, port = docker.ends(path, family)
    with ExitStack() as stack:
        client, listener = (
            stack.enter_context(docker.socket(where, family, SOCK_STREAM))
            for where in (caller, server)
        )
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        peer = docker.net.peer[family]
        listener.bind((peer if server == "peer" else "", port))
        listener.listen()
        client.bind((peer if caller == "peer" else "", 0))
        client.settimeout(2)  # the first SYN may be answered too soon to be heard
        try:
            client.connect(address)
        except TimeoutError:
            return "timeout"
        except OSError as error:
            return errno.errorcode[error.errno or 0]
    return "ok"


def refused(docker: Docker, path: str, family: int) -> bool:
    return connection(docker, path, family) == "ECONNREFUSED"


def limited(docker: Docker, path: str, family: int) -> bool:
    return [connection(docker, path, family) for _ in range(2)] == ["ok", "ECONNREFUSED"]


def lost(docker: Docker, path: str, family: int) -> bool:
    return exchange(docker, path, family).back == 0


def some_lost(docker: Docker, path: str, family: int) -> bool:
    return 0 < exchange(docker, path, family).back < SENT


def late(docker: Docker, path: str, family: int) -> bool:
    return exchange(docker, path, family).first > 0.1


def harmed(docker: Docker, path: str, family: int) -> bool:
    return exchange(docker, path, family).whole < SENT


def doubled(docker: Docker, path: str, family: int) -> bool:
    return exchange(docker, path, family).back > SENT


def slowed(docker: Docker, path: str, family: int) -> bool:
    """Some come late, or not at all: the queue is shorter than what is sent at once."""
    found = exchange(docker, path, family)
    return found.back < SENT or found.last > 0.3


XTABLES = pytest.mark.parametrize("firewall", ["xtables"])
FAMILIES = pytest.mark.parametrize("family", [4, 6])
# A sample of the long table is in `make test`; `make test-long` has all of it.
SAMPLED = pytest.mark.parametrize("family", [4, pytest.param(6, marks=pytest.mark.long)])


@dataclass(frozen=True)
class Row:
    """A fault, how its effect is told, the kernel that can do it and the backends."""

    kind: str
    params: dict[str, str]
    is_hit: Callable[[Docker, str, int], bool]
    guest: bool = False
    firewalls: tuple[str, ...] = ("xtables", "nft")


def here(kind: str, is_hit: Any, **params: str) -> Row:
    return Row(kind, params, is_hit)


def guest(kind: str, is_hit: Any, **params: str) -> Row:
    return Row(kind, params, is_hit, guest=True, firewalls=("xtables",))


ROWS = {
    "partition in": here("network.partition", lost, direction="in"),
    "partition reject": here("network.partition", refused, action="reject", direction="both"),
    "partition reject in": here("network.partition", lost, action="reject", direction="in"),
    "partition reject out": here("network.partition", lost, action="reject", direction="out"),
    "loss in": here("network.loss", lost, percent="100%", direction="in"),
    "loss in, every second": here("network.loss", some_lost, every="2", direction="in"),
    "flap in": here("network.flap", lost, direction="in", down="60s", up="1s"),
    "blackhole in": here("network.blackhole", lost, direction="in"),
    "reject": here("network.reject", refused, direction="both"),
    "limit": here("network.limit", limited, direction="both", count="1", period="300s"),
    "tamper out": Row(
        "tamper.payload", {"find": "balance", "replace": "bananas"}, harmed, firewalls=("xtables",)
    ),
    "tamper in": Row(
        "tamper.payload", {"find": "balance", "replace": "bananas", "direction": "in"}, harmed,
        firewalls=("xtables",),
    ),
    "partition": guest("network.partition", lost),
    "partition out": guest("network.partition", lost, direction="out"),
    "flap": guest("network.flap", lost, down="60s", up="1s"),
    "blackhole": guest("network.blackhole", lost),
    "loss": guest("network.loss", lost, percent="100%"),
    "loss, every second": guest("network.loss", some_lost, every="2"),
    "latency": guest("network.latency", late, delay="200ms"),
    "latency in": guest("network.latency", late, delay="200ms", direction="in"),
    "corrupt": guest("network.corrupt", harmed, percent="100%"),
    "duplicate": guest("network.duplicate", doubled, percent="100%"),
    "reorder": guest("network.reorder", late, percent="0.0001%", delay="200ms"),
    "down": guest("network.down", lost, interface="v0"),
    "rate": guest("network.rate", slowed, rate="64kbit", queue="1300ms"),
}  # fmt: skip
SIDES = {"calls": {"ports": str(THEIRS)}, "serves": {"local_ports": f"{PUBLISHED},{OWN}"}}
IN_GUEST_SAMPLE = ("partition", "latency", "loss")


def _marks(name: str, row: Row) -> list[pytest.MarkDecorator]:
    sampled = not row.guest or name in IN_GUEST_SAMPLE
    return [*([pytest.mark.guest] if row.guest else []), *([] if sampled else [pytest.mark.long])]


CASES = [
    pytest.param(row, firewall, id=f"{name}-{firewall}", marks=_marks(name, row))
    for name, row in ROWS.items() for firewall in row.firewalls
]  # fmt: skip


def test_every_network_kind_is_tried() -> None:
    """By the table, or with what workers do."""
    network = {kind for kind, cls in kinds().items() if issubclass(cls, NetworkFault)}
    assert network == {row.kind for row in ROWS.values()} | {"network.dns", "http.fault"}


def in_force(node: Any, kind: str, **params: Any) -> str:
    fault: str = node.apply(kind, **params)
    node.await_in_force(fault)
    return fault


def gone(node: Any, fault: str) -> None:
    node.look()
    assert node.status(fault).state == "in_force", node.status(fault).detail
    node.supervisor.obey(Revert(fault=fault), now_us())
    assert (node.status(fault).clean, node.status(fault).detail) == (True, "")


@SAMPLED
@pytest.mark.parametrize(("row", "firewall"), CASES)
def test_what_is_forwarded_is_hit_like_the_nodes_own(
    node: Any, net: Any, docker: Docker, row: Row, firewall: str, family: int
) -> None:
    assert node.engine.host.backend == firewall
    for side, ports in SIDES.items():
        fault = in_force(node, row.kind, peers=net.peer[family], **ports, **row.params)
        for path in (f"node {side}", f"container {side}"):
            node.grant("r-1")
            assert row.is_hit(docker, path, family), path
        gone(node, fault)


@pytest.mark.long
@pytest.mark.parametrize(("row", "firewall"), CASES)
def test_with_scope_host_only_the_nodes_own_is_hit(
    node: Any, net: Any, docker: Docker, row: Row, firewall: str
) -> None:
    assert node.engine.host.backend == firewall
    if row.kind == "network.latency" and row.params.get("direction") == "in":
        fault = node.apply(row.kind, peers=net.peer[4], scope="host", **row.params)
        assert node.status(fault).state == "refused"
        assert "scope: host goes with direction=out only" in node.status(fault).detail
        return
    for side, ports in SIDES.items():
        fault = in_force(node, row.kind, peers=net.peer[4], scope="host", **ports, **row.params)
        for path, hit in ((f"node {side}", True), (f"container {side}", False)):
            node.grant("r-1")
            assert row.is_hit(docker, path, 4) == hit, path
        gone(node, fault)


@pytest.mark.parametrize("firewall", ["xtables", "nft"])
def test_scope_host_leaves_containers_alone(
    node: Any, net: Any, docker: Docker, firewall: str
) -> None:
    test_with_scope_host_only_the_nodes_own_is_hit(
        node, net, docker, ROWS["partition in"], firewall
    )


# ── what workers do ───────────────────────────────────────────────────────────────────────


@pytest.fixture
def resolvers(net: Any) -> Iterator[Resolvers]:
    found = Resolvers(net)
    yield found
    found.close()


@XTABLES
@FAMILIES
@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        ({"answer": "nxdomain"}, ["NXDOMAIN"]),
        ({"answer": "servfail"}, ["SERVFAIL"]),
        ({"answer": "address", "address": "198.51.100.7"}, ["198.51.100.7"]),
    ],
)
@pytest.mark.usefixtures("firewall", "resolvers")
def test_containers_are_answered_like_the_node(
    node: Any, net: Any, docker: Docker, family: int, answer: dict[str, str], seen: list[str]
) -> None:
    resolver, right = net.peer[family], [RIGHT["peer"]]
    for scope, forwarded in (("all", seen), ("host", right)):
        fault = in_force(node, "network.dns", names=NAME, scope=scope, **answer)
        for tcp in (False, True):
            node.grant("r-1")
            assert ask(resolver, NAME, tcp=tcp) == seen
            for name, answers in ((NAME, forwarded), (OTHER, right)):
                node.grant("r-1")
                assert docker.inside(partial(ask, resolver, name, tcp=tcp)) == answers
        gone(node, fault)
        assert docker.inside(lambda: ask(resolver, NAME)) == right


@XTABLES
@FAMILIES
@pytest.mark.usefixtures("docker", "firewall")
def test_who_is_not_led_to_the_answers_gets_none(node: Any, net: Any, family: int) -> None:
    fault = in_force(node, "network.dns", names=NAME, answer="nxdomain")
    port = 23_000 + int(fault, 16) % 3_000
    query = dns.message.make_query(NAME, "A").to_wire()
    with socket.socket(AF[family], SOCK_DGRAM) as own:
        own.settimeout(1)
        own.sendto(query, (net.near[family], port))
        assert own.recv(512)  # it listens there
    node.grant("r-1")
    with net.socket_there(family, SOCK_DGRAM) as stranger:
        stranger.settimeout(1)
        stranger.bind((net.peer[family], 0))
        stranger.sendto(query, (net.near[family], port))
        with pytest.raises(TimeoutError):
            stranger.recv(512)
    node.grant("r-1")
    with net.socket_there(family, SOCK_STREAM) as stranger:
        stranger.settimeout(1)
        with pytest.raises(TimeoutError):
            stranger.connect((net.near[family], port))
    gone(node, fault)


@pytest.mark.guest
@XTABLES
@FAMILIES
@pytest.mark.usefixtures("firewall", "resolvers")
def test_queries_of_containers_vanish_like_the_nodes(
    node: Any, net: Any, docker: Docker, family: int
) -> None:
    resolver, right = net.peer[family], [RIGHT["peer"]]
    for scope, forwarded in (("all", ["TimeoutError"]), ("host", right)):
        fault = in_force(node, "network.dns", names=NAME, scope=scope)
        node.grant("r-1")
        look_up = partial(ask, resolver, NAME, patience=0.7)  # within the lease
        assert look_up() == ["TimeoutError"]
        node.grant("r-1")
        assert docker.inside(look_up) == forwarded
        node.grant("r-1")
        assert docker.inside(lambda: ask(resolver, OTHER)) == right
        gone(node, fault)


def status_of(docker: Docker, path: str, family: int) -> bytes:
    """How a request is answered on that path; empty when it waits at the service, who is mute."""
    caller, server, address, port = docker.ends(path, family)
    with ExitStack() as stack:
        client, service = (
            stack.enter_context(docker.socket(where, family, SOCK_STREAM))
            for where in (caller, server)
        )
        peer = docker.net.peer[family]
        service.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        service.bind((peer if server == "peer" else "", port))
        service.listen()
        client.bind((peer if caller == "peer" else "", 0))
        client.settimeout(1)
        client.connect(address)
        client.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        try:
            return client.recv(512).split(b"\r\n")[0]
        except TimeoutError:
            return b""


@FAMILIES
def test_requests_to_containers_and_of_them_are_hurt(
    node: Any, docker: Docker, firewall: str, family: int
) -> None:
    assert node.engine.host.backend == firewall
    for path, port, own in (
        ("node serves", OWN, True),
        ("container serves", PUBLISHED, False),
        ("container calls", THEIRS, False),
    ):
        assert status_of(docker, path, family) == b""
        for scope in ("all", "host"):
            fault = in_force(node, "http.fault", port=port, status=503, scope=scope)
            hit = own or scope == "all"
            assert status_of(docker, path, family)[:12] == (b"HTTP/1.1 503" if hit else b""), path
            gone(node, fault)
