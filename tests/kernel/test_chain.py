"""Chains of our own beside the user's rules, judged by what the iptables tools print."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chaos_agent.effects import ops
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.host import Host
from chaos_agent.linux.xtrules import build_jump
from chaos_core.effects import Chain, Effect, Family, LeasedSet, Rule
from chaos_core.errors import Busy, Unsupported

SAVE: dict[Family, str] = {4: "iptables-legacy-save", 6: "ip6tables-legacy-save"}
TOOL: dict[Family, str] = {4: "iptables-legacy", 6: "ip6tables-legacy"}
LATER = 60 * 1_000_000
BOTH = pytest.mark.parametrize("family", [4, 6])


def cut_off(family: Family, peer: str, *before: Rule) -> tuple[LeasedSet, Chain]:
    """Ingress partition from one peer, after the rules ``before``."""
    name = f"chs-0000000a-{family}"
    drop = Rule("DROP", match_set=name, set_side="src")
    return (
        LeasedSet(name, family, (peer,)),
        Chain("CHAOS-0000000a-in", family, "mangle", "INPUT", (*before, drop)),
    )


def apply(host: Host, *effects: Effect) -> None:
    for effect in effects:
        ops(effect).apply(host, effect, now_us() + LATER)
        assert ops(effect).verify(host, effect) is None


@BOTH
def test_a_partition_drops_the_peer_and_nobody_else(host: Host, net: Any, family: Family) -> None:
    effects = cut_off(family, net.peer[family])
    assert net.ping_from_peer(family, net.peer[family])
    apply(host, *effects)
    assert not net.ping_from_peer(family, net.peer[family])
    assert net.ping_from_peer(family, net.bystander[family])
    for effect in reversed(effects):
        ops(effect).revert(host, effect)
        assert ops(effect).absent(host, effect) is None
    assert net.ping_from_peer(family, net.peer[family])


def test_a_partition_ends_with_its_lease_and_no_process(
    host: Host, net: Any, wait_for: Callable[..., None]
) -> None:
    leased, chain = cut_off(4, net.peer[4])
    ops(leased).apply(host, leased, now_us() + 1_200_000)
    ops(chain).apply(host, chain, now_us() + 1_200_000)
    host.close()
    assert not net.ping_from_peer(4, net.peer[4])
    wait_for(lambda: net.ping_from_peer(4, net.peer[4]), 1.5)


@BOTH
def test_protected_traffic_returns_before_any_match(host: Host, net: Any, family: Family) -> None:
    apply(host, *cut_off(family, net.peer[family], Rule("RETURN", source=net.peer[family])))
    assert net.ping_from_peer(family, net.peer[family])


@BOTH
def test_every_rule_means_what_it_says(host: Host, sh: Callable[..., str], family: Family) -> None:
    six = family == 6
    name = f"chs-0000000a-{family}"
    net = "fd00::/8" if six else "10.0.0.0/8"
    mark = "-j MARK --set-xmark 0x3000000/0x3000000"
    rules = (
        Rule("RETURN", protocol="udp", source_ports=("67", "68")),
        Rule("RETURN", protocol="tcp", source_ports=("1:3",), destination_ports=("22", "90:99")),
        Rule("RETURN", source=net),
        Rule("RETURN", destination=net),
        Rule(
            "MARK", out_device="v0", match_set=name, set_side="dst", mark=0x3000000, mask=0xF000000
        ),
        Rule("DROP", in_device="v0", match_set=name, set_side="src", probability=250_000),
        *([Rule("RETURN", protocol="icmpv6", icmpv6_type="135")] if six else []),
    )
    reject = Chain("CHAOS-0000000a-no", family, "filter", "OUTPUT", (
        Rule("REJECT", protocol="tcp", reject_with="tcp-reset"), Rule("REJECT"),
    ))  # fmt: skip
    chain = Chain("CHAOS-0000000a-out", family, "mangle", "POSTROUTING", rules)
    apply(host, LeasedSet(name, family, (net,)), chain, reject)
    wanted = [
        "-A POSTROUTING -j CHAOS-0000000a-out",
        "-A CHAOS-0000000a-out -p udp -m multiport --sports 67,68 -j RETURN",
        "-A CHAOS-0000000a-out -p tcp -m multiport --sports 1:3"
        " -m multiport --dports 22,90:99 -j RETURN",
        f"-A CHAOS-0000000a-out -s {net} -j RETURN",
        f"-A CHAOS-0000000a-out -d {net} -j RETURN",
        f"-A CHAOS-0000000a-out -o v0 -m set --match-set {name} dst {mark}",
        f"-A CHAOS-0000000a-out -i v0 -m set --match-set {name} src"
        " -m statistic --mode random --probability 0.25000000000 -j DROP",
        *(
            ["-A CHAOS-0000000a-out -p ipv6-icmp -m icmp6 --icmpv6-type 135 -j RETURN"]
            if six
            else []
        ),
    ]
    port_unreachable = "icmp6-port-unreachable" if six else "icmp-port-unreachable"
    rejects = [
        "-A OUTPUT -j CHAOS-0000000a-no",
        "-A CHAOS-0000000a-no -p tcp -j REJECT --reject-with tcp-reset",
        f"-A CHAOS-0000000a-no -j REJECT --reject-with {port_unreachable}",
    ]
    for table, lines in (("mangle", wanted), ("filter", rejects)):
        found = sh(SAVE[family], "-t", table).splitlines()
        assert [line for line in found if line.startswith("-A")] == lines


def _rules(table: str, family: Family, peers: dict[str, Any]) -> tuple[Rule, ...]:
    """At least one rule with each of the fields that a rule of that table can have."""
    six = family == 6
    net, own = ("fd00::/8", "fd09::1/128") if six else ("10.0.0.0/8", "10.9.0.1/32")
    tcp: dict[str, Any] = {"protocol": "tcp"}
    match table:
        case "nat":
            opened: dict[str, Any] = {"original_ports": ("80",), "original_side": "dst", **tcp}
            return (Rule("REDIRECT", to_port=27001, in_device="lo", **opened),)
        case "filter":
            return (Rule("REJECT", reject_with="tcp-reset", **tcp), Rule("REJECT"))
    return (
        Rule("RETURN", out_device="lo"),
        Rule("RETURN", in_device="a-name-of-15-ch"),
        Rule("RETURN", in_device="v0", out_device="bond0.5"),
        Rule("RETURN", source=net, destination=own),
        Rule("RETURN", protocol="icmpv6", icmpv6_type="135") if six else Rule("RETURN"),
        Rule("RETURN", source_ports=("22", "90:99"), destination_ports=("1:3",), **tcp),
        Rule("SEEN", **peers),
        Rule("EXPOSED", own="src", **peers),
        Rule("MARK", mark=0x1000000, mask=0xF000000, every=3, **peers),
        Rule("DROP", uid=1000),
        Rule("DROP", text="646233", syn=True, **tcp),
        Rule("DROP", per_day=10, burst=5),
        Rule("NFQUEUE", queue=17),
    )


@BOTH
@pytest.mark.parametrize(
    ("table", "hook"),
    [
        pytest.param("mangle", "POSTROUTING", marks=pytest.mark.guest),  # has every match
        pytest.param("filter", "OUTPUT", marks=pytest.mark.guest),
        ("nat", "OUTPUT"),
    ],
)
def test_every_rule_is_to_the_byte_what_the_tool_makes_of_its_text(
    host: Host, sh: Callable[..., str], family: Family, table: Any, hook: Any
) -> None:
    """Also what no text shows, as how much of a device's name is compared.

    But for a share by chance, where the tool fills a word that nothing reads.
    """
    net = "fd00::/8" if family == 6 else "10.0.0.0/8"
    leased = LeasedSet(f"chs-0000000a-{family}", family, (net,))
    name = "CHAOS-0000000a-out"
    rules = _rules(table, family, {"match_set": leased.name, "set_side": "dst"})
    apply(host, leased, Chain(name, family, table, hook, rules))
    again = [
        line.replace(name, "again")
        for line in sh(SAVE[family], "-t", table).splitlines()
        if line.startswith((f":{name}", f"-A {name}"))
    ]
    restore = SAVE[family].replace("-save", "-restore")
    sh(restore, "--noflush", stdin="\n".join([f"*{table}", *again, "COMMIT", ""]))
    chains = host.xtables.chains(family, table)
    assert len(chains["again"]) == len(rules)
    for one, other in zip(chains[name], chains["again"], strict=True):
        assert one.data.hex() == other.data.hex(), one.text


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        ("-D CHAOS-0000000a-in 1", "has 1 rules, not 2"),
        ("-A CHAOS-0000000a-in -j ACCEPT", "has 3 rules, not 2"),
        (
            "-R CHAOS-0000000a-in 1 -s 10.9.0.4 -j RETURN",
            "rule 1 of CHAOS-0000000a-in is -s 10.9.0.4/32",
        ),
        (
            "-R CHAOS-0000000a-in 2 -m set --match-set chs-0000000a-4 dst -j DROP",
            "rule 2 of CHAOS-0000000a-in",
        ),
        ("-D INPUT -j CHAOS-0000000a-in", "0 jumps"),
        ("-I INPUT -j CHAOS-0000000a-in", "2 jumps"),
        ("-I INPUT -s 10.9.0.2 -j ACCEPT", "a foreign rule stands above"),
    ],
)
def test_verify_names_what_differs(
    host: Host, net: Any, sh: Callable[..., str], harm: str, says: str
) -> None:
    effects = cut_off(4, net.peer[4], Rule("RETURN", source="10.9.0.5"))
    apply(host, *effects)
    sh("iptables-legacy", "-t", "mangle", *harm.split())
    assert says in (ops(effects[1]).verify(host, effects[1]) or "")


@BOTH
@pytest.mark.parametrize("stands", ["chain", "chain with rules", "chain with a jump too many"])
def test_a_half_applied_chain_can_be_reverted_and_applied(
    host: Host, net: Any, sh: Callable[..., str], family: Family, stands: str
) -> None:
    leased, chain = cut_off(family, net.peer[family])
    mangle = (TOOL[family], "-t", "mangle")

    def half() -> None:
        sh(*mangle, "-N", chain.name)
        if stands != "chain":
            sh(*mangle, "-A", chain.name, "-j", "RETURN")
        if stands.endswith("many"):
            for _ in range(2):
                sh(*mangle, "-I", "INPUT", "-j", chain.name)

    half()
    assert ops(chain).verify(host, chain) is not None
    ops(chain).revert(host, chain)
    assert ops(chain).absent(host, chain) is None
    half()
    apply(host, leased, chain)


def test_the_users_rules_are_untouched_throughout(host: Host, net: Any, users: Any) -> None:
    before = users.listing()
    effects = [effect for family in (4, 6) for effect in cut_off(family, net.peer[family])]
    apply(host, *effects)
    ours = ("CHAOS-", "chs-")
    during = [line for line in users.listing().splitlines() if not any(o in line for o in ours)]
    assert "\n".join(during) == before
    for effect in reversed(effects):
        ops(effect).revert(host, effect)
    assert users.listing() == before


def test_a_table_that_changes_meanwhile_is_read_again(
    host: Host, net: Any, sh: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Someone who ignores the lock adds a rule between our read and our commit."""
    intrusions = iter([True, True, False])

    def intruded(table: Any, family: Family, chain: str) -> Any:
        if next(intrusions, False):
            monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "lock"))
            sh("iptables-legacy", "-t", "mangle", "-A", "OUTPUT", "-j", "ACCEPT")
        return build_jump(table, family, chain)

    leased, chain = cut_off(4, net.peer[4])
    ops(leased).apply(host, leased, now_us() + LATER)
    monkeypatch.setattr("chaos_agent.linux.xtables.build_jump", intruded)
    ops(chain).apply(host, chain, now_us() + LATER)
    assert next(intrusions, None) is None
    assert ops(chain).verify(host, chain) is None
    assert sh("iptables-legacy-save").count("-A OUTPUT -j ACCEPT") == 2


def test_a_held_lock_is_reported_within_the_revert_budget(host: Host, net: Any) -> None:
    leased, chain = cut_off(4, net.peer[4])
    apply(host, leased)
    started = time.monotonic()
    with Path("/run/xtables.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Busy, match=r"xtables\.lock is held"):
            ops(chain).apply(host, chain, now_us() + LATER)
    assert time.monotonic() - started < 1.3
    apply(host, chain)


def test_a_rule_on_a_set_that_is_missing_is_refused_whole(host: Host) -> None:
    _, chain = cut_off(4, "10.9.0.2", Rule("RETURN"))
    with pytest.raises(Unsupported, match="mangle"):
        ops(chain).apply(host, chain, now_us() + LATER)
    assert ops(chain).absent(host, chain) is None


def test_no_table_is_opened_that_is_not_needed(host: Host, net: Any) -> None:
    """Opening one loads its module: a nat table switches connection tracking on."""
    leased, chain = cut_off(4, net.peer[4])
    ops(chain).revert(host, chain)
    assert ops(chain).absent(host, chain) is None
    assert host.xtables.tables(4) == []
    apply(host, leased, chain)
    assert host.xtables.tables(4) == ["mangle"]


def test_loading_the_library_runs_no_compiler() -> None:
    """As it comes, python-iptables runs ldconfig, gcc and ld to find its libraries."""
    program = (
        "import sys; ran = []; sys.addaudithook(lambda event, args: event == 'subprocess.Popen'"
        " and ran.append(args[0])); from chaos_agent.linux.xtrules import iptc; iptc();"
        " print([name for name in ran if 'modprobe' not in str(name)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_reading_does_not_leak(host: Host, net: Any) -> None:
    leased, chain = cut_off(4, net.peer[4], *[Rule("RETURN", source="10.9.0.9")] * 50)
    apply(host, leased, chain)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    ops(chain).verify(host, chain)
    before = resident()
    for _ in range(200):
        assert ops(chain).verify(host, chain) is None
    assert resident() - before < 2 * 2**20


def test_matches_of_which_the_kernel_has_only_newer_revisions_are_no_news() -> None:
    """A start that warns of what is no problem teaches people to read past warnings."""
    program = (
        "from chaos_agent.linux.xtables import Xtables\n"
        "from chaos_core.effects import Chain, Rule\n"
        "for family in 4, 6:\n"
        "    chain = Chain('CHAOS-0000000a-in', family, 'filter', 'OUTPUT',"
        " (Rule('RETURN', uid=5),))\n"
        "    Xtables().try_rule(chain)\n"
    )
    argv = ["unshare", "--net", sys.executable, "-c", program]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
