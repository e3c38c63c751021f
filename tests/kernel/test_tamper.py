"""tamper.payload: bytes are rewritten on the way, and nothing else is."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from chaos_agent.effects import ops, sweep
from chaos_agent.linux import children
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.host import Host
from chaos_core.effects import Worker
from chaos_core.messages import Revert

SECOND = 1_000_000
AF = {4: socket.AF_INET, 6: socket.AF_INET6}
PORT, OTHER_PORT = 7090, 7091
SAID, HEARD = b"your balance is 5, balance Balance", b"your bananas is 5, bananas Balance"
SO_SNDBUFFORCE = 32
MOST = 4096  # packets that wait in a queue
WORDS = {"find": "balance", "replace": "bananas"}


class Datagrams:
    """Sockets on both sides for one family: ``here``, and at the peer ``there`` and others."""

    def __init__(self, net: Any, family: int, stack: ExitStack) -> None:
        def at(make: Callable[[], socket.socket], address: str, port: int) -> socket.socket:
            one = stack.enter_context(make())
            one.bind((address, port))
            one.settimeout(1)
            return one

        def there(address: str, port: int) -> socket.socket:
            return at(lambda: net.socket_there(family, socket.SOCK_DGRAM), address, port)

        self.here = at(lambda: socket.socket(AF[family], socket.SOCK_DGRAM), net.near[family], PORT)
        self.there = there(net.peer[family], PORT)
        self.other_port = there(net.peer[family], OTHER_PORT)
        self.bystander = there(net.bystander[family], PORT)

    def outward(self, to: socket.socket | None = None, text: bytes = SAID) -> bytes:
        return carried(self.here, to or self.there, text)

    def inward(self, source: socket.socket | None = None) -> bytes:
        return carried(source or self.there, self.here, SAID)


def carried(source: socket.socket, to: socket.socket, text: bytes) -> bytes:
    """What arrives of a datagram, nothing if it does not."""
    source.sendto(text, to.getsockname()[:2])
    try:
        return to.recv(2**16)
    except TimeoutError:
        return b""


@pytest.fixture
def wires(net: Any) -> Any:
    with ExitStack() as stack:
        yield {family: Datagrams(net, family, stack) for family in (4, 6)}


def tamper(node: Any, net: Any, **params: Any) -> str:
    peers = [net.peer[4], net.peer[6]]
    fault: str = node.apply("tamper.payload", **{"peers": peers, **WORDS, **params})
    node.await_in_force(fault)
    node.grant("r-1")
    return fault


def end(node: Any, fault: str) -> None:
    node.look()
    status = node.status(fault)
    assert status.state == "in_force", status.detail
    node.supervisor.obey(Revert(fault=fault), now_us())
    assert (node.status(fault).clean, node.status(fault).detail) == (True, "")
    assert node.engine.residue() == []


def worker_pid() -> int:
    (pid,) = [pid for pid, name in children.find().items() if name.endswith("-w")]
    return pid


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("direction", ["out", "in"])
def test_the_bytes_are_rewritten_one_way_for_the_peer_alone_and_the_node_is_as_before(
    node: Any, net: Any, wires: Any, listing: Callable[[], list[str]], direction: str
) -> None:
    before = listing()
    fault = tamper(node, net, direction=direction)
    for wire in wires.values():
        node.grant("r-1")
        assert wire.outward() == (HEARD if direction == "out" else SAID)
        assert wire.inward() == (HEARD if direction == "in" else SAID)
        assert wire.outward(wire.bystander) == wire.inward(wire.bystander) == SAID
        assert wire.outward(text=b"nothing of the kind") == b"nothing of the kind"
    assert listing() == before
    end(node, fault)
    for wire in wires.values():
        assert wire.outward() == wire.inward() == SAID
    assert listing() == before


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("family", [4, 6])
def test_a_stream_gets_through_with_only_those_bytes_changed(
    node: Any, net: Any, family: int
) -> None:
    """4 MiB, which leave as segments of 64 KiB without checksums. What is wrong is not acked."""
    fault = tamper(node, net, protocol="tcp", ports=PORT)
    sent = (b"a line with its balance, and much more of the text to go with it\n" * 65536)[: 2**22]
    with net.socket_there(family, socket.SOCK_STREAM) as server:
        server.bind((net.peer[family], PORT))
        server.listen()
        with socket.create_connection((net.peer[family], PORT), 10) as client:
            taker, _ = server.accept()
            sender = threading.Thread(target=client.sendall, args=(sent,))
            sender.start()
            got = bytearray()
            taker.settimeout(10)
            while len(got) < len(sent) and (data := taker.recv(2**20)):
                got += data
                node.grant("r-1")
            sender.join()
            taker.close()
    assert len(got) == len(sent)
    assert got.replace(b"bananas", b"balance") == sent
    cut = len(sent) // 536  # the most segments that there can be, each with one of them in two
    assert got.count(b"bananas") >= sent.count(b"balance") - cut > 0
    end(node, fault)


def test_a_share_of_packets_is_rewritten(node: Any, net: Any, wires: Any) -> None:
    """300 at 30 %: outside of 50–130 less than once in a million runs (binomial)."""
    fault = tamper(node, net, share="30%")
    heard = [wires[4].outward() for _ in range(300)]
    assert 50 <= heard.count(HEARD) <= 130
    assert set(heard) == {SAID, HEARD}
    end(node, fault)


def test_a_datagram_may_shrink_and_grow_but_not_out_of_its_link(
    node: Any, net: Any, wires: Any
) -> None:
    fault = tamper(node, net, protocol="udp", find="hex:" + b"balance".hex(), replace="money owed")
    for wire in wires.values():
        assert wire.outward(text=b"the balance") == b"the money owed"
        assert wire.outward(text=b"balance" * 180) == b"balance" * 180  # 1,800 are too many
    end(node, fault)
    fault = tamper(node, net, protocol="udp", replace="")
    for wire in wires.values():
        assert wire.outward(text=b"the balance.") == b"the ."
        large = os.urandom(30_000).replace(b"balance", b"") + b"balance"
        assert wire.outward(text=large) == large[:-7]  # in many fragments
    end(node, fault)


def test_other_ports_and_what_is_excluded_go_on(node: Any, net: Any, wires: Any) -> None:
    fault = tamper(
        node, net, peers=["10.9.0.0/24", "fd09::/64"], ports=PORT, protocol="udp",
        exclude=[net.bystander[4], net.bystander[6]],
    )  # fmt: skip
    for wire in wires.values():
        assert wire.outward() == HEARD
        assert wire.outward(wire.other_port) == SAID
        assert wire.outward(wire.bystander) == SAID
    end(node, fault)


def test_two_at_once_end_each_for_itself(node: Any, net: Any, wires: Any) -> None:
    one = tamper(node, net, peers=net.peer[4])
    two = tamper(node, net, peers=net.bystander[4], replace="bandage")
    wire = wires[4]
    assert wire.outward() == HEARD
    assert wire.outward(wire.bystander) == HEARD.replace(b"bananas", b"bandage")
    node.supervisor.obey(Revert(fault=one), now_us())
    assert node.status(one).clean
    assert wire.outward() == SAID
    assert wire.outward(wire.bystander) == HEARD.replace(b"bananas", b"bandage")
    end(node, two)
    assert wire.outward(wire.bystander) == SAID


# ── the lease ─────────────────────────────────────────────────────────────────────────────


def test_a_worker_that_is_stopped_holds_packets_up_no_longer_than_the_lease(
    node: Any, net: Any, wires: Any, wait_for: Callable[..., None]
) -> None:
    """And nobody of ours does anything from then on."""
    tamper(node, net)
    os.kill(worker_pid(), signal.SIGSTOP)
    assert wires[4].outward() == wires[6].outward() == b""
    since = now_us()
    wait_for(lambda: wires[4].outward() == wires[6].outward() == SAID, 6)
    wait_for(lambda: not children.find(), 2)
    assert now_us() - since < 4 * SECOND


def test_the_set_alone_ends_it_though_the_worker_would_be_stopped_for_long(
    node: Any, net: Any, host: Host, wires: Any, wait_for: Callable[..., None]
) -> None:
    fault = tamper(node, net)
    (worker,) = [one for one in node.engine.standing[fault].effects if isinstance(one, Worker)]
    ops(worker).renew(host, worker, now_us() + 20 * SECOND)
    pid = worker_pid()
    os.kill(pid, signal.SIGSTOP)
    assert wires[4].outward() == wires[6].outward() == b""
    wait_for(lambda: wires[4].outward() == wires[6].outward() == SAID, 5)
    assert worker_pid() == pid


def test_a_queue_that_is_full_lets_pass(node: Any, net: Any, wires: Any) -> None:
    tamper(node, net, direction="out")
    os.kill(worker_pid(), signal.SIGSTOP)
    wire = wires[4]
    wire.here.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 16 * 2**20)
    for _ in range(MOST + 40):
        wire.here.sendto(SAID, wire.there.getsockname())
    for _ in range(40):
        assert wire.there.recv(100) == SAID
    wire.there.settimeout(0.1)
    with pytest.raises(TimeoutError):
        wire.there.recv(100)


@pytest.mark.usefixtures("kernel")
def test_a_worker_that_dies_ends_the_fault_and_hurts_nobody_meanwhile(
    node: Any, net: Any, wires: Any, wait_for: Callable[..., None]
) -> None:
    fault = tamper(node, net)
    os.kill(worker_pid(), signal.SIGKILL)
    wait_for(lambda: not children.find(), 2)
    wait_for(lambda: wires[4].outward() == wires[6].outward() == SAID, 2)
    wait_for(lambda: not node.look() and node.status(fault).state == "ended")
    assert (node.status(fault).reason, node.status(fault).clean) == ("disturbed", True)


def test_what_is_left_is_swept(node: Any, net: Any, host: Host, wires: Any) -> None:
    tamper(node, net)
    found = " ".join(map(str, sweep.find(host)))
    assert "in security (IPv4)" in found
    assert "in security (IPv6)" in found
    assert sweep.remove(host) == []
    assert sweep.find(host) == []
    assert wires[4].outward() == wires[6].outward() == SAID


# ── what is refused ───────────────────────────────────────────────────────────────────────


def test_beside_a_rule_that_would_not_see_the_packets_it_is_refused_or_ends(
    node: Any, net: Any, sh: Callable[..., str], wait_for: Callable[..., None]
) -> None:
    """A packet that comes back from a queue does not meet the rest of its table."""
    theirs = ("-w", "-t", "security", "-A", "OUTPUT", "-p", "udp", "-j", "ACCEPT")
    sh("iptables-legacy", *theirs)
    fault = node.apply("tamper.payload", peers=net.peer[4], **WORDS)
    wait_for(lambda: not node.look() and node.status(fault).state != "applying")
    status = node.status(fault)
    assert "would not see the packets" in status.detail
    assert status.clean
    sh("iptables-legacy", "-w", "-t", "security", "-F", "OUTPUT")
    fault = tamper(node, net)
    sh("iptables-legacy", *theirs)
    node.look()
    status = node.status(fault)
    assert (status.state, status.reason, status.clean) == ("ended", "disturbed", True)
    assert "ACCEPT" in sh("iptables-legacy", "-t", "security", "-S", "OUTPUT")


def test_nftables_has_no_such_queue_here(node: Any, net: Any) -> None:
    node.engine.host.__dict__["backend"] = "nft"
    status = node.status(node.apply("tamper.payload", peers=net.peer[4], **WORDS))
    assert (status.state, status.code) == ("refused", "unsupported")
    assert "uses nftables alone" in status.detail


def test_a_queue_of_somebody_elses_stays_theirs(node: Any, net: Any, wires: Any) -> None:
    """The next fault's is taken: it never gets to the rule that would feed it."""
    from chaos_agent.linux.nfqueue import Queue

    theirs = Queue(27_001)
    try:
        fault = node.apply("tamper.payload", peers=net.peer[4], **WORDS)
        with suppress(AssertionError):
            node.await_in_force(fault)
        assert (node.status(fault).reason, node.status(fault).clean) == ("not_in_force", True)
        assert wires[4].outward() == SAID
    finally:
        theirs.close()
