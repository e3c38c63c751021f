"""Supervisor and engine on a real kernel: leases, limits, and nothing left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chaos_agent.config import AgentConfig
from chaos_agent.engine import Engine
from chaos_agent.journal import Journal
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.host import Host
from chaos_agent.offers import node_view
from chaos_agent.supervisor import Supervisor
from chaos_core.envelope import PROFILES
from chaos_core.log import Log
from chaos_core.messages import Apply, FaultStatus, Grant, Release, Revert

SECOND = 1_000_000


class Node:
    """A supervisor with its engine, and a controller's side of the conversation."""

    def __init__(self, host: Host, state: Path, profile: str = "lab") -> None:
        config = AgentConfig(node="n1", envelope=PROFILES[profile], state=state)
        self.engine = Engine(
            host, Journal(state), lambda fault: node_view(config, host, fault), now_us
        )
        self.supervisor = Supervisor(config, self.engine, Log.to_stderr("test"))
        self.faults = 0

    def apply(
        self, kind: str, *, run: str = "r-1", epoch: int = 1, seconds: float = 30, **params: Any
    ) -> str:
        """Ask for a fault under a fresh lease; returns its id."""
        self.faults += 1
        fault = f"{self.faults:08x}"
        now = now_us()
        request = Apply(
            epoch=epoch,
            seq=self.supervisor.heartbeat(now).seq,
            ttl_us=3 * SECOND,
            run=run,
            fault=fault,
            kind=kind,
            params=json.dumps(params),
            duration_us=int(seconds * SECOND),
        )
        self.supervisor.obey(request, now)
        return fault

    def partition(self, **params: Any) -> str:
        """A fault that every kernel here can do."""
        wanted = {"peers": "10.9.0.2", "direction": "in", "action": "reject", **params}
        return self.apply("network.partition", **wanted)

    def grant(self, *runs: str, epoch: int = 1) -> None:
        now = now_us()
        seq = self.supervisor.heartbeat(now).seq
        self.supervisor.obey(Grant(epoch=epoch, seq=seq, ttl_us=3 * SECOND, runs=runs), now)

    def status(self, fault: str) -> FaultStatus:
        faults = self.supervisor.heartbeat(now_us()).faults
        return next(status for status in faults if status.fault == fault)


@pytest.fixture
def node(host: Host, tmp_path: Path) -> Node:
    return Node(host, tmp_path / "state")


@pytest.mark.usefixtures("kernel")
def test_a_fault_bites_and_a_revert_leaves_nothing(node: Node, net: Any, users: Any) -> None:
    before = users.listing()
    fault = node.partition()
    assert node.status(fault).state == "in_force"
    assert not net.ping_from_peer(4, net.peer[4])
    assert net.ping_from_peer(4, net.bystander[4])
    node.supervisor.obey(Revert(), now_us())
    assert (node.status(fault).state, node.status(fault).clean) == ("ended", True)
    assert net.ping_from_peer(4, net.peer[4])
    assert users.listing() == before


@pytest.mark.guest
def test_latency_is_added_and_taken_away(node: Node, net: Any, users: Any) -> None:
    before = users.listing()
    fault = node.apply("network.latency", peers="10.9.0.2,fd09::2", delay="40ms")
    assert node.status(fault).state == "in_force"
    for family in (4, 6):
        assert all(40 <= rtt < 60 for rtt in net.ping(net.peer[family]))
        assert all(rtt < 20 for rtt in net.ping(net.bystander[family]))
    node.supervisor.obey(Revert(fault=fault), now_us())
    assert node.status(fault).clean
    assert all(rtt < 20 for rtt in net.ping(net.peer[4]))
    assert users.listing() == before


def test_a_lease_that_is_not_renewed_ends_the_fault(node: Node) -> None:
    fault = node.partition()
    node.supervisor.tick(now_us() + 2 * SECOND)
    assert node.status(fault).state == "in_force"
    node.supervisor.tick(now_us() + 3 * SECOND)
    assert (node.status(fault).state, node.status(fault).reason) == ("ended", "lease")


def test_a_grant_renews_the_runs_that_it_names_and_no_others(node: Node) -> None:
    mine, other = node.partition(run="r-1"), node.partition(run="r-2", peers="10.9.0.3")
    was = {fault: node.status(fault).expires_at for fault in (mine, other)}
    node.grant("r-1")
    assert node.status(mine).expires_at > was[mine]
    assert node.status(other).expires_at == was[other]


def test_the_duration_ends_a_fault_however_often_it_is_renewed(node: Node) -> None:
    fault = node.partition(seconds=2)
    node.grant("r-1")
    node.supervisor.tick(now_us() + 2 * SECOND)
    assert (node.status(fault).reason, node.status(fault).clean) == ("duration", True)


def test_a_lower_epoch_is_not_obeyed_but_a_revert_always_is(
    node: Node, host: Host, tmp_path: Path
) -> None:
    fault = node.partition(epoch=7)
    expires_at = node.status(fault).expires_at
    node.grant("r-1", epoch=6)
    assert node.status(fault).expires_at == expires_at
    assert node.status(node.partition(epoch=6)).code == "fenced"
    node.supervisor.obey(Revert(fault=fault), now_us())
    assert node.status(fault).state == "ended"
    again = Node(host, tmp_path / "state")  # the epoch was kept on disk
    again.faults = 50
    assert again.status(again.partition(epoch=6)).code == "fenced"


def test_the_envelope_is_the_nodes_own(host: Host, tmp_path: Path) -> None:
    node = Node(host, tmp_path / "state", "production")
    assert node.status(node.partition()).code == "envelope"
    assert node.status(node.apply("cpu.stress", percent="16%")).code == "envelope"
    assert node.status(node.apply("cpu.stress", percent="10%")).state == "applying"
    assert node.status(node.apply("cpu.stress", percent="10%")).code == "envelope"
    assert node.status(node.apply("cpu.stress", percent="1%", run="r-2")).code == "envelope"
    node.supervisor.end_all("test", now_us())
    assert not node.engine.standing


@pytest.mark.parametrize(
    ("kind", "params", "code"),
    [
        ("network.latncy", {}, "invalid"),
        ("cpu.stress", {"percent": 15}, "invalid"),
        ("cpu.stress", {"percent": "1%", "cores": "2"}, "invalid"),
        ("network.latency", {"peers": "10.9.0.1", "delay": "1ms"}, "refused"),
        ("network.latency", {"peers": "203.0.113.1", "delay": "1ms"}, "invalid"),
        ("network.latency", {"peers": "10.9.0.2", "delay": "1ms", "interface": "v7"}, "invalid"),
    ],
)
def test_nonsense_is_refused_before_anything_is_done(
    node: Node, tmp_path: Path, kind: str, params: dict[str, Any], code: str
) -> None:
    status = node.status(node.apply(kind, **params))
    assert (status.state, status.code) == ("refused", code)
    assert (tmp_path / "state" / "journal").read_bytes() == b""


def test_what_this_kernel_lacks_is_refused_and_nothing_is_left(
    node: Node, users: Any, tmp_path: Path
) -> None:
    before = users.listing()
    status = node.status(node.apply("network.latency", peers="10.9.0.2", delay="1ms"))
    assert (status.state, status.code) == ("refused", "unsupported")
    assert "netem" in status.detail
    assert users.listing() == before
    assert Journal(tmp_path / "state").open_intents() == []


def test_a_change_by_somebody_else_ends_the_fault(node: Node, sh: Callable[..., str]) -> None:
    fault = node.partition()
    sh("iptables-legacy", "-F", f"CHAOS-{fault}-in")
    node.supervisor.tick(now_us() + 1 * SECOND)
    status = node.status(fault)
    assert (status.state, status.reason, status.clean) == ("ended", "disturbed", True)
    assert "CHAOS" not in sh("iptables-legacy-save")


def test_a_difference_quarantines_the_node_until_it_is_released(
    node: Node, host: Host, sh: Callable[..., str], tmp_path: Path
) -> None:
    fault = node.partition()
    sh("iptables-legacy", "-A", "INPUT", "-s", "192.0.2.9", "-j", "DROP")
    node.supervisor.obey(Revert(), now_us())
    assert not node.status(fault).clean
    refused = node.status(node.partition())
    assert refused.state == "refused"
    assert "quarantined" in refused.detail
    assert "192.0.2.9" in refused.detail
    again = Node(host, tmp_path / "state")  # also after a restart
    assert "192.0.2.9" in again.supervisor.quarantine[0]


def test_a_release_lifts_the_quarantine_only_when_nothing_of_ours_is_left(
    node: Node, sh: Callable[..., str], tmp_path: Path
) -> None:
    node.partition()
    sh("iptables-legacy", "-A", "INPUT", "-s", "192.0.2.9", "-j", "DROP")
    node.supervisor.obey(Revert(), now_us())
    sh("ipset", "create", "chs-0badf00d-4", "hash:net")
    node.supervisor.obey(Release(epoch=1, reason="looked"), now_us())
    assert "chs-0badf00d-4" in node.supervisor.heartbeat(now_us()).quarantine[0]
    sh("ipset", "destroy", "chs-0badf00d-4")
    node.supervisor.obey(Release(epoch=1, reason="looked"), now_us())
    assert node.supervisor.heartbeat(now_us()).quarantine == ()
    assert not (tmp_path / "state" / "quarantine").exists()
    assert node.status(node.partition()).state == "in_force"


def test_two_faults_end_independently(node: Node, net: Any, users: Any) -> None:
    before = users.listing()
    first = node.partition()
    second = node.partition(run="r-2", peers="10.9.0.3")
    node.supervisor.obey(Revert(fault=first), now_us())
    assert node.status(first).clean
    assert net.ping_from_peer(4, net.peer[4])
    assert not net.ping_from_peer(4, net.bystander[4])
    assert node.status(second).state == "in_force"
    node.supervisor.obey(Revert(fault=second), now_us())
    assert node.status(second).clean
    assert users.listing() == before


@pytest.mark.guest
def test_two_pipes_on_one_device_end_independently(node: Node, net: Any, users: Any) -> None:
    before = users.listing()
    first = node.apply("network.latency", peers="10.9.0.2", delay="40ms")
    second = node.apply("network.latency", peers="10.9.0.3", delay="80ms", run="r-2")
    assert all(40 <= rtt < 60 for rtt in net.ping(net.peer[4]))
    assert all(80 <= rtt < 100 for rtt in net.ping(net.bystander[4]))
    node.supervisor.obey(Revert(fault=first), now_us())
    assert node.status(first).clean
    assert all(rtt < 20 for rtt in net.ping(net.peer[4]))
    assert all(80 <= rtt < 100 for rtt in net.ping(net.bystander[4]))
    node.supervisor.obey(Revert(fault=second), now_us())
    assert node.status(second).clean
    assert users.listing() == before
