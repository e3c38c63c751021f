"""Every network fault beside whatever the user may have: both work, and nothing of theirs changes.

A row of ``THINGS`` is one thing that a user has, as the commands that make it, with
what shows that it works and the faults that are refused beside it. For each row each
fault is applied in turn: the listing of all that is the user's is the same before,
during and after, the peer is hit as asked and the bystander is not, and the user's
own counters go on counting. A fault that could not bite, or would rob the user's
filters of packets, must say so and leave nothing.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from chaos_agent.linux.boottime import now_us
from chaos_core.messages import Revert

PEERS = "10.9.0.2,fd09::2"
EGRESS = ("latency", "loss out", "partition drop")
SHAPING = ("latency", "loss out")

# Faults by name, and the kernels on which they are tried. What drops at ingress is the same
# chain in both, and this machine's own is quicker; only the guest's can do egress.
FAULTS: dict[str, tuple[str, dict[str, str], tuple[str, ...]]] = {
    "latency": ("network.latency", {"delay": "40ms"}, ("guest",)),
    "loss out": ("network.loss", {"percent": "100%", "direction": "out"}, ("guest",)),
    "loss in": ("network.loss", {"percent": "100%", "direction": "in"}, ("here",)),
    "partition drop": ("network.partition", {"direction": "both"}, ("guest",)),
    "partition in": ("network.partition", {"direction": "in"}, ("here",)),
    "partition reject": (
        "network.partition", {"direction": "both", "action": "reject"}, ("here", "guest")
    ),
}  # fmt: skip


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
        count=("tc -s filter show dev v0 ingress", SENT)),
    "a filter at ingress that redirects": Thing(
        (*IFB, "tc qdisc add dev mine0 root handle 1: htb default 1",
         "tc class add dev mine0 parent 1: classid 1:1 htb rate 1gbit", CLSACT,
         f"tc filter add dev v0 ingress {TOS.format(1)} action mirred egress redirect dev mine0"),
        count=("tc -s qdisc show dev mine0", r"root.*\n Sent \d+ bytes (\d+)")),
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


CASES = [
    pytest.param(name, place, id=f"{name}-{place}",
                 marks=[pytest.mark.guest] if place == "guest" else [])
    for name, thing in THINGS.items() for place in thing.where
]  # fmt: skip


@pytest.mark.parametrize(("name", "place"), CASES)
def test_what_the_user_has_and_the_fault_both_work(
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
    before = listing()
    was = counted(thing, sh)
    for fault_name, (kind, params, places) in FAULTS.items():
        if place not in places:
            continue
        fault = node.apply(kind, peers=PEERS, **params)
        status = node.status(fault)
        if fault_name in thing.refused:
            assert (status.state, status.code) == ("refused", "refused"), status.detail
            assert thing.refused[fault_name] in status.detail
            assert status.clean, status.detail
            continue
        assert status.state == "in_force", f"{fault_name}: {status.detail}"
        bites(fault_name, net)
        assert listing() == before, fault_name
        is_now = counted(thing, sh)
        assert is_now > was or not thing.count, f"{fault_name}: theirs does not count"
        was = is_now
        node.look()
        assert node.status(fault).state == "in_force", node.status(fault).detail
        node.supervisor.obey(Revert(fault=fault), now_us())
        assert (node.status(fault).clean, node.status(fault).detail) == (True, ""), fault_name
    assert node.engine.residue() == []
    assert listing() == before
    assert node.supervisor.quarantine == []
    assert all(net.echo().values())


def bites(fault: str, net: Any) -> None:
    """The peer is late or cut off, by both families, and the bystander is neither."""
    times = net.echo()
    for family in (4, 6):
        peer, bystander = times[family, net.peer[family]], times[family, net.bystander[family]]
        assert bystander is not None, (fault, times)
        assert bystander < 35, (fault, times)
        if fault == "latency":
            assert peer is not None, (fault, times)
            assert 40 <= peer < 80, (fault, times)
        else:
            assert peer is None, (fault, times)
