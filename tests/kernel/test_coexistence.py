"""Every network fault beside whatever the user may have: both work, and nothing of theirs changes.

A row of ``THINGS`` is one thing that a user has, as the commands that make it, with
what shows that it works and the faults that are refused beside it. Beside each row all
faults are applied, four at a time, each to a peer of its own, by both families: the listing
of all that is the user's is the same before, during and after, each peer is hit as asked
and the bystander is not, and the user's own counters go on counting. A fault that could
not bite, or would rob the user's filters of packets, must say so and leave nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Collection
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import dns.message
import dns.rcode
import pytest

from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.host import Host
from chaos_core.faults import kinds
from chaos_core.faults._network import NetworkFault
from chaos_core.messages import Revert

NAME = "db.example.com"
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
AF = {4: socket.AF_INET, 6: socket.AF_INET6}
SHAPING = ("latency", "loss out", "corrupt", "duplicate", "reorder", "rate")
EGRESS = (*SHAPING, "partition drop", "down", "dns")

# Faults by name, and the kernels on which they are tried. What drops at ingress is the same
# chain in both, and this machine's own is quicker, as it is with workers; only the guest's can
# do egress. Those that are tried at once must fit into the envelope together.
FAULTS: dict[str, tuple[str, dict[str, str], tuple[str, ...]]] = {
    "latency": ("network.latency", {"delay": "40ms"}, ("guest",)),
    "loss out": ("network.loss", {"percent": "100%", "direction": "out"}, ("guest",)),
    "loss in": ("network.loss", {"percent": "100%", "direction": "in"}, ("here",)),
    "partition drop": ("network.partition", {"direction": "both"}, ("guest",)),
    "partition in": ("network.partition", {"direction": "in"}, ("here",)),
    "partition reject": (
        "network.partition", {"direction": "both", "action": "reject"}, ("here", "guest")
    ),
    "flap": ("network.flap", {"direction": "in", "down": "60s", "up": "1s"}, ("here",)),
    "down": ("network.down", {"interface": "v0"}, ("guest",)),
    "dns": ("network.dns", {"names": NAME}, ("guest",)),
    "corrupt": ("network.corrupt", {"percent": "100%"}, ("guest",)),
    "reorder": ("network.reorder", {"percent": "0.0001%", "delay": "40ms"}, ("guest",)),
    "rate": ("network.rate", {"rate": "1mbit"}, ("guest",)),
    "latency in": ("network.latency", {"delay": "40ms", "direction": "in"}, ("guest",)),
    "duplicate": ("network.duplicate", {"percent": "100%"}, ("guest",)),
    "reject": ("network.reject", {"ports": "7081"}, ("here",)),
    "limit": ("network.limit", {"ports": "7082", "count": "1", "period": "300s"}, ("here",)),
    "blackhole": ("network.blackhole", {"ports": "7083", "direction": "in"}, ("here",)),
    "tamper": ("tamper.payload", {"find": "balance", "replace": "bananas"}, ("here",)),
    "http": ("http.fault", {"port": "7084", "status": "503"}, ("here",)),
    "dns answered": ("network.dns", {"names": NAME, "answer": "nxdomain"}, ("here",)),
}  # fmt: skip
LATE = ("latency", "latency in", "reorder")
NO_ECHO_TELLS = ("corrupt", "duplicate", "rate", "tamper", "http", "dns answered")
AT_ONCE = 4  # a lease is short, and the guest's machine may be busy
# These share a peer: each hits one port of it, or one name.
BY_PORT = {
    "reject": (7081, ["ECONNREFUSED"] * 2),
    "limit": (7082, ["ok", "ECONNREFUSED"]),
    "blackhole": (7083, ["timeout"] * 2),
}
QUERY = bytes(11) + b"\1\2db\7example\3com\0\0\1\0\1"


@dataclass(frozen=True)
class Thing:
    """``make`` are commands; ``count`` is one whose output has a counter that traffic moves, and

    the expression that finds it. ``refused`` are faults that are
    refused, with what is said. ``where`` are the kernels that have what it takes.
    """

    make: tuple[str, ...]
    count: tuple[str, str] | None = None
    refused: dict[str, str] = field(default_factory=dict)
    where: tuple[str, ...] = ("guest",)


BOTH = ("here", "guest")
TOS = "protocol all pref {} u32 match u32 0 0 at 0"
IFB = ("ip link add mine0 type ifb", "ip link set mine0 up")
CLSACT = "tc qdisc add dev v0 clsact"
SENT = r"Sent \d+ bytes (\d+) pkt"
COUNT_FILTER = (
    "tc -s filter show dev v0 egress",
    rf"(?:gact action|device mine0)[\s\S]*?{SENT}",
)
COUNT_MANGLE = ("iptables-legacy -t mangle -vxnL", r"^ +(\d+) +\d+ (?:MARK|CONNMARK|ACCEPT)")
COUNT_ROOT = ("tc -s qdisc show dev v0", r"root.*\n Sent \d+ bytes (\d+)")
COUNT_CLASS = ("tc -s class show dev v0", r"htb 1:10 [\s\S]*?Sent \d+ bytes (\d+)")
COUNT_AWAY = ("ip -s link show away", r"TX:.*\n +\d+ +(\d+)")
BEFORE = "is asked before ours"
ROBBED = "would not see the packets"
MARKED = "writes or keeps the mark's bits"
INGRESS = "is at the ingress of v0"


def htb(*more: str) -> tuple[str, ...]:
    return (
        "tc qdisc add dev v0 root handle 1: htb default 20",
        "tc class add dev v0 parent 1: classid 1:10 htb rate 1gbit",
        "tc class add dev v0 parent 1: classid 1:20 htb rate 1gbit",
        *more,
    )


def mangle(*rules: str, six: bool = True) -> tuple[str, ...]:
    tools = ("iptables-legacy", "ip6tables-legacy") if six else ("iptables-legacy",)
    return tuple(f"{tool} -w -t mangle {rule}" for rule in rules for tool in tools)


THINGS: dict[str, Thing] = {
    # ── root qdiscs ──
    "htb": Thing(htb("tc filter add dev v0 parent 1: protocol all pref 5 u32 match u32 0 0"
                     " flowid 1:10"), count=COUNT_CLASS, where=BOTH),
    "htb by mark": Thing(
        (*htb("tc filter add dev v0 parent 1: pref 5 handle 5 fw classid 1:10"),
         *mangle("-A OUTPUT -d 10.9.0.0/24 -j MARK --set-mark 5", six=False)), count=COUNT_CLASS),
    "tbf": Thing(("tc qdisc add dev v0 root tbf rate 1gbit burst 1mb latency 20ms",),
                 count=COUNT_ROOT, where=BOTH),
    "fq_codel": Thing(("tc qdisc add dev v0 root fq_codel",), count=COUNT_ROOT),
    "prio with u32 and flower": Thing(
        ("tc qdisc add dev v0 root handle 1: prio",
         "tc filter add dev v0 parent 1: protocol ip pref 5 u32 match ip tos 4 0xff flowid 1:1",
         "tc filter add dev v0 parent 1: protocol ip pref 6 flower dst_ip 10.9.0.3 classid 1:2"),
        count=COUNT_ROOT),
    # ── clsact ──
    "an empty clsact": Thing((CLSACT,)),
    "a filter behind ours that lets through": Thing(
        (CLSACT, f"tc filter add dev v0 egress {TOS.format(7)} action ok"), count=COUNT_FILTER),
    "a filter behind ours that redirects": Thing(
        (CLSACT, *IFB,
         f"tc filter add dev v0 egress {TOS.format(7)} action mirred egress redirect dev mine0"),
        count=COUNT_FILTER, refused=dict.fromkeys(SHAPING, ROBBED)),
    "a filter behind ours that drops": Thing(
        (CLSACT, "tc filter add dev v0 egress protocol ip pref 7 u32 match ip tos 4 0xff"
         " action drop"), refused=dict.fromkeys(SHAPING, ROBBED)),
    "flower behind ours": Thing(
        (CLSACT, "tc filter add dev v0 egress protocol ip pref 7 flower dst_ip 10.9.0.3 action ok"),
        refused=dict.fromkeys(SHAPING, ROBBED)),
    "a filter before ours that goes on": Thing(
        (CLSACT, f"tc filter add dev v0 egress {TOS.format(1)} action continue"),
        count=COUNT_FILTER),
    "a filter before ours that lets through": Thing(
        (CLSACT, f"tc filter add dev v0 egress {TOS.format(1)} action ok"),
        count=COUNT_FILTER, refused=dict.fromkeys(EGRESS, BEFORE)),
    "a filter before ours that pipes": Thing(
        (CLSACT, f"tc filter add dev v0 egress {TOS.format(1)} action pipe"),
        count=COUNT_FILTER, refused=dict.fromkeys(EGRESS, BEFORE)),
    "matchall before ours": Thing(
        (CLSACT, "tc filter add dev v0 egress pref 1 matchall action ok"),
        count=COUNT_FILTER, refused=dict.fromkeys(EGRESS, BEFORE)),
    "a filter at ingress": Thing(
        (CLSACT, f"tc filter add dev v0 ingress {TOS.format(1)} action ok"),
        count=("tc -s filter show dev v0 ingress", SENT), refused={"latency in": INGRESS}),
    "a filter at ingress that redirects": Thing(
        (*IFB, "tc qdisc add dev mine0 root handle 1: htb default 1",
         "tc class add dev mine0 parent 1: classid 1:1 htb rate 1gbit", CLSACT,
         f"tc filter add dev v0 ingress {TOS.format(1)} action mirred egress redirect dev mine0"),
        count=("tc -s qdisc show dev mine0", r"root.*\n Sent \d+ bytes (\d+)"),
        refused={"latency in": INGRESS}),
    # ── links ──
    "links and sets named like ours": Thing(
        ("ip link add chs-lan type ifb", "ip link add chs0 type dummy",
         "ipset create chs-lan hash:net", "ipset add chs-lan 192.0.2.0/24",
         "iptables-legacy -w -N CHAOS-MINE", "iptables-legacy -w -A INPUT -j CHAOS-MINE"),
        where=("guest",)),
    # ── xtables ──
    "early accepts": Thing(
        (*mangle(*(f"-A {hook} -j ACCEPT" for hook in ("INPUT", "OUTPUT", "POSTROUTING"))),
         "iptables-legacy -w -A INPUT -j ACCEPT", "ip6tables-legacy -w -A INPUT -j ACCEPT"),
        count=COUNT_MANGLE, where=BOTH),
    "their marks": Thing(
        mangle("-A OUTPUT -j MARK --set-mark 5", "-A POSTROUTING -j MARK --set-xmark 6/0xff"),
        count=COUNT_MANGLE, where=BOTH),
    "a mark over ours": Thing(
        mangle("-N LATE", "-A LATE -j MARK --set-mark 5", "-A POSTROUTING -j LATE"),
        count=COUNT_MANGLE, refused=dict.fromkeys(EGRESS, MARKED)),
    "connection marks": Thing(
        mangle("-A PREROUTING -j CONNMARK --restore-mark",
               "-A POSTROUTING -j CONNMARK --save-mark --mask 0xff"),
        count=COUNT_MANGLE, where=BOTH),
    "connection marks that keep ours": Thing(
        mangle("-A POSTROUTING -j CONNMARK --save-mark"),
        count=COUNT_MANGLE, refused=dict.fromkeys(EGRESS, MARKED)),
    "routing by mark": Thing(
        ("ip link add away type bridge", "ip link set away up", "ip rule add fwmark 5 table 100",
         "ip neigh add 10.9.0.77 lladdr 02:00:00:00:00:09 dev away",
         "ip route add 10.9.0.0/24 dev away table 100",
         *mangle("-A OUTPUT -p udp -j MARK --set-mark 5", six=False)),
        count=COUNT_AWAY, where=BOTH),
    "sets and an ifb": Thing(
        ("ip link add mine0 type ifb", "ipset create mine hash:ip", "ipset add mine 192.0.2.7",
         "ipset create fleeting hash:ip timeout 300", "ipset add fleeting 192.0.2.8",
         *mangle("-A INPUT -m set ! --match-set mine src -j ACCEPT", six=False)),
        count=COUNT_MANGLE, where=BOTH),
    # ── nftables: the guest's kernel has none of these families ──
    "nftables": Thing(
        ("nft add table inet t",
         *(f"nft add chain inet t {hook}{when} {{ type filter hook {hook} priority {number}; }}"
           for hook in ("input", "output", "postrouting")
           for when, number in (("early", -300), ("late", 300))),
         *(f"nft add rule inet t {hook}{when} counter meta mark set 5 accept"
           for hook in ("input", "output", "postrouting") for when in ("early", "late"))),
        count=("nft list chain inet t outputearly", r"packets (\d+)"), where=("here",)),
}  # fmt: skip


def counted(thing: Thing, sh: Callable[..., str]) -> int:
    if thing.count is None:
        return 0
    command, counter = thing.count
    if thing.count == COUNT_AWAY:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", ("10.9.0.77", 9))
    found = re.findall(counter, sh(*command.split()), re.MULTILINE)
    assert found, f"{command} has no counter"
    return sum(map(int, found))


# One of each sort is tried in `make test`; `make test-long` has all of them.
SAMPLE = (
    *("htb by mark", "prio with u32 and flower", "an empty clsact", "early accepts"),
    *("a filter behind ours that redirects", "a filter before ours that goes on"),
    *("a filter at ingress", "links and sets named like ours", "a mark over ours"),
    *("connection marks that keep ours", "routing by mark"),
)


def _marks(name: str, place: str) -> list[pytest.MarkDecorator]:
    if place != "guest":
        return []
    return [pytest.mark.guest, *([] if name in SAMPLE else [pytest.mark.long])]


CASES = [
    pytest.param(name, place, id=f"{name}-{place}", marks=_marks(name, place))
    for name, thing in THINGS.items() for place in thing.where
]  # fmt: skip


@pytest.mark.parametrize(("name", "place"), CASES)
def test_what_the_user_has_and_the_faults_both_work(
    node: Any,
    net: Any,
    sh: Callable[..., str],
    listing: Callable[[], list[str]],
    name: str,
    place: str,
) -> None:
    thing = THINGS[name]
    for command in thing.make:
        sh(*command.split())
    tried = [fault for fault, (_, _, places) in FAULTS.items() if place in places]
    for start in range(0, len(tried), AT_ONCE):
        works_beside(node, net, thing, tried[start : start + AT_ONCE], sh, listing)
    assert node.supervisor.quarantine == []
    assert all(net.echo(others=4).values())


def works_beside(
    node: Any,
    net: Any,
    thing: Thing,
    faults: list[str],
    sh: Callable[..., str],
    listing: Callable[[], list[str]],
) -> None:
    """These faults at once, from their beginning to their end."""
    alone = [fault for fault in faults if fault not in (*BY_PORT, "dns")]
    *each, shared = zip(*(net.peers(family) for family in (4, 6)), strict=True)
    peers = dict.fromkeys(faults, shared) | dict(zip(alone, each, strict=False))
    before = listing()
    was = counted(thing, sh)
    in_force = {}
    for fault in faults:
        kind, params, _ = FAULTS[fault]
        made = node.apply(kind, peers=",".join(peers[fault]), **params)
        status = node.status(made)
        if fault in thing.refused:
            assert (status.state, status.code) == ("refused", "refused"), status.detail
            assert thing.refused[fault] in status.detail
            assert status.clean, status.detail
        else:
            settle(node, made)
            in_force[fault] = made
        node.grant("r-1")
    bites(
        net,
        {address: fault for fault in in_force if fault in alone for address in peers[fault]},
    )
    for fault, is_hit in OTHERWISE.items():
        for family, address in zip((4, 6), peers.get(fault, ()), strict=False):
            for far, wanted in ((address, fault in in_force), (net.bystander[family], False)):
                node.grant("r-1")
                assert is_hit(net, family, far) == wanted, (fault, far)
    if shared in peers.values():
        for family, address in zip((4, 6), shared, strict=True):
            node.grant("r-1")
            bites_by_port(net, family, address, in_force)
    node.grant("r-1")
    assert listing() == before
    node.grant("r-1")
    assert counted(thing, sh) > was or not thing.count, "theirs does not count"
    node.grant("r-1")
    node.look()
    for fault, made in in_force.items():
        assert node.status(made).state == "in_force", f"{fault}: {node.status(made).detail}"
        node.supervisor.obey(Revert(fault=made), now_us())
        assert (node.status(made).clean, node.status(made).detail) == (True, ""), fault
    assert node.engine.residue() == []
    assert listing() == before


def settle(node: Any, made: str) -> None:
    """Wait until it is in force; the lease of all goes on meanwhile."""
    deadline = time.monotonic() + 20
    while node.status(made).state == "applying" and time.monotonic() < deadline:
        node.supervisor.tick(now_us())
        node.grant("r-1")
        time.sleep(0.05)
    assert node.status(made).state == "in_force", node.status(made).detail


def bites(net: Any, hit: dict[str, str]) -> None:
    """Each address is late or cut off as its fault says, and the rest is neither."""
    times = {address: late for (_, address), late in net.echo(others=4).items()}
    for address, late in times.items():
        fault = hit.get(address)
        if fault in (None, *LATE):
            assert late is not None, (address, fault, times)
            assert (late >= 40) == (fault in LATE), (address, fault, times)
            assert late < 80, (address, fault, times)
        elif fault not in NO_ECHO_TELLS:
            assert late is None, (address, fault, times)


def bites_by_port(net: Any, family: int, address: str, faults: Collection[str]) -> None:
    """Two calls of each port go as its fault says, and a query for the name arrives or not."""
    for fault, (port, expected) in BY_PORT.items():
        with net.socket_there(family, socket.SOCK_STREAM) as server:
            server.bind((address, port))
            server.listen()
            found = [called(family, address, port) for _ in expected]
        assert found == (expected if fault in faults else ["ok"] * 2), fault
    with net.socket_there(family, socket.SOCK_STREAM) as resolver:
        resolver.bind((address, 53))
        resolver.listen()
        with socket.create_connection((address, 53), 1) as asker, resolver.accept()[0] as asked:
            asker.send(QUERY)
            asked.settimeout(0.2 if "dns" in faults else 1)
            with pytest.raises(TimeoutError) if "dns" in faults else nullcontext():
                assert asked.recv(512) == QUERY


def received(address: str, count: int, size: int) -> int:
    """How many of so many pings at once come back, copies left out."""
    words = ["ping", "-n", "-q", "-c", str(count), "-l", str(count), "-s", str(size), "-W", "0.3"]
    done = subprocess.run([*words, address], capture_output=True, text=True, check=False)
    return int(re.findall(r"(\d+) received", done.stdout)[0])


def corrupted(net: Any, family: int, address: str) -> bool:  # noqa: ARG001
    return received(address, 20, 56) < 20  # but for flips that no checksum covers, none


def slowed(net: Any, family: int, address: str) -> bool:  # noqa: ARG001
    """What neither bucket nor queue holds is dropped, of echoes that are asked for at once.

    The ping of Debian 11 sends but a few before the others' turn comes.
    """
    protocol, asked, told = (socket.IPPROTO_ICMP, 8, 0)
    if family == 6:
        protocol, asked, told = (socket.IPPROTO_ICMPV6, 128, 129)
    mine, count, answers = os.getpid() & 0xFFFF, 100, 0
    with socket.socket(AF[family], socket.SOCK_RAW, protocol) as echo:
        echo.connect((address, 0))
        echo.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 20)
        echo.settimeout(0.4)
        for number in range(count):
            head = struct.pack("!HHHH", asked << 8, 0, mine, number)
            total = sum(struct.unpack("!4H", head))  # what follows are zeros
            total = (total & 0xFFFF) + (total >> 16)
            echo.send(struct.pack("!HHHH", asked << 8, ~total & 0xFFFF, mine, number) + bytes(972))
        with contextlib.suppress(TimeoutError):
            while answers < count:
                message = echo.recv(2048)[20 if family == 4 else 0 :]
                answers += (message[0], message[4:6]) == (told, struct.pack("!H", mine))
    return answers < 0.8 * count


def doubled(net: Any, family: int, address: str) -> bool:  # noqa: ARG001
    return len(net.ping(address, count=2)) > 2  # it ends with the second's first answer


def rewritten(net: Any, family: int, address: str) -> bool:
    """By TCP: the user may send datagrams elsewhere."""
    with net.socket_there(family, socket.SOCK_STREAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address, 7085))
        server.listen()
        with socket.create_connection((address, 7085), 1) as near, server.accept()[0] as far:
            near.send(b"balance")
            far.settimeout(1)
            return bool(far.recv(16) == b"bananas")


def refused_by_proxy(net: Any, family: int, address: str) -> bool:
    """What a request from there to a service here, which says 200, is answered with."""
    with socket.socket(AF[family], socket.SOCK_STREAM) as service:
        service.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        service.bind((net.near[family], 7084))
        service.listen()
        with net.socket_there(family, socket.SOCK_STREAM) as asker:
            asker.settimeout(1)
            asker.bind((address, 0))
            asker.connect((net.near[family], 7084))
            asker.send(b"GET / HTTP/1.0\r\n\r\n")
            if select.select([service], [], [], 0.3)[0]:
                with service.accept()[0] as asked:
                    asked.recv(1024)
                    asked.send(b"HTTP/1.0 200 OK\r\n\r\n")
            return b" 503 " in asker.recv(1024)


def answered(net: Any, family: int, address: str) -> bool:  # noqa: ARG001
    """Whether somebody answers for a resolver that is not there: by TCP and IPv4, UDP and IPv6."""
    query = dns.message.make_query(NAME, "A").to_wire()
    with socket.socket(
        AF[family], socket.SOCK_STREAM if family == 4 else socket.SOCK_DGRAM
    ) as asker:
        asker.settimeout(0.5)
        try:
            asker.connect((address, 53))
            asker.send(len(query).to_bytes(2, "big") + query if family == 4 else query)
            found = asker.recv(512)[2 if family == 4 else 0 :]
        except OSError:
            return False
        return bool(dns.message.from_wire(found).rcode() == dns.rcode.NXDOMAIN)


# Whether a peer is hit by faults that an echo does not tell of.
OTHERWISE: dict[str, Callable[[Any, int, str], bool]] = {
    "corrupt": corrupted,
    "rate": slowed,
    "duplicate": doubled,
    "tamper": rewritten,
    "http": refused_by_proxy,
    "dns answered": answered,
}


def test_every_network_fault_is_among_them() -> None:
    known = {kind for kind, cls in kinds().items() if issubclass(cls, NetworkFault)}
    assert known == {kind for kind, _, _ in FAULTS.values()}


def called(family: int, address: str, port: int) -> str:
    try:
        with socket.socket(AF[family], socket.SOCK_STREAM) as caller:
            caller.settimeout(0.2)
            caller.connect((address, port))
    except TimeoutError:
        return "timeout"
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"


@pytest.mark.guest
def test_a_delayed_packet_is_classed_by_the_users_mark_as_ever(
    node: Any, net: Any, sh: Callable[..., str]
) -> None:
    """Our bits would make it another mark, for which the user has no class."""
    thing = THINGS["htb by mark"]
    for command in thing.make:
        sh(*command.split())
    node.apply("network.latency", peers="10.9.0.2", delay="40ms")
    sh("iptables-legacy", "-t", "mangle", "-F", "OUTPUT")
    sh(*mangle("-A OUTPUT -d 10.9.0.2 -j MARK --set-mark 5", six=False)[0].split())
    was = counted(thing, sh)
    bites(net, {"10.9.0.2": "latency"})
    assert counted(thing, sh) - was == 1


@pytest.mark.guest
@pytest.mark.parametrize("stacked", ["vlan", "bridge"])
def test_a_device_on_top_of_another(
    node: Any,
    net: Any,
    sh: Callable[..., str],
    listing: Callable[[], list[str]],
    wait_for: Callable[..., None],
    stacked: str,
) -> None:
    peer, bystander = "10.9.5.2", "10.9.0.3"
    if stacked == "vlan":
        there = ["link add link v1 name v1.5 type vlan id 5", f"addr add {peer}/24 dev v1.5",
                 "link set v1.5 up"]  # fmt: skip
        here = ["link add link v0 name top type vlan id 5"]
    else:
        bystander = "10.9.5.3"
        there = [f"addr add {address}/24 dev v1" for address in (peer, bystander)]
        here = ["link add top type bridge", "link set v0 master top"]
    for command in there:
        net.there("ip", *command.split())
    for command in (*here, "addr add 10.9.5.1/24 dev top", "link set top up"):
        sh("ip", *command.split())
    wait_for(lambda: len(net.ping(peer)) == 2)  # a new bridge's ports take a moment
    before = listing()
    fault = node.apply("network.latency", peers=peer, delay="40ms")
    assert listing() == before
    assert min(net.ping(peer)) >= 40
    assert max(net.ping(bystander)) < 35
    node.look()
    assert node.status(fault).state == "in_force", node.status(fault).detail
    node.supervisor.obey(Revert(), now_us())
    assert node.status(fault).clean
    assert listing() == before


@pytest.mark.usefixtures("kernel")
def test_the_users_cgroups_keep_their_limits_and_processes(
    node: Any, host: Host, wait_for: Callable[..., None]
) -> None:
    two = host.cgroups.version == 2
    groups = sorted({host.cgroups.cpu / "mine", host.cgroups.memory / "mine"})
    limits = (
        {"cpu.max": "20000 100000", "memory.max": "67108864"} if two
        else {"cpu.cfs_quota_us": "20000", "memory.limit_in_bytes": "67108864"}
    )  # fmt: skip
    node.apply("cpu.stress", percent="1%")  # on v2 this hands out the controllers
    node.supervisor.obey(Revert(), now_us())

    def state() -> list[str]:
        files = (group / name for group in groups for name in (*limits, "cgroup.procs"))
        return [file.read_text() for file in files if file.exists()]

    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            for group in groups:
                group.mkdir()
                (group / "cgroup.procs").write_text(str(process.pid))
                for name, value in limits.items():
                    if (group / name).exists():
                        (group / name).write_text(value)
            before = state()
            assert len(before) == (3 if two else 4)
            for kind in ("cpu.stress", "memory.stress"):
                fault = node.apply(kind, percent="5%")
                node.await_in_force(fault)
                assert state() == before
                node.supervisor.obey(Revert(), now_us())
                assert node.status(fault).clean
            assert state() == before
        finally:
            process.kill()
            process.wait()
            wait_for(lambda: not any((group / "cgroup.procs").read_text() for group in groups))
            for group in groups:
                group.rmdir()
