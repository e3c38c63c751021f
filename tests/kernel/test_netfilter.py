"""Faults of the packet filter's own: each measured from outside, and gone without a trace."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from socket import SOCK_DGRAM, SOCK_STREAM
from typing import Any

import pytest

from chaos_agent.effects import ops
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.cgroupfs import unified_id
from chaos_core.effects import Chain, Rule
from chaos_core.messages import Revert

AF = {4: socket.AF_INET, 6: socket.AF_INET6}
FAMILIES = pytest.mark.parametrize("family", [4, 6])
PORT, OTHER = 7071, 7072


class Calls:
    """TCP connections from here to the peer (``out``), or from the peer to here (``in``)."""

    def __init__(self, net: Any, family: int, way: str, stack: ExitStack) -> None:
        self.net, self.family, self.way, self._stack = net, family, way, stack
        for port in (PORT, OTHER):
            server = self._kept(self._socket(there=way == "out"))
            server.bind(("", port))
            server.listen(512)
            server.setblocking(False)

    def _socket(self, *, there: bool) -> socket.socket:
        if there:
            found: socket.socket = self.net.socket_there(self.family, SOCK_STREAM)
            return found
        return socket.socket(AF[self.family], SOCK_STREAM)

    def _kept(self, one: socket.socket) -> socket.socket:
        return self._stack.enter_context(one)

    def open(self, peer: str, port: int = PORT, patience: float = 2) -> socket.socket:
        """A new connection between this node and the peer's address ``peer``.

        One that fails is given up: its SYNs are not sent again, and count no more.
        """
        with ExitStack() as attempt:
            client = attempt.enter_context(self._socket(there=self.way == "in"))
            client.settimeout(patience)
            if self.way == "in":
                client.bind((peer, 0))
            client.connect((peer if self.way == "out" else self.net.near[self.family], port))
            self._stack.push(attempt.pop_all())
        return client

    def outcome(self, peer: str, port: int = PORT, patience: float = 2) -> str:
        """``ok``, ``timeout`` or the name of the error with which a connection fails."""
        try:
            self.open(peer, port, patience).close()
        except TimeoutError:
            return "timeout"
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return "ok"


@pytest.fixture
def calls(net: Any) -> Iterator[Callable[[int, str], Calls]]:
    with ExitStack() as stack:
        yield lambda family, way: Calls(net, family, way, stack)


@pytest.fixture(params=["xtables", "nft"])
def firewall(request: Any, net: Any, sh: Callable[..., str]) -> str:  # noqa: ARG001
    """What the user has, and we with him."""
    if request.param == "nft":
        sh("nft", "add", "table", "inet", "mine")
    return str(request.param)


def in_force(node: Any, kind: str, **params: Any) -> str:
    fault: str = node.apply(kind, **params)
    assert node.status(fault).state == "in_force", node.status(fault).detail
    return fault


def gone(node: Any, fault: str) -> None:
    node.supervisor.obey(Revert(fault=fault), now_us())
    assert (node.status(fault).clean, node.status(fault).detail) == (True, "")
    assert node.engine.residue() == []


# ── network.reject ────────────────────────────────────────────────────────────────────────


@FAMILIES
@pytest.mark.parametrize("way", ["in", "out"])
@pytest.mark.parametrize(
    ("action", "seen"),
    [
        ("tcp-reset", "ECONNREFUSED"),
        ("port-unreachable", "ECONNREFUSED"),
        ("host-unreachable", "EHOSTUNREACH"),
    ],
)
def test_new_connections_are_refused_and_open_ones_go_on(
    node: Any, net: Any, calls: Any, listing: Any, family: int, way: str, action: str, seen: str
) -> None:
    peer, bystander = net.peer[family], net.bystander[family]
    to = calls(family, way)
    before = listing()
    old = to.open(peer)
    ports = {"ports" if way == "out" else "local_ports": str(PORT)}
    fault = in_force(node, "network.reject", peers=peer, direction=way, action=action, **ports)
    assert listing() == before
    node.grant("r-1")
    assert to.outcome(peer) == seen
    assert to.outcome(peer, OTHER) == "ok"
    assert to.outcome(bystander) == "ok"
    assert old.send(b"still there") == 11
    gone(node, fault)
    assert listing() == before
    assert to.outcome(peer) == "ok"


@FAMILIES
def test_both_ways_are_refused_and_counted_each_for_itself(
    node: Any, net: Any, calls: Any, family: int
) -> None:
    peer, other = net.peer[family], net.others[family][0]
    refused = in_force(node, "network.reject", peers=peer, direction="both")
    counted = in_force(
        node, "network.limit", peers=other, direction="both", count="1", period="300s"
    )
    for way in ("in", "out"):
        to = calls(family, way)
        node.grant("r-1")
        assert to.outcome(peer) == "ECONNREFUSED", way
        assert [to.outcome(other) for _ in range(2)] == ["ok", "ECONNREFUSED"], way
        assert to.outcome(net.bystander[family]) == "ok", way
    node.supervisor.obey(Revert(fault=counted), now_us())
    gone(node, refused)


@FAMILIES
def test_a_refused_datagram_is_an_error_for_its_sender(node: Any, net: Any, family: int) -> None:
    fault = in_force(
        node, "network.reject", peers=net.peer[family], action="port-unreachable", protocol="udp"
    )
    with socket.socket(AF[family], SOCK_DGRAM) as sender:
        with pytest.raises(PermissionError):  # from the very call, as documented
            sender.sendto(b"x", (net.peer[family], PORT))
        assert sender.sendto(b"x", (net.bystander[family], PORT)) == 1
    gone(node, fault)


def test_a_share_of_the_connections_is_refused(
    node: Any, net: Any, firewall: str, calls: Any
) -> None:
    to = calls(4, "out")
    fault = in_force(node, "network.reject", peers=net.peer[4], share="50%")
    assert node.engine.host.backend == firewall
    found = []
    for number in range(400):
        found.append(to.outcome(net.peer[4]))
        if number % 50 == 0:
            node.grant("r-1")
    assert set(found) == {"ok", "ECONNREFUSED"}
    assert 140 < found.count("ECONNREFUSED") < 260  # six standard deviations
    gone(node, fault)


def test_the_lease_ends_with_no_process_of_ours(
    node: Any, host: Any, net: Any, calls: Any, wait_for: Callable[..., None]
) -> None:
    to = calls(4, "out")
    in_force(node, "network.reject", peers=net.peer[4])
    host.close()
    assert to.outcome(net.peer[4]) == "ECONNREFUSED"
    wait_for(lambda: to.outcome(net.peer[4]) == "ok", 5)


# ── network.limit ─────────────────────────────────────────────────────────────────────────


@FAMILIES
@pytest.mark.parametrize(
    ("way", "action", "seen"),
    [
        ("out", "reject", "ECONNREFUSED"),
        ("out", "drop", "timeout"),
        ("in", "reject", "ECONNREFUSED"),
    ],
)
def test_so_many_connections_in_a_period_and_no_more(
    node: Any,
    firewall: str,
    net: Any,
    calls: Any,
    wait_for: Callable[..., None],
    family: int,
    way: str,
    action: str,
    seen: str,
) -> None:
    peer = net.peer[family]
    to = calls(family, way)
    old = to.open(peer)
    fault = in_force(
        node, "network.limit", peers=peer, count=4, period="4s", action=action, direction=way
    )
    assert node.engine.host.backend == firewall
    began = time.monotonic()
    found = [to.outcome(peer, patience=0.1) for _ in range(12)]
    refilled = int(time.monotonic() - began) + 1
    assert found[:4] == ["ok"] * 4
    assert 4 <= found.count("ok") <= 4 + refilled
    assert set(found) == {"ok", seen}
    assert to.outcome(net.bystander[family]) == "ok"
    assert old.send(b"still there") == 11

    def open_again() -> bool:
        node.grant("r-1")
        return bool(to.outcome(peer, patience=0.1) == "ok")

    wait_for(open_again, 2.5)  # one a second comes back
    node.look()
    assert node.status(fault).state == "in_force", node.status(fault).detail
    gone(node, fault)
    assert [to.outcome(peer) for _ in range(12)] == ["ok"] * 12


# ── whom not, and who ─────────────────────────────────────────────────────────────────────


@FAMILIES
@pytest.mark.parametrize("way", ["in", "out"])
def test_what_is_excluded_is_not_hit(
    node: Any, net: Any, calls: Any, family: int, way: str
) -> None:
    to = calls(family, way)
    third = net.others[family][0]
    whole = "10.9.0.0/24" if family == 4 else "fd09::/64"
    fault = in_force(
        node, "network.reject", peers=whole, exclude=f"{net.bystander[family]},{third}",
        direction=way,
    )  # fmt: skip
    assert to.outcome(net.peer[family]) == "ECONNREFUSED"
    assert to.outcome(net.bystander[family]) == "ok"
    assert to.outcome(third) == "ok"
    gone(node, fault)


@contextmanager
def as_user(uid: int) -> Iterator[None]:
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


@FAMILIES
def test_only_what_one_user_sends_is_hit(
    node: Any, net: Any, firewall: str, calls: Any, family: int
) -> None:
    to = calls(family, "out")
    fault = in_force(node, "network.reject", peers=net.peer[family], uid=12345)
    assert node.engine.host.backend == firewall
    assert to.outcome(net.peer[family]) == "ok"
    with as_user(12345):
        assert to.outcome(net.peer[family]) == "ECONNREFUSED"
        assert to.outcome(net.bystander[family]) == "ok"
    gone(node, fault)


@pytest.fixture
def group() -> Iterator[Path]:
    """A cgroup v2 of somebody's."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    root = next(line.split()[1] for line in mounts if line.split()[2] == "cgroup2")
    path = Path(root, "mine-netfilter")
    path.mkdir()
    try:
        yield path
    finally:
        with suppress(FileNotFoundError):
            path.rmdir()


@contextmanager
def inside(group: Path) -> Iterator[None]:
    """This process, in that group meanwhile."""
    home = next(
        line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines()
        if line.startswith("0::")
    )  # fmt: skip
    (group / "cgroup.procs").write_text("0")
    try:
        yield
    finally:
        (group.parent / home.lstrip("/") / "cgroup.procs").write_text("0")


@pytest.mark.usefixtures("kernel")
@FAMILIES
def test_only_what_one_cgroup_sends_is_hit(
    node: Any, net: Any, calls: Any, group: Path, family: int
) -> None:
    to = calls(family, "out")
    peer = net.peer[family]
    fault = in_force(node, "network.reject", peers=peer, cgroup=f"/{group.name}")
    assert to.outcome(peer) == "ok"
    with inside(group):
        assert to.outcome(peer) == "ECONNREFUSED"
        assert to.outcome(net.bystander[family]) == "ok"
    gone(node, fault)


def test_a_cgroup_that_is_made_anew_is_another_one(node: Any, net: Any, group: Path) -> None:
    fault = in_force(node, "network.reject", peers=net.peer[4], cgroup=f"/{group.name}")
    was = unified_id(f"/{group.name}")
    group.rmdir()
    group.mkdir()
    assert unified_id(f"/{group.name}") != was
    node.look()
    status = node.status(fault)
    assert (status.state, status.reason, status.clean) == ("ended", "disturbed", True)
    assert "made anew" in status.detail


def test_a_cgroup_that_is_not_there_is_refused(node: Any, net: Any) -> None:
    fault = node.apply("network.reject", peers=net.peer[4], cgroup="/nowhere")
    assert node.status(fault).state == "refused"
    assert "there is no cgroup /nowhere" in node.status(fault).detail


@pytest.mark.usefixtures("kernel")
@FAMILIES
def test_every_match_is_read_back_and_means_what_it_says(
    host: Any, sh: Callable[..., str], group: Path, family: int
) -> None:
    cgroup = f"/{group.name}"
    chain = Chain(
        *("CHAOS-0000000a-out", 6 if family == 6 else 4, "filter", "OUTPUT"),
        (
            Rule("RETURN", protocol="tcp", syn=True, per_day=43_200, burst=7),
            Rule("DROP", uid=0, cgroup=cgroup, cgroup_id=unified_id(cgroup)),
            Rule("DROP", protocol="udp", destination_ports=("53",), text="0000000102646200"),
            Rule("REJECT", protocol="tcp", reject_with="tcp-reset"),
        ),
    )
    ops(chain).apply(host, chain, 0)
    assert ops(chain).verify(host, chain) is None
    save = "ip6tables-legacy-save" if family == 6 else "iptables-legacy-save"
    found = [line for line in sh(save).splitlines() if line.startswith("-A CHAOS")]
    assert found == [
        f"-A {chain.name} {words}"
        for words in (
            "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m limit --limit 30/min"
            " --limit-burst 7 -j RETURN",
            f'-m owner --uid-owner 0 -m cgroup --path "{cgroup}" -j DROP',
            '-p udp -m multiport --dports 53 -m string --hex-string "|0000000102646200|"'
            " --algo kmp --icase -j DROP",
            "-p tcp -j REJECT --reject-with tcp-reset",
        )
    ]
    ops(chain).revert(host, chain)
    assert ops(chain).absent(host, chain) is None


def test_what_nftables_cannot_match_is_refused(
    node: Any, net: Any, sh: Callable[..., str], group: Path
) -> None:
    sh("nft", "add", "table", "inet", "mine")
    before = sh("nft", "list", "ruleset")
    fault = node.apply("network.reject", peers=net.peer[4], cgroup=f"/{group.name}")
    status = node.status(fault)
    assert (status.state, status.code, status.clean) == ("refused", "unsupported", True), status
    assert "cgroup cannot be matched by nftables here" in status.detail
    assert sh("nft", "list", "ruleset") == before


# ── network.blackhole ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("place", ["here", pytest.param("guest", marks=pytest.mark.guest)])
@FAMILIES
@pytest.mark.parametrize("way", ["in", "out"])
def test_a_blackhole_swallows_a_port_everywhere(
    node: Any, net: Any, calls: Any, listing: Any, place: str, family: int, way: str
) -> None:
    """In the direction that this kernel can do; both, where it can."""
    to = calls(family, way)
    before = listing()
    ports = {"ports" if way == "out" else "local_ports": str(PORT)}
    direction = "in" if place == "here" else "both"
    fault = in_force(node, "network.blackhole", direction=direction, **ports)
    assert listing() == before
    node.grant("r-1")
    for peer in (net.peer[family], net.bystander[family]):
        assert to.outcome(peer, patience=0.3) == "timeout"
        assert to.outcome(peer, OTHER) == "ok"
    if way == "in":  # the node itself still gets through, by whatever address
        for own in (net.near[family], "127.0.0.1" if family == 4 else "::1"):
            socket.create_connection((own, PORT), 1).close()
    gone(node, fault)
    assert listing() == before
    assert to.outcome(net.peer[family]) == "ok"


# ── network.flap ──────────────────────────────────────────────────────────────────────────


class Stream:
    """A datagram every 10 ms from each of two of the peer's addresses to here."""

    def __init__(self, net: Any, family: int) -> None:
        self._ear = socket.socket(AF[family], SOCK_DGRAM)
        self._ear.bind((net.near[family], 0))
        self._ear.settimeout(0.05)
        self._to = self._ear.getsockname()[:2]
        self._mouths = {}
        for address in (net.peer[family], net.bystander[family]):
            mouth = net.socket_there(family, SOCK_DGRAM)
            mouth.bind((address, 0))
            self._mouths[address] = mouth
        self.heard: dict[str, list[float]] = {address: [] for address in self._mouths}
        self._over = threading.Event()
        self._threads = [threading.Thread(target=each) for each in (self._talk, self._listen)]

    def __enter__(self) -> Stream:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        for one in (self._ear, *self._mouths.values()):
            one.close()

    def _talk(self) -> None:
        while not self._over.wait(0.01):
            for mouth in self._mouths.values():
                mouth.sendto(b"x", self._to)

    def _listen(self) -> None:
        while not self._over.is_set():
            with suppress(TimeoutError):
                _, (address, *_rest) = self._ear.recvfrom(16)
                self.heard[address].append(time.monotonic())

    def silences(self, address: str, beside: str) -> list[tuple[float, float]]:
        """Spans of more than 0.4 s without a word from one while the other was heard well."""
        return [
            (start, end)
            for start, end in pairwise(self.heard[address])
            if end - start > 0.4 and sum(start < moment < end for moment in self.heard[beside]) > 10
        ]


def keep(node: Any, seconds: float) -> None:
    """What the keeper's loop does: grants come, and the supervisor wakes when it asked to."""
    end = granted = time.monotonic()
    end += seconds
    while (now := time.monotonic()) < end:
        if now >= granted:
            node.grant("r-1")
            granted += 1
        due = ((node.supervisor.next_wakeup() or now_us()) - now_us()) / 1e6
        time.sleep(max(0, min(due, end - now, granted - now)))
        node.supervisor.tick(now_us())


@FAMILIES
def test_a_flap_goes_on_and_off_as_asked(node: Any, net: Any, firewall: str, family: int) -> None:
    peer, bystander = net.peer[family], net.bystander[family]
    with Stream(net, family) as stream:
        keep(node, 0.3)
        began = time.monotonic()
        fault = in_force(node, "network.flap", peers=peer, direction="in", down="1s", up="1500ms")
        assert node.engine.host.backend == firewall
        keep(node, 5.5)
        assert node.status(fault).state == "in_force", node.status(fault).detail
        gone(node, fault)
        keep(node, 0.5)
    spans = [
        (round(a - began, 2), round(b - began, 2)) for a, b in stream.silences(peer, bystander)
    ]
    assert len(spans) == 3, spans  # the third was cut by the end of the fault
    for number, (start, end) in enumerate(spans):
        assert 2.5 * number - 0.2 < start < 2.5 * number + 0.6, spans
        if number < 2:
            assert 0.6 < end - start < 1.6, spans
    assert stream.silences(bystander, peer) == []


def test_a_flap_whose_keeper_is_dead_ends_within_its_span(
    node: Any, host: Any, net: Any, firewall: str
) -> None:
    with Stream(net, 4) as stream:
        keep(node, 0.2)
        in_force(node, "network.flap", peers=net.peer[4], direction="in", share="50%", period="2s")
        assert host.backend == firewall
        host.close()
        time.sleep(4)
    (silence,) = stream.silences(net.peer[4], net.bystander[4])
    assert 0.6 < silence[1] - silence[0] < 2


@pytest.mark.parametrize(("at", "harm"), [(0.7, "flush"), (1.7, "add"), (0.7, "destroy the jump")])
def test_a_flap_that_somebody_disturbs_is_ended(
    node: Any, net: Any, sh: Callable[..., str], at: float, harm: str
) -> None:
    fault = in_force(node, "network.flap", peers=net.peer[4], direction="in", down="1s", up="1s")
    keep(node, at)
    name = f"chs-{fault}-4"
    match harm:
        case "flush":
            sh("ipset", "flush", name)
        case "add":
            sh("ipset", "add", name, net.peer[4])
        case _:
            sh("iptables-legacy", "-t", "mangle", "-F", "INPUT")
    node.look()
    status = node.status(fault)
    assert (status.state, status.reason, status.clean) == ("ended", "disturbed", True), status


# ── network.down ──────────────────────────────────────────────────────────────────────────


@pytest.mark.guest
def test_an_interface_that_is_down_keeps_all_that_is_configured(
    node: Any, net: Any, listing: Any
) -> None:
    before = listing()
    fault = in_force(node, "network.down", interface="v0")
    assert listing() == before  # the link's state, addresses and routes among it
    node.grant("r-1")
    assert set(net.echo(others=1).values()) == {None}
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), 1).close()
    gone(node, fault)
    assert listing() == before
    assert all(net.echo(others=1).values())


def test_the_interface_of_an_ssh_connection_is_not_taken_down(node: Any, net: Any) -> None:
    with socket.create_server((net.near[4], 22)), net.socket_there(4, SOCK_STREAM) as client:
        client.connect((net.near[4], 22))
        fault = node.apply("network.down", interface="v0")
    status = node.status(fault)
    assert (status.state, status.code) == ("refused", "refused")
    assert f"v0 carries an SSH connection from {net.peer[4]}" in status.detail


# ── network.dns ───────────────────────────────────────────────────────────────────────────


class Resolver:
    """At port 53 of the peer, by UDP and TCP: it says what it is asked."""

    def __init__(self, net: Any, family: int) -> None:
        self.family = family
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._sockets = []
        for address in (net.peer[family], net.bystander[family]):
            for kind, serve in ((SOCK_DGRAM, self._datagrams), (SOCK_STREAM, self._streams)):
                one = net.socket_there(family, kind)
                one.settimeout(0.05)
                one.bind((address, 53))
                self._sockets.append(one)
                self._threads.append(threading.Thread(target=serve, args=(one,)))

    def __enter__(self) -> Resolver:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        for one in self._sockets:
            one.close()

    def _datagrams(self, one: socket.socket) -> None:
        while not self._over.is_set():
            with suppress(TimeoutError):
                data, sender = one.recvfrom(512)
                one.sendto(data, sender)

    def _streams(self, one: socket.socket) -> None:
        one.listen()
        while not self._over.is_set():
            with suppress(TimeoutError):
                stream, _ = one.accept()
                with stream:
                    stream.settimeout(0.6)
                    with suppress(OSError):
                        stream.sendall(stream.recv(512))

    def answers(self, address: str, name: str, *, edns: bool = False, tcp: bool = False) -> bool:
        """Whether an answer comes to a query for an address, RFC 1035 section 4."""
        labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
        query = struct.pack("!6H", 0x1234, 0x0100, 1, 0, 0, edns) + labels + b"\0\0\1\0\1"
        query += b"\0\0\x29\x04\xd0\0\0\0\0\0\0" * edns
        query = struct.pack("!H", len(query)) * tcp + query
        with socket.socket(AF[self.family], SOCK_STREAM if tcp else SOCK_DGRAM) as one:
            one.settimeout(0.4)
            one.connect((address, 53))
            assert one.send(query) == len(query)  # the sender notices nothing
            try:
                return one.recv(512) == query
            except TimeoutError:
                return False


@pytest.mark.guest
@FAMILIES
@pytest.mark.parametrize("subdomains", [False, True])
def test_lookups_of_a_name_time_out_and_those_of_others_do_not(
    node: Any, net: Any, listing: Any, family: int, subdomains: bool
) -> None:
    peer, bystander = net.peer[family], net.bystander[family]
    ways = [{}, {"edns": True}, {"tcp": True}]
    with Resolver(net, family) as resolver:
        before = listing()
        fault = in_force(
            node, "network.dns", names="DB.example.com,b", peers=peer, subdomains=subdomains
        )
        assert listing() == before
        for way in ways:
            node.grant("r-1")
            assert not resolver.answers(peer, "db.Example.COM", **way), way
            assert resolver.answers(bystander, "db.example.com", **way), way
        for name in ("a.db.example.com", "x.y.b"):
            node.grant("r-1")
            assert resolver.answers(peer, name) == (not subdomains), name
        for name in ("adb.example.com", "db.example.com.au", "example.com", "b.c", "xb"):
            assert resolver.answers(peer, name), name
        gone(node, fault)
        assert listing() == before
        assert all(resolver.answers(peer, "db.example.com", **way) for way in ways)
