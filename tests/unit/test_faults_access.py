"""Nobody is locked out: SSH in every network fault, and what a host needs to be reached."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos_core import faults
from chaos_core.effects import Backend, Chain, Effect, FixedSet, IngressPipe
from chaos_core.errors import ChaosError, Refused
from chaos_core.essential import ESSENTIAL, SSH_SERVERS, protection
from chaos_core.faults._limits import LimitFault
from chaos_core.faults._network import NetworkFault
from chaos_core.faults._processes import ProcessFault
from chaos_core.faults._units import UnitFault
from chaos_core.node import Device, NodeView, ProcessFacts, Protected, Way

ID = "0123abcd"
KINDS = faults.kinds()
NETWORK = [kind for kind, cls in KINDS.items() if issubclass(cls, NetworkFault)]
UNITS = [kind for kind, cls in KINDS.items() if issubclass(cls, UnitFault)]
NODE = replace(
    NodeView.example(),
    devices=(Device("lo", ("127.0.0.1", "::1"), loopback=True), Device("eth0"), Device("eth1")),
    ways={"0.0.0.0/0": Way(("eth0", "eth1")), "10.1.0.0/16": Way(("eth1",))},
    elsewhere=Way(("eth0",)),
)
# How each could be meant for everybody; what it has no parameter for is left as in its example.
WAYS: tuple[dict[str, str], ...] = (
    {},
    {"direction": "in"},
    {"direction": "out"},
    {"direction": "both"},
)
ACTIONS: tuple[dict[str, str], ...] = (
    {},
    {"action": "reject"},
    {"action": "drop"},
    {"answer": "nxdomain"},
)


def compiled(kind: str, node: NodeView) -> list[tuple[Effect, ...]]:
    """The kind on everybody, in every direction and with every action that it has."""
    found = []
    words = faults.from_words(shlex.split(KINDS[kind].example))
    for way in WAYS:
        for action in ACTIONS:
            given = {**words, "peers": "0.0.0.0/0,::/0", **way, **action}
            if kind == "network.down":
                given["interface"] = "eth1"
            try:
                found.append(faults.parse(kind, given).compile(node, ID))
            except ChaosError:
                continue
    assert found, kind
    return found


@pytest.mark.parametrize(
    ("kind", "backend"),
    [
        *((kind, "xtables") for kind in NETWORK),
        *((kind, "nft") for kind in NETWORK if kind != "tamper.payload"),  # it is refused there
    ],
)
@settings(derandomize=True, deadline=None, database=None, max_examples=10)
@given(ports=st.sets(st.integers(1, 65535), min_size=1, max_size=40))
def test_every_network_fault_lets_every_port_of_ssh_pass(
    kind: str, backend: Backend, ports: set[int]
) -> None:
    ssh = {str(port) for port in ports}
    protected = Protected(ssh_ports=tuple(sorted(ports)))
    for effects in compiled(kind, replace(NODE, protected=protected, backend=backend)):
        sets = {one.name: set(one.entries) for one in effects if isinstance(one, FixedSet)}
        for effect in effects:
            if isinstance(effect, IngressPipe):
                for catch in effect.catches:
                    halves = {entry.partition(",")[0] for entry in sets[catch.safe_ports]}
                    wanted = {f"{half},tcp:{port}" for half in halves for port in ports}
                    assert len(halves) == 2
                    assert wanted <= sets[catch.safe_ports]
            if isinstance(effect, Chain):
                counting = ("SEEN", "EXPOSED")
                hits = [
                    number
                    for number, rule in enumerate(effect.rules)
                    if rule.match_set
                    and rule.target not in counting
                    and (not rule.destination_ports or ssh & set(rule.destination_ports))
                ]
                if not hits:  # it only counts, or is about the port of a worker of ours
                    continue
                spared = [
                    rule
                    for rule in effect.rules[: hits[0]]
                    if (rule.target, rule.protocol) == ("RETURN", "tcp")
                ]
                for side in ("source_ports", "destination_ports"):
                    listed = [port for rule in spared for port in getattr(rule, side)]
                    assert ssh <= set(listed), (kind, side)
                    assert all(len(getattr(rule, side)) <= 15 for rule in spared)


@pytest.mark.parametrize("kind", [*NETWORK, "connections.hold"])
def test_every_fault_that_touches_connections_asks_where_ssh_listens(kind: str) -> None:
    words = faults.from_words(shlex.split(KINDS[kind].example))
    assert faults.parse(kind, words).asks().ssh_ports


@pytest.mark.parametrize("field", ["ports", "local_ports"])
@pytest.mark.parametrize("kind", ["network.blackhole", "network.reject"])
def test_a_fault_of_ssh_alone_would_do_nothing_so_it_is_refused(kind: str, field: str) -> None:
    node = replace(NODE, protected=Protected(ssh_ports=(22, 2222)))
    for ports in ("22", "22,2222"):
        fault = faults.parse(kind, {"peers": "10.0.0.2", field: ports})
        with pytest.raises(Refused, match="is SSH's"):
            fault.compile(node, ID)
    for more in ({field: "22,80"}, {field: "2222-2223"}):
        assert faults.parse(kind, {"peers": "10.0.0.2", **more}).compile(node, ID)


NEEDED = {
    "chaos-agent": "chaos agent",
    "chs-0123abcd-w": "chaos agent",
    "systemd-networkd": "service manager",
    "systemd-logind": "service manager",
    "dbus-broker": "service manager",
    "ssh": "SSH",
    "sshd": "SSH",
    "dropbear": "SSH",
    "serial-getty@ttyS0": "SSH",
    "user@1000": "SSH",
    "NetworkManager": "network",
    "cloud-init-local": "network",
    "wickedd": "network",
    "bird": "routing",
    "frr": "routing",
    "firewalld": "firewall",
    "ufw": "firewall",
    "nftables": "firewall",
    "iptables": "firewall",
    "ip6tables": "firewall",
    "netfilter-persistent": "firewall",
    "shorewall6": "firewall",
    "ferm": "firewall",
    "fail2ban": "firewall",
    "wg-quick@wg0": "VPN",
    "openvpn-client@office": "VPN",
    "strongswan-starter": "VPN",
    "ipsec": "VPN",
    "tailscaled": "VPN",
    "zerotier-one": "VPN",
    "nebula": "VPN",
    "sssd": "identity",
    "winbind": "identity",
    "nslcd": "identity",
    "oddjobd": "identity",
    "polkit": "identity",
    "iscsid": "storage",
    "multipathd": "storage",
    "lvm2-lvmpolld": "storage",
    "rpc-statd": "storage",
    "zfs-zed": "storage",
    "mdmonitor": "storage",
    "walinuxagent": "cloud",
    "google-guest-agent": "cloud",
    "amazon-ssm-agent": "cloud",
    "qemu-guest-agent": "cloud",
}


@pytest.mark.parametrize("kind", [*UNITS, "process.pause"])
@pytest.mark.parametrize("unit", NEEDED)
def test_what_a_host_needs_to_be_reached_is_refused_with_its_reason(kind: str, unit: str) -> None:
    words = {**faults.from_words(shlex.split(KINDS[kind].example)), "unit": unit}
    fault = faults.parse(kind, words)
    with pytest.raises(Refused, match=rf"protected \(as .*{NEEDED[unit]}") as caught:
        fault.compile(NodeView.example(fault.asks()), ID)
    assert "reached" in caught.value.hint


@pytest.mark.parametrize(
    "unit", ["nginx", "postgresql@15-main", "keepalived", "nebula-graphd", "birdhouse", "initech"]
)
def test_what_people_want_to_harm_is_not_protected(unit: str) -> None:
    assert not protection(f"{unit}.service")


def test_root_may_protect_more() -> None:
    assert protection("db.service", ("db*",)) == "db*: units.protected in agent.toml"


def test_every_kind_that_is_about_services_or_processes_is_tried_here() -> None:
    """A new one is found by its class; one that is about a unit and is not must be looked at."""
    known = (UnitFault, ProcessFault, NetworkFault, LimitFault)
    others = {
        kind
        for kind, cls in KINDS.items()
        if "unit" in cls.model_fields and not issubclass(cls, known)
    }
    assert others <= {"gc.pressure"}
    fault = faults.parse("gc.pressure", {"unit": "sshd", "signal": "USR1"})
    with pytest.raises(Refused, match="protected"):
        fault.compile(NodeView.example(fault.asks()), ID)


@pytest.mark.parametrize(
    "process",
    [
        *(ProcessFacts(70, 1, name) for name in SSH_SERVERS),
        ProcessFacts(70, 1, "bash", session="session-3.scope"),
        ProcessFacts(70, 1, "systemd", "user@1000.service"),
        ProcessFacts(70, 1, "firewalld", "firewalld.service"),
    ],
)
@pytest.mark.parametrize("kind", ["process.kill", "process.pause"])
def test_who_holds_a_session_open_is_no_target(kind: str, process: ProcessFacts) -> None:
    fault = faults.parse(kind, {"cmdline": "."})
    with pytest.raises(Refused, match="protected"):
        fault.compile(replace(NodeView.example(fault.asks()), processes=(process,)), ID)


@pytest.mark.parametrize(
    "path",
    [
        "/user.slice/user-0.slice/session-3.scope",
        "/system.slice/ssh.service",
        "/system.slice/wg-quick@wg0.service",
    ],
)
def test_a_session_is_not_chosen_by_its_cgroup(path: str) -> None:
    fault = faults.parse("network.loss", {"peers": "10.0.0.2", "percent": "1%", "cgroup": path})
    with pytest.raises(Refused, match="protected"):
        fault.compile(replace(NODE, cgroups={path: 7}), ID)


def test_the_table_in_the_docs_is_the_table() -> None:
    page = Path(__file__).parents[2].joinpath("docs/hardening.md").read_text(encoding="utf-8")
    rows = dict(
        line.strip("| ").split(" | ", 1)
        for line in page.splitlines()
        if line.startswith("| ") and " | " in line.strip("| ")
    )
    for group in ESSENTIAL:
        assert rows[group.reason] == ", ".join(f"`{one}`" for one in group.patterns)
