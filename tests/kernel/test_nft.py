"""nftables as the backend, on a host that uses nothing else; judged by what ``nft`` prints."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from chaos_agent.effects import ops, sweep
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.host import Host
from chaos_core.effects import Chain, Effect, Family, LeasedSet, Rule
from chaos_core.errors import NotInForce, Unsupported
from chaos_core.messages import Revert

SECOND = 1_000_000
BOTH = pytest.mark.parametrize("family", [4, 6])
USERS = """
table inet filter {
  set admins { type ipv4_addr; flags interval; elements = { 10.9.0.0/28 } }
  chain input { type filter hook input priority 0; policy accept;
    ct state established counter accept
    ip saddr @admins tcp dport 22 accept
    ip6 saddr fd09::/64 icmpv6 type echo-request limit rate 100/second accept; }
  chain output { type filter hook output priority -10; policy accept; counter accept; }
}
"""


@pytest.fixture(autouse=True)
def users(net: Any, tmp_path: Any, sh: Callable[..., str]) -> None:  # noqa: ARG001
    """What a user of nftables has, with early ACCEPTs at the hooks that ours are at."""
    rules = tmp_path / "users.nft"
    rules.write_text(USERS)
    sh("nft", "-f", str(rules))


def listing(sh: Callable[..., str]) -> str:
    """Everything of nftables, without counters."""
    return sh("nft", "-s", "list", "ruleset")


def cut_off(family: Family, peer: str, *before: Rule) -> tuple[LeasedSet, Chain]:
    """Ingress partition from one peer, after the rules ``before``."""
    name = f"chs-0000000a-{family}"
    drop = Rule("DROP", match_set=name, set_side="src")
    return (
        LeasedSet(name, family, (peer,), "nft"),
        Chain("CHAOS-0000000a-in", family, "mangle", "INPUT", (*before, drop), "nft"),
    )


def apply(host: Host, *effects: Effect, lease: int = 30 * SECOND) -> None:
    for effect in effects:
        ops(effect).apply(host, effect, now_us() + lease)
        assert ops(effect).verify(host, effect) is None


def test_the_backend_is_the_one_in_use(host: Host, sh: Callable[..., str]) -> None:
    assert host.backend == "nft"
    with Host() as both:
        sh("iptables-legacy", "-A", "INPUT", "-s", "192.0.2.1", "-j", "DROP")
        assert both.backend == "xtables"


@BOTH
def test_a_partition_drops_the_peer_and_nobody_else(
    host: Host, net: Any, sh: Callable[..., str], family: Family
) -> None:
    before = listing(sh)
    effects = cut_off(family, net.peer[family])
    apply(host, *effects)
    apply(host, *effects)  # again is the same
    assert not net.ping_from_peer(family, net.peer[family])
    assert net.ping_from_peer(family, net.bystander[family])
    for effect in reversed(effects):
        ops(effect).revert(host, effect)
        ops(effect).revert(host, effect)
        assert ops(effect).absent(host, effect) is None
    assert net.ping_from_peer(family, net.peer[family])
    assert listing(sh) == before


def test_it_ends_with_its_lease_and_no_process(
    host: Host, net: Any, wait_for: Callable[..., None]
) -> None:
    apply(host, *cut_off(4, net.peer[4]), lease=1_200_000)
    host.close()
    assert not net.ping_from_peer(4, net.peer[4])
    wait_for(lambda: net.ping_from_peer(4, net.peer[4]), 1.5)


@BOTH
def test_a_lease_is_moved_while_it_lives_and_never_revived(
    host: Host, net: Any, wait_for: Callable[..., None], family: Family
) -> None:
    leased, _ = cut_off(family, net.peer[family])
    leased = LeasedSet(leased.name, family, (net.peer[family], *net.others[family]), "nft")
    apply(host, leased, lease=3 * SECOND)
    sets = host.sets_of("nft")
    ops(leased).renew(host, leased, now_us() + 20 * SECOND)
    assert all(seconds > 15 for seconds in sets.entries(leased.name).values())
    ops(leased).renew(host, leased, now_us() + 1_100_000)
    wait_for(lambda: not sets.entries(leased.name), 3)
    with pytest.raises(NotInForce, match="lapsed"):
        ops(leased).renew(host, leased, now_us() + 20 * SECOND)
    with pytest.raises(NotInForce, match="lapsed"):  # between the look and the write
        sets.move(leased.name, family, leased.entries, 20)
    assert not sets.entries(leased.name)


@BOTH
def test_every_rule_is_listed_as_it_was_written(host: Host, family: Family) -> None:
    """Else ``verify`` could not tell a changed rule from ours."""
    six = family == 6
    name = f"chs-0000000a-{family}"
    net, one = ("fd00::/8", "fd00::1") if six else ("10.0.0.0/8", "10.0.0.1")
    ports: dict[str, Any] = {"source_ports": ("68", "67"), "destination_ports": ("8000:8010", "80")}
    hits: dict[str, Any] = {"match_set": name, "set_side": "dst", "mark": 1 << 24, "mask": 15 << 24}
    rules = (
        Rule("RETURN", protocol="udp", source_ports=("67", "68")),
        Rule("RETURN", protocol="tcp", source_ports=("1:3",), destination_ports=("22",)),
        Rule("RETURN", protocol="tcp"),
        Rule("RETURN", protocol="icmpv6" if six else "icmp"),
        *(Rule("RETURN", source=place, destination=place) for place in (net, one)),
        Rule("MARK", out_device="v0", protocol="tcp", **hits, **ports),
        Rule("DROP", match_set=name, set_side="src", in_device="v0", probability=250_000),
        *([Rule("RETURN", protocol="icmpv6", icmpv6_type=str(n)) for n in range(133, 138)] * six),
    )
    rejects = (
        Rule("REJECT", match_set=name, set_side="dst"),
        Rule("REJECT", reject_with="icmp6-addr-unreachable" if six else "icmp-host-unreachable"),
        Rule("REJECT", protocol="tcp", match_set=name, set_side="dst", reject_with="tcp-reset"),
        Rule("REJECT", protocol="udp", match_set=name, set_side="dst", **ports),
    )
    redirect = Rule("REDIRECT", protocol="tcp", destination_ports=("80",), to_port=8080)
    apply(
        host,
        LeasedSet(name, family, (net,), "nft"),
        Chain("CHAOS-0000000a-out", family, "mangle", "POSTROUTING", rules, "nft"),
        Chain("CHAOS-0000000a-in", family, "filter", "OUTPUT", rejects, "nft"),
        Chain("CHAOS-0000000a-1", family, "nat", "PREROUTING", (redirect,), "nft"),
    )


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        ("flush chain ip {t} CHAOS-0000000a-in", "has 0 rules, not 2"),
        ("add rule ip {t} CHAOS-0000000a-in accept", "has 3 rules, not 2"),
        ("replace rule ip {t} CHAOS-0000000a-in handle {h} ip saddr 10.9.0.4 return", "rule 1 of"),
        ("delete table ip {t}", "is missing"),
    ],
)
def test_verify_names_what_differs(
    host: Host, net: Any, sh: Callable[..., str], harm: str, says: str
) -> None:
    leased, chain = cut_off(4, net.peer[4], Rule("RETURN", source="10.9.0.5"))
    apply(host, leased, chain)
    table = "chs-0000000a"
    listed = json.loads(sh("nft", "-j", "list", "table", "ip", table))["nftables"]
    handle = next(item["rule"]["handle"] for item in listed if "rule" in item)
    sh("nft", *harm.format(t=table, h=handle).split())
    assert says in (ops(chain).verify(host, chain) or "")
    for effect in (chain, leased):  # whatever is left of it
        ops(effect).revert(host, effect)
        assert ops(effect).absent(host, effect) is None


def test_what_nftables_cannot_match_is_refused_and_nothing_is_left(
    host: Host, sh: Callable[..., str]
) -> None:
    before = listing(sh)
    chain = Chain("CHAOS-0000000a-in", 4, "mangle", "INPUT", (Rule("DROP", protocol="x"),), "nft")
    with pytest.raises(Unsupported):
        ops(chain).apply(host, chain, now_us() + SECOND)
    ops(chain).revert(host, chain)
    leased = LeasedSet("chs-0000000a-4", 4, ("10.9.0.2",), "nft")
    ops(leased).revert(host, leased)
    assert listing(sh) == before


def test_a_chain_without_a_set_takes_its_table_along(host: Host, sh: Callable[..., str]) -> None:
    """A chain that only counts packets has no set; neither have those of `chaos-agent doctor`."""
    before = listing(sh)
    chains = [
        Chain(f"CHAOS-0000000a-{end}", 4, "mangle", "INPUT", (Rule("SEEN", source=net),), "nft")
        for end, net in (("in", "10.9.0.2/32"), ("fwd-in", "10.9.0.3/32"))
    ]
    apply(host, *chains)
    ops(chains[0]).revert(host, chains[0])
    assert ops(chains[1]).verify(host, chains[1]) is None
    for chain in chains:
        ops(chain).revert(host, chain)
        assert ops(chain).absent(host, chain) is None
    assert listing(sh) == before
    host.nft_chains.try_rule(chains[0])
    assert listing(sh) == before


@pytest.mark.parametrize(
    ("rule", "one", "other"),
    [
        pytest.param(
            Rule("DROP", protocol="tcp", syn=True, destination_ports=("80",)),
            '["fin", "syn", "rst", "ack"]',
            '{"|": ["fin", "syn", "rst", "ack"]}',
            id="flags, 1.0 and 1.1",
        ),
        pytest.param(
            Rule("REJECT", protocol="udp"),
            '{"reject": {"type": "icmp", "expr": "port-unreachable"}}',
            '{"reject": null}',
            id="the usual refusal, 1.0 and 0.9",
        ),
    ],
)
def test_a_rule_is_the_same_in_whatever_way_a_version_lists_it(
    host: Host, monkeypatch: pytest.MonkeyPatch, rule: Rule, one: str, other: str
) -> None:
    chain = Chain("CHAOS-0000000a-in", 4, "mangle", "INPUT", (rule,), "nft")
    apply(host, chain)
    run = host.nft.run
    listed = json.dumps(host.nft.table("ip", "chs-0000000a"))
    assert (one in listed) != (other in listed)

    def as_listed(old: str, new: str) -> Callable[..., Any]:
        return lambda *commands: json.loads(json.dumps(run(*commands)).replace(old, new))

    for old, new in ((one, other), (other, one)):
        monkeypatch.setattr(host.nft, "run", as_listed(old, new))
        assert ops(chain).verify(host, chain) is None


def test_the_sweep_needs_no_journal(host: Host, net: Any, sh: Callable[..., str]) -> None:
    before = listing(sh)
    apply(host, *cut_off(4, net.peer[4]), *cut_off(6, net.peer[6]))
    assert {str(found) for found in sweep.find(host)} >= {
        "table ip chs-0000000a of nftables",
        "table ip6 chs-0000000a of nftables",
    }
    assert sweep.remove(host) == []
    assert listing(sh) == before


@pytest.mark.parametrize("when", ["apply", "revert"])
def test_a_firewall_that_builds_its_rules_meanwhile_quarantines_nobody(
    node: Any, sh: Callable[..., str], when: str
) -> None:
    """As firewalld does for a while after its start, and docker at any time."""
    done: list[str] = []

    def build() -> None:
        if not done:
            done.append(sh("nft", "add", "table", "inet", "firewalld"))
            sh("nft", "add", "chain", "inet", "firewalld", "filter_FWD_docker")

    if when == "apply":
        node.engine.step = build
    fault = node.partition()
    assert node.status(fault).state == "in_force", node.status(fault).detail
    node.engine.step = build
    node.supervisor.obey(Revert(fault=fault), now_us())
    assert done
    assert (node.status(fault).clean, node.supervisor.quarantine) == (True, [])
    assert "filter_FWD_docker" in listing(sh)


@pytest.mark.parametrize("action", ["drop", "reject"])
def test_a_fault_from_apply_to_end(
    node: Any, net: Any, sh: Callable[..., str], action: str
) -> None:
    """In force behind the user's early ACCEPT, too, and in both families."""
    before = listing(sh)
    peers = "10.9.0.2,fd09::2"
    fault = node.partition(peers=peers, action=action)
    assert node.status(fault).state == "in_force", node.status(fault).detail
    assert not sh("iptables-legacy-save")  # no legacy table has been opened
    for family in (4, 6):
        node.grant("r-1")
        assert not net.ping_from_peer(family, net.peer[family])
        assert net.ping_from_peer(family, net.bystander[family])
    node.look()
    assert node.status(fault).state == "in_force"
    node.supervisor.obey(Revert(fault=fault), now_us())
    assert (node.status(fault).state, node.status(fault).clean) == ("ended", True)
    assert listing(sh) == before


def test_a_table_that_is_flushed_in_mid_fault_ends_it_and_nobody_is_quarantined(
    node: Any, sh: Callable[..., str]
) -> None:
    """`nft flush ruleset`, as the reload of /etc/nftables.conf does it."""
    fault = node.partition()
    sh("nft", "flush", "ruleset")
    node.look()
    status = node.status(fault)
    assert (status.state, status.reason, status.clean) == ("ended", "disturbed", True)
    assert "changed by others" in status.detail
    assert not listing(sh)
