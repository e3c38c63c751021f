"""network.dns with answers: a worker answers for some names, by UDP and TCP, IPv4 and IPv6."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import dns.edns
import dns.message
import dns.name
import dns.rcode
import dns.rrset
import pytest

from chaos_agent.linux import children
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.host import Host
from chaos_core.messages import Revert

AF = {4: socket.AF_INET, 6: socket.AF_INET6}
STUB = "127.0.0.53"
NAME, OTHER = "db.example.com", "web.example.com"
RIGHT = {"peer": "192.0.2.1", "bystander": "192.0.2.2", "stub": "192.0.2.3"}  # what each tells
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
CLONE_NEWNS = 0x20000
_libc = ctypes.CDLL(None, use_errno=True)


def right(query: bytes, address: str) -> bytes:
    answer = dns.message.make_response(asked := dns.message.from_wire(query))
    answer.answer.append(dns.rrset.from_text(asked.question[0].name, 60, "IN", "A", address))
    return answer.to_wire()


class Resolvers:
    """At port 53 of the peer, the bystander and this node's stub: each tells its own address."""

    def __init__(self, net: Any) -> None:
        self._over = threading.Event()
        self._tells: dict[socket.socket, str] = {}
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            for family in (4, 6):
                for who in ("peer", "bystander"):
                    one = net.socket_there(family, kind)
                    self._bind(one, getattr(net, who)[family], RIGHT[who])
            self._bind(socket.socket(AF[4], kind), STUB, RIGHT["stub"])
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _bind(self, one: socket.socket, address: str, tells: str) -> None:
        one.bind((address, 53))
        if one.type == socket.SOCK_STREAM:
            one.listen()
        self._tells[one] = tells

    def _serve(self) -> None:
        while not self._over.is_set():
            for one in select.select(list(self._tells), [], [], 0.05)[0]:
                tells = self._tells[one]
                if one.type == socket.SOCK_DGRAM:
                    query, asker = one.recvfrom(4096)
                    one.sendto(right(query, tells), asker)
                elif one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    self._tells[one.accept()[0]] = tells
                elif query := one.recv(4096):
                    answer = right(query[2:], tells)
                    one.sendall(struct.pack("!H", len(answer)) + answer)
                else:
                    del self._tells[one]
                    one.close()

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        for one in self._tells:
            one.close()


class Asker:
    """One socket of a program that looks names up, connected to a resolver."""

    def __init__(self, resolver: str, *, tcp: bool = False, patience: float = 3) -> None:
        family = AF[6] if ":" in resolver else AF[4]
        self._tcp = tcp
        self._socket = socket.socket(family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
        self._socket.settimeout(patience)
        self._socket.connect((resolver, 53))

    def __call__(self, name: str, kind: str = "A") -> list[str]:
        """The addresses, or a list of what came in their place."""
        query = dns.message.make_query(name, kind, use_edns=True)
        wire = query.to_wire()
        try:
            self._socket.send(struct.pack("!H", len(wire)) * self._tcp + wire)
            said = self._socket.recv(4096)
        except OSError as error:
            return [type(error).__name__]
        answer = dns.message.from_wire(said[2 * self._tcp :])
        assert answer.id == query.id
        assert answer.question == query.question
        if answer.rcode() != dns.rcode.NOERROR:
            return [dns.rcode.to_text(answer.rcode())]
        return sorted(record.to_text() for found in answer.answer for record in found)

    def close(self) -> None:
        self._socket.close()


def ask(
    resolver: str, name: str, kind: str = "A", *, tcp: bool = False, patience: float = 3
) -> list[str]:
    with closing(Asker(resolver, tcp=tcp, patience=patience)) as asker:
        return asker(name, kind)


@pytest.fixture
def resolvers(net: Any) -> Iterator[Resolvers]:
    found = Resolvers(net)
    yield found
    found.close()


def end(node: Any, fault: str) -> None:
    node.supervisor.obey(Revert(fault=fault), now_us())
    status = node.status(fault)
    assert (status.state, status.clean) == ("ended", True), status.detail


ANSWERS = [
    ({"answer": "nxdomain"}, ["NXDOMAIN"], ["NXDOMAIN"]),
    ({"answer": "servfail"}, ["SERVFAIL"], ["SERVFAIL"]),
    (
        {"answer": "address", "address": "198.51.100.7,198.51.100.8,2001:db8::7"},
        ["198.51.100.7", "198.51.100.8"],
        ["2001:db8::7"],
    ),
    ({"answer": "address", "address": "2001:db8::7"}, [], ["2001:db8::7"]),
]


@pytest.mark.parametrize(("params", "four", "six"), ANSWERS)
def test_lookups_are_answered_as_asked(
    node: Any,
    net: Any,
    resolvers: Resolvers,  # noqa: ARG001
    users: Any,
    params: dict[str, str],
    four: list[str],
    six: list[str],
) -> None:
    """Whichever way; a resolver that is no peer, and other names, answer as before."""
    before = users.listing()
    peers, near = [net.peer[4], net.peer[6]], [net.near[4], net.near[6]]
    fault = node.apply("network.dns", names=NAME, peers=peers, exclude=near, **params)
    node.await_in_force(fault)
    for family in (4, 6):
        for tcp in (False, True):
            node.grant("r-1")
            peer, bystander = net.peer[family], net.bystander[family]
            assert ask(peer, NAME.title(), tcp=tcp) == four
            assert ask(peer, NAME, "AAAA", tcp=tcp) == six
            assert ask(peer, OTHER, tcp=tcp) == [RIGHT["peer"]]
            assert ask(peer, f"a.{NAME}", tcp=tcp) == [RIGHT["peer"]]
            assert ask(bystander, NAME, tcp=tcp) == [RIGHT["bystander"]]
    node.look()
    assert node.status(fault).state == "in_force"
    end(node, fault)
    for tcp in (False, True):
        assert ask(net.peer[4], NAME, tcp=tcp) == [RIGHT["peer"]]
    assert users.listing() == before


@pytest.mark.parametrize("tcp", [False, True])
def test_a_resolver_on_the_node_itself_is_stood_in_for(
    node: Any,
    resolvers: Resolvers,  # noqa: ARG001
    tcp: bool,
) -> None:
    """As systemd-resolved's stub."""
    fault = node.apply("network.dns", names="example.com", answer="nxdomain", subdomains=True)
    node.await_in_force(fault)
    for name in (NAME, "example.com"):
        assert ask(STUB, name, tcp=tcp) == ["NXDOMAIN"]
    assert ask(STUB, "notexample.com", tcp=tcp) == [RIGHT["stub"]]
    end(node, fault)
    assert ask(STUB, NAME, tcp=tcp) == [RIGHT["stub"]]


@pytest.mark.parametrize("family", [4, 6])
def test_each_query_from_a_port_goes_its_own_way_and_all_as_before_in_the_end(
    node: Any,
    net: Any,
    resolvers: Resolvers,  # noqa: ARG001
    family: int,
) -> None:
    """Whatever conntrack holds of that port already: some libraries keep one for all."""
    with closing(Asker(net.peer[family])) as early, closing(Asker(net.peer[family])) as late:
        assert early(NAME) == [RIGHT["peer"]]
        fault = node.apply("network.dns", names=NAME, answer="nxdomain")
        node.await_in_force(fault)
        assert early(OTHER) == [RIGHT["peer"]]
        for asker in (early, late):
            for _ in range(2):
                assert asker(NAME) == ["NXDOMAIN"]
                assert asker(OTHER) == [RIGHT["peer"]]
        end(node, fault)
        assert early(NAME) == late(NAME) == [RIGHT["peer"]]


def test_an_open_connection_is_reset_once_it_asks_for_the_name(
    node: Any,
    net: Any,
    resolvers: Resolvers,  # noqa: ARG001
) -> None:
    with closing(Asker(net.peer[4], tcp=True)) as early:
        assert early(NAME) == [RIGHT["peer"]]
        fault = node.apply("network.dns", names=NAME, answer="servfail")
        node.await_in_force(fault)
        assert early(OTHER) == [RIGHT["peer"]]
        assert early(NAME) == ["ConnectionResetError"]
    end(node, fault)


def test_who_answers_is_killed_and_the_fault_is_over(
    node: Any,
    net: Any,
    resolvers: Resolvers,  # noqa: ARG001
    wait_for: Callable[..., None],
) -> None:
    fault = node.apply("network.dns", names=NAME, answer="nxdomain")
    node.await_in_force(fault)
    (pid,) = [pid for pid, name in children.find().items() if name.endswith("-w")]
    node.grant("r-1")
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not node.look() and node.status(fault).state == "ended")
    assert (node.status(fault).reason, node.status(fault).clean) == ("disturbed", True)
    assert ask(net.peer[4], NAME) == [RIGHT["peer"]]


def test_without_its_keeper_names_are_found_again(
    node: Any,
    net: Any,
    host: Host,
    resolvers: Resolvers,  # noqa: ARG001
    wait_for: Callable[..., None],
) -> None:
    """Who answers is gone with its keeper; what leads there, with the lease."""
    with closing(Asker(net.peer[4])) as asker:
        node.await_in_force(node.apply("network.dns", names=NAME, answer="nxdomain"))
        assert asker(NAME) == ["NXDOMAIN"]
        host.close()
        wait_for(lambda: asker(NAME) == [RIGHT["peer"]], 5)
    wait_for(lambda: ask(net.peer[4], NAME, tcp=True) == [RIGHT["peer"]], 5)


@pytest.mark.guest
def test_a_kernel_without_zones_is_refused_before_anything_is_done(node: Any, listing: Any) -> None:
    """As that of the lab's VMs."""
    before = listing()
    status = node.status(node.apply("network.dns", names=NAME, answer="nxdomain"))
    assert (status.state, status.code) == ("refused", "unsupported"), status.detail
    assert "answer: ct-zone: " in status.detail
    assert listing() == before
