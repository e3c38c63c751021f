"""Somebody changes something while a fault is in force: whatever harms the fault ends it.

``HARM`` is what takes a fault's effect away, wholly or in part: the fault ends as
``disturbed`` with the reason named, what is left of it goes, and what the other did
stays. ``HARMLESS`` is what others do at the same time: the fault goes on, still
bites, and the change is told and quarantines nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from chaos_agent.effects import sweep
from chaos_agent.linux import children
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.host import Host
from chaos_core.messages import Revert

SECOND = 1_000_000
LATENCY = ("network.latency", {"delay": "40ms"})
LOSS = ("network.loss", {"percent": "100%"})
CUT = ("network.partition", {"direction": "out"})
DEAF = ("network.partition", {"direction": "in"})
REJECT = ("network.partition", {"direction": "both", "action": "reject"})
HERE = (DEAF, REJECT)  # this machine's own kernel can do these; the guest's does the rest
Kind = tuple[str, dict[str, str]]


@dataclass(frozen=True)
class Change:
    """``does`` are commands, ``{fault}`` being its id; a line ``< text`` is fed to the last one.

    ``says`` is what the status must name. ``given`` is what the user had before.
    """

    kind: Kind
    does: tuple[str, ...]
    says: str = ""
    given: tuple[str, ...] = ()


MANGLE = "iptables-legacy -w -t mangle"
FILTER = "iptables-legacy -w"
TO_PEER = "-d 10.9.0.2"
NETEM = "tc qdisc change dev chs-{fault}-0 root netem"
OK_AT_EGRESS = "tc filter add dev v0 egress protocol all pref {} u32 match u32 0 0 action {}"

HARM: dict[str, Change] = {
    # ── xtables ──
    "mangle flushed": Change(DEAF, (f"{MANGLE} -F",), "has 0 rules"),
    "mangle flushed and emptied": Change(LATENCY, (f"{MANGLE} -F", f"{MANGLE} -X"), "is missing"),
    "filter flushed": Change(REJECT, (f"{FILTER} -F",), "has 0 rules"),
    "our chain flushed": Change(LATENCY, (MANGLE + " -F CHAOS-{fault}-out",), "has 0 rules"),
    "our jump deleted": Change(DEAF, (MANGLE + " -D INPUT -j CHAOS-{fault}-in",), "0 jumps"),
    "a rule put into our chain": Change(
        REJECT, (FILTER + " -I CHAOS-{fault}-in -j RETURN",), "rules, not"),
    "an accept above our jump": Change(DEAF, (f"{MANGLE} -I INPUT -s 10.9.0.2 -j ACCEPT",),
                                       "a foreign rule stands above"),
    "a chain with an accept above our jump": Change(
        LATENCY, (f"{MANGLE} -N TOP", f"{MANGLE} -A TOP -j ACCEPT",
                  f"{MANGLE} -I POSTROUTING -j TOP"), "a foreign rule stands above"),
    "the table restored without ours": Change(
        REJECT, ("iptables-legacy-restore", "< *filter\n-A INPUT -s 192.0.2.1 -j DROP\nCOMMIT\n"),
        "is missing"),
    "the mark overwritten": Change(
        CUT, (f"{MANGLE} -A POSTROUTING -j MARK --set-mark 5",), "writes or keeps the mark's bits"),
    # ── sets ──
    "the set flushed": Change(LATENCY, ("ipset flush chs-{fault}-4",), "lapsed"),
    "the set destroyed, as far as goes": Change(
        DEAF, ("? ipset destroy chs-{fault}-4", "ipset flush chs-{fault}-4"), "lapsed"),
    "an entry removed": Change(REJECT, ("ipset del chs-{fault}-4 10.9.0.2",), "10.9.0.2/32 lapsed"),
    "an entry added": Change(DEAF, ("ipset add chs-{fault}-4 10.9.0.3",), "was not asked for"),
    "an entry for ever": Change(
        DEAF, ("ipset -exist add chs-{fault}-4 10.9.0.2 timeout 0",), "never times out"),
    # ── our links ──
    "our ifb deleted": Change(LATENCY, ("ip link del chs-{fault}-0",), "is missing"),
    "our ifb down": Change(LOSS, ("ip link set chs-{fault}-0 down",), "is down"),
    "our dummy deleted": Change(CUT, ("ip link del chs-{fault}-0",), "is missing"),
    "our dummy down": Change(CUT, ("ip link set chs-{fault}-0 down",), "is down"),
    "netem changed": Change(LATENCY, (NETEM + " delay 41ms limit 33334",), "has delay"),
    "netem loses less": Change(LOSS, (NETEM + " loss 1% limit 10000",), "has loss"),
    "netem deleted": Change(LATENCY, ("tc qdisc del dev chs-{fault}-0 root",), "has no netem"),
    # ── clsact and filters ──
    "our filter deleted": Change(CUT, ("tc filter del dev v0 egress",), "0 filters"),
    "our filter replaced": Change(
        LATENCY, ("tc filter del dev v0 egress", OK_AT_EGRESS.format(1, "ok")), "0 filters"),
    "clsact deleted": Change(LATENCY, ("tc qdisc del dev v0 clsact",), "0 filters"),
    "clsact replaced": Change(
        LATENCY, ("tc qdisc del dev v0 clsact", "tc qdisc add dev v0 clsact",
                  OK_AT_EGRESS.format(9, "ok")), "0 filters"),
    "a filter before ours": Change(
        LATENCY, ("tc filter del dev v0 egress pref 1", OK_AT_EGRESS.format(1, "ok")),
        "is asked before ours",
        given=("tc qdisc add dev v0 clsact", OK_AT_EGRESS.format(1, "continue"))),
    "a dropping filter behind ours": Change(
        LATENCY, (OK_AT_EGRESS.format(9, "drop"),), "would not see the packets"),
    # ── the device ──
    "the device down": Change(LATENCY, ("ip link set v0 down",), "device v0 is down"),
    "the device renamed": Change(
        LATENCY, ("ip link set v0 down", "ip link set v0 name w0", "ip link set w0 up"),
        "device v0 is gone"),
    "the device renamed, with the old name beside the new": Change(
        CUT, ("ip link set v0 down", "ip link set v0 name w0", "ip link set w0 up",
              "ip link property add dev w0 altname v0"), "device v0 is gone"),
    "the device removed": Change(LATENCY, ("ip link del v0",), "device v0 is gone"),
    "the device removed and made again": Change(
        LATENCY, ("ip link del v0", "ip link add v0 type veth peer name v9",
                  "ip addr add 10.9.0.1/24 dev v0", "ip link set v9 up",
                  "ip link set v0 up"), "0 filters"),
    "a device that was named renamed": Change(
        ("network.partition", {"direction": "in", "interface": "v0"}),
        ("ip link set v0 down", "ip link set v0 name w0", "ip link set w0 up"),
        "device v0 is gone"),
}  # fmt: skip

HARMLESS: dict[str, Change] = {
    "rules elsewhere": Change(
        DEAF, (f"{MANGLE} -A INPUT -s 192.0.2.1 -j DROP", f"{FILTER} -I OUTPUT -j ACCEPT"),
        "+ rules: IPv4 mangle INPUT 1: -s 192.0.2.1/32 -j DROP"),
    "a rule of theirs removed": Change(
        LATENCY, (f"{MANGLE} -D OUTPUT -s 192.0.2.1 -j DROP",),
        "- rules: IPv4 mangle OUTPUT 1: -s 192.0.2.1/32 -j DROP",
        given=(f"{MANGLE} -A OUTPUT -s 192.0.2.1 -j DROP",)),
    "a policy": Change(
        REJECT, (f"{FILTER} -P FORWARD DROP",), "+ rules: IPv4 filter chain FORWARD DROP"),
    "bans above our jump, as fail2ban has them": Change(
        DEAF, (f"{MANGLE} -N f2b", f"{MANGLE} -A f2b -s 192.0.2.1 -j DROP",
               f"{MANGLE} -A f2b -j RETURN", f"{MANGLE} -I INPUT -j f2b"),
        "+ rules: IPv4 mangle chain f2b"),
    "other bits of the mark": Change(
        LATENCY, (f"{MANGLE} -A POSTROUTING -j MARK --set-xmark 5/0xff",),
        "+ rules: IPv4 mangle POSTROUTING"),
    "sets and links": Change(
        DEAF, ("ipset create mine hash:ip", "ip link add mine0 type ifb", "ip link set mine0 up")),
    "nftables": Change(
        DEAF, ("nft add table inet t",
               "nft add chain inet t c { type filter hook input priority 0 ; }",
               "nft add rule inet t c accept")),
    "the root qdisc replaced": Change(
        LATENCY, ("tc qdisc replace dev v0 root tbf rate 1gbit burst 1mb latency 20ms",),
        "+ qdiscs: v0 tbf"),
    "classes": Change(
        LATENCY, ("tc class add dev v0 parent 1: classid 1:20 htb rate 1gbit",),
        given=("tc qdisc add dev v0 root handle 1: htb",)),
    "filters of theirs on our clsact": Change(
        LATENCY, (OK_AT_EGRESS.format(9, "ok"),
                  "tc filter add dev v0 ingress protocol all pref 1 u32 match u32 0 0 action ok"),
        "+ qdiscs: v0 clsact"),
    "any filter behind a blackhole": Change(
        CUT, (OK_AT_EGRESS.format(9, "skbedit priority 5"),), "+ filters: v0 egress u32 pref 9"),
    "an address": Change(LATENCY, ("ip addr add 10.9.7.1/24 dev v0",)),
}  # fmt: skip


def cases(changes: dict[str, Change]) -> list[Any]:
    return [
        pytest.param(
            change, id=name,
            marks=[] if change.kind in HERE or change.kind[1].get("interface")
            else [pytest.mark.guest],
        )
        for name, change in changes.items()
    ]  # fmt: skip


@pytest.fixture
def do(sh: Callable[..., str]) -> Callable[..., None]:
    """Run commands; one that starts with ``?`` may fail."""

    def run(commands: tuple[str, ...], fault: str = "") -> None:
        for number, command in enumerate(commands):
            if command.startswith("< "):
                continue
            following = commands[number + 1] if number + 1 < len(commands) else ""
            stdin = following.removeprefix("< ") if following.startswith("< ") else ""
            words = command.replace("{fault}", fault).split()
            may_fail = words[0] == "?"
            sh(*words[may_fail:], check=not may_fail, stdin=stdin)

    return run


@pytest.mark.parametrize("change", cases(HARM))
def test_what_takes_the_effect_away_ends_the_fault(
    node: Any, listing: Callable[[], list[str]], do: Callable[..., None], change: Change
) -> None:
    do(change.given)
    kind, params = change.kind
    fault = node.apply(kind, peers="10.9.0.2", **params)
    assert node.status(fault).state == "in_force", node.status(fault).detail
    node.grant("r-1")
    do(change.does, fault)
    left = listing()
    node.look()
    status = node.status(fault)
    assert (status.state, status.reason) == ("ended", "disturbed"), status.detail
    assert change.says in status.detail
    assert (status.clean, node.supervisor.quarantine) == (True, []), status.detail
    assert node.engine.residue() == []
    assert listing() == left, "what the other did stays as it is"


@pytest.mark.parametrize("change", cases(HARMLESS))
def test_what_others_do_meanwhile_neither_ends_nor_quarantines(
    node: Any, net: Any, listing: Callable[[], list[str]], do: Callable[..., None], change: Change
) -> None:
    do(change.given)
    kind, params = change.kind
    fault = node.apply(kind, peers="10.9.0.2", **params)
    do(change.does, fault)
    left = listing()
    node.look()
    assert node.status(fault).state == "in_force", node.status(fault).detail
    times = net.echo()
    late = times[4, "10.9.0.2"]
    assert late is None if kind != "network.latency" else late is not None and late >= 40
    assert all(times[family, net.bystander[family]] for family in (4, 6))
    node.supervisor.obey(Revert(fault=fault), now_us())
    status = node.status(fault)
    assert (status.clean, node.supervisor.quarantine) == (True, []), status.detail
    assert change.says in status.detail
    assert listing() == left
    assert node.engine.residue() == []


@pytest.mark.guest
def test_a_clsact_that_may_be_ours_is_told_when_nothing_says_whose_it_is(
    node: Any, do: Callable[..., None]
) -> None:
    fault = node.apply("network.latency", peers="10.9.0.2", delay="40ms")
    node.grant("r-1")
    do(("tc filter del dev v0 egress", "ip link del chs-{fault}-0"), fault)
    node.look()
    node.give_up()
    assert (node.status(fault).reason, node.status(fault).clean) == ("disturbed", False)
    assert node.supervisor.quarantine[0].startswith(f"fault {fault}: + qdiscs: v0 clsact")


@pytest.mark.guest
def test_a_mark_that_is_lost_unseen_shows_in_the_counters(
    node: Any, net: Any, sh: Callable[..., str]
) -> None:
    """A set that maps marks rewrites ours; no look at the rules could tell."""
    sh("ipset", "create", "map", "hash:net", "skbinfo")
    sh("ipset", "add", "map", "10.9.0.2", "skbmark", "0x5")
    fault = node.apply("network.latency", peers="10.9.0.2", delay="40ms")
    for _ in range(12):
        net.echo()
    node.grant("r-1")
    node.look()
    assert node.status(fault).state == "in_force"
    sh(*f"{MANGLE} -A POSTROUTING -j SET --map-set map dst --map-mark".split())
    for _ in range(12):
        net.echo()
    node.grant("r-1")
    node.look()
    status = node.status(fault)
    assert (status.state, status.reason) == ("ended", "disturbed")
    assert "12 packets were marked and none reached the filter" in status.detail


@pytest.mark.guest
def test_a_neighbour_that_is_not_found_is_no_disturbance(node: Any, sh: Callable[..., str]) -> None:
    sh("ip", "neigh", "del", "10.9.0.2", "dev", "v0")
    sh("ip", "link", "set", "v0", "arp", "on")
    fault = node.apply("network.latency", peers="10.9.0.9", delay="40ms")
    sh("ping", "-c", "12", "-i", "0.002", "-W", "0.05", "10.9.0.9", check=False)
    node.look()
    assert node.status(fault).state == "in_force", node.status(fault).detail


@pytest.mark.guest
def test_harm_to_one_fault_leaves_the_other_alone(
    node: Any, net: Any, sh: Callable[..., str]
) -> None:
    first = node.apply("network.latency", peers="10.9.0.2", delay="40ms")
    second = node.apply("network.latency", peers="10.9.0.3", delay="60ms", run="r-2")
    sh("ip", "link", "del", f"chs-{first}-0")
    node.look()
    assert (node.status(first).reason, node.status(first).clean) == ("disturbed", True)
    assert node.status(second).state == "in_force"
    times = net.echo()
    assert times[4, "10.9.0.2"] < 30
    assert 60 <= times[4, "10.9.0.3"] < 95
    node.supervisor.obey(Revert(), now_us())
    assert node.status(second).clean
    assert sh("tc", "qdisc", "show", "dev", "v0").startswith("qdisc noqueue")


def test_it_is_noticed_within_two_seconds(node: Any, sh: Callable[..., str]) -> None:
    """By the clock, with ticks when the supervisor asks for them."""
    fault = node.partition()
    time.sleep(0.3)
    sh("ipset", "flush", f"chs-{fault}-4")
    began = time.monotonic()
    while node.status(fault).state != "ended":
        time.sleep(max(0, (node.supervisor.next_wakeup() or 0) - now_us()) / SECOND)
        node.supervisor.tick(now_us())
    assert node.status(fault).reason == "disturbed"
    assert time.monotonic() - began < 2


# ── holders ───────────────────────────────────────────────────────────────────────────


@pytest.fixture
def stranger(host: Host) -> Iterator[int]:
    """A process of the user's."""
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            yield process.pid
        finally:
            process.kill()
    sweep.remove(host)


Harm = Callable[[Host, str, int, int], None]  # host, cgroup, the holder's pid, a stranger's


def groups(host: Host, name: str) -> list[Path]:
    return sorted({host.cgroups.cpu / name, host.cgroups.memory / name})


def lift(host: Host, name: str, holder: int, stranger: int) -> None:  # noqa: ARG001
    cpu, memory = (
        ("cpu.max", "memory.max") if host.cgroups.version == 2
        else ("cpu.cfs_quota_us", "memory.limit_in_bytes")
    )  # fmt: skip
    for path in groups(host, name):
        for file in (path / cpu, path / memory):
            if file.exists():
                file.write_text("max" if host.cgroups.version == 2 else "-1")


def move_out(host: Host, name: str, holder: int, stranger: int) -> None:  # noqa: ARG001
    (groups(host, name)[0].parent / "cgroup.procs").write_text(str(holder))


def move_in(host: Host, name: str, holder: int, stranger: int) -> None:  # noqa: ARG001
    for path in groups(host, name):
        (path / "cgroup.procs").write_text(str(stranger))


HOLDERS: dict[str, tuple[Harm, str]] = {
    "killed": (lambda _host, _name, holder, _: os.kill(holder, signal.SIGKILL), "has no process"),
    "stopped": (lambda _host, _name, holder, _: os.kill(holder, signal.SIGSTOP), "is stopped"),
    "limits lifted": (lift, "not "),
    "moved out of its group": (move_out, "is not in"),
    "a stranger moved in": (move_in, "that are not ours"),
    "its group destroyed": (lambda host, name, *_: host.cgroups.destroy(name), "is missing"),
}


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("kind", ["cpu.stress", "memory.stress"])
@pytest.mark.parametrize("harm", HOLDERS)
def test_a_holder_that_is_not_as_it_should_be_is_ended(
    node: Any, host: Host, stranger: int, wait_for: Callable[..., None], kind: str, harm: str
) -> None:
    percent = "5%" if kind == "cpu.stress" else str(24 * 2**20 / memory_total() * 100)[:5] + "%"
    fault = node.apply(kind, percent=percent)
    node.await_in_force(fault)
    node.grant("r-1")
    name = f"chs-{fault}"
    holder = host.children.running(name) or 0
    does, says = HOLDERS[harm]
    does(host, name, holder, stranger)
    if harm in ("killed", "its group destroyed"):
        wait_for(lambda: host.children.running(name) is None)
    if harm == "stopped":
        wait_for(lambda: children.stopped(holder))
    node.look()
    status = node.status(fault)
    assert (status.state, status.reason) == ("ended", "disturbed"), status
    assert says in status.detail
    assert (status.clean, node.engine.residue()) == (True, []), status.detail
    assert Path(f"/proc/{stranger}").exists()
    assert not children.stopped(stranger)
    assert "chs-" not in Path(f"/proc/{stranger}/cgroup").read_text()


def memory_total() -> int:
    line = Path("/proc/meminfo").read_text().splitlines()[0]
    return int(line.split()[1]) * 1024
