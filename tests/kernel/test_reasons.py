"""Why a fault ended, or never began: the reason is the true one, and says what to do."""

from __future__ import annotations

import ctypes
import json
import os
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pyroute2 import IPRoute

from chaos_agent.linux import tcx
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.host import Host
from chaos_core.envelope import MAX_DURATION
from chaos_core.errors import KernelRefused
from chaos_core.messages import Apply

SECOND = 1_000_000
_BPF, _PROG_LOAD, _PROG_ATTACH, _SCHED_CLS = 321, 5, 8, 3  # x86-64; linux/bpf.h
_ATTACH = {"ingress": 46, "egress": 47}
_libc = ctypes.CDLL(None, use_errno=True)


def gone(host: Host, fault: str) -> bool:
    """Whether the kernel holds nothing of a fault's lease any more."""
    return not host.sets_of(host.backend).entries(f"chs-{fault}-4")


@pytest.mark.usefixtures("kernel")
def test_a_grant_that_comes_after_the_kernel_has_let_go_ends_the_fault_by_its_lease(
    node: Any, host: Host, wait_for: Callable[..., None]
) -> None:
    """The kernel counts whole seconds, so it lets go up to one before the lease is over."""
    fault = node.partition()
    wait_for(lambda: gone(host, fault))
    node.grant("r-1")
    status = node.status(fault)
    assert (status.state, status.reason, status.clean) == ("ended", "lease", True), status.detail


@pytest.mark.usefixtures("kernel")
def test_what_somebody_takes_away_is_disturbed_also_when_the_grant_finds_it(
    node: Any, host: Host
) -> None:
    fault = node.partition()
    host.sets.empty(f"chs-{fault}-4", 4)
    node.grant("r-1")
    assert (node.status(fault).reason, node.status(fault).clean) == ("disturbed", True)


def test_a_fault_of_the_longest_duration_ends_by_that_in_its_last_second_too(
    node: Any, host: Host, wait_for: Callable[..., None]
) -> None:
    """The kernel may not hold on past it, so it lets go before."""
    now = now_us()
    request = Apply(
        epoch=1,
        seq=node.supervisor.heartbeat(now).seq,
        ttl_us=3 * SECOND,
        run="r-1",
        fault="0000000a",
        kind="network.partition",
        params=json.dumps({"peers": "10.9.0.2", "direction": "in", "action": "reject"}),
        duration_us=int(MAX_DURATION),
    )
    node.supervisor.obey(request, now + 2 * SECOND - MAX_DURATION)
    assert node.status("0000000a").state == "in_force"
    wait_for(lambda: gone(host, "0000000a"))
    node.look()
    status = node.status("0000000a")
    assert (status.state, status.reason, status.clean) == ("ended", "duration", True)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("direction", ["in", "out"])
def test_beside_a_plain_ingress_qdisc_a_detour_is_refused_before_anything_is_done(
    node: Any, listing: Callable[[], list[str]], sh: Callable[..., str], direction: str
) -> None:
    """wondershaper, SQM and the CNI bandwidth plugin have one; clsact cannot stand beside it."""
    sh("tc", "qdisc", "add", "dev", "v0", "ingress")
    before = listing()
    fault = node.apply("network.latency", peers="10.9.0.2", delay="10ms", direction=direction)
    status = node.status(fault)
    assert (status.state, status.code, status.started_at) == ("refused", "refused", 0)
    assert "plain ingress qdisc on v0" in status.detail
    assert "direction=in" in status.detail
    assert listing() == before
    assert not node.engine.journal.knows(fault)
    node.await_in_force(node.partition(direction="both"))  # as the hint says


@pytest.fixture
def program() -> Iterator[int]:
    """A BPF program that lets every packet through, for good."""
    code = struct.pack("<BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0)  # r0 = TCX_PASS; exit
    code_at, licence = ctypes.create_string_buffer(code, 16), ctypes.create_string_buffer(b"GPL")
    where = (ctypes.addressof(code_at), ctypes.addressof(licence))
    asked = struct.pack("<IIQQ", _SCHED_CLS, 2, *where).ljust(120, b"\0")
    program = _libc.syscall(_BPF, _PROG_LOAD, asked, len(asked))
    assert program >= 0, ctypes.get_errno()
    yield program
    os.close(program)


@pytest.mark.parametrize(("side", "direction"), [("egress", "out"), ("ingress", "in")])
def test_a_bpf_program_that_is_asked_first_is_seen_and_the_detour_refused(
    node: Any, program: int, side: Any, direction: str
) -> None:
    with IPRoute() as ip:
        index = ip.link_lookup(ifname="v0")[0]
    other: tcx.Side = "ingress" if side == "egress" else "egress"
    asked = struct.pack("<IIII", index, program, _ATTACH[side], 0).ljust(64, b"\0")
    assert _libc.syscall(_BPF, _PROG_ATTACH, asked, len(asked)) == 0, ctypes.get_errno()
    assert (tcx.programs(index, side), tcx.programs(index, other)) == (1, 0)
    fault = node.apply("network.latency", peers="10.9.0.2", delay="10ms", direction=direction)
    status = node.status(fault)
    assert (status.state, status.code, status.started_at) == ("refused", "refused", 0)
    assert f"BPF program (TCX) at the {side} of v0" in status.detail


def test_what_the_kernel_refuses_is_told_with_its_name_and_a_hint(host: Host) -> None:
    device = host.tc.link("v0")
    assert device is not None
    host.tc.add_clsact(device.index)
    with pytest.raises(KernelRefused, match=r"add clsact: .*\(EEXIST\)") as caught:
        host.tc.add_clsact(device.index)
    assert "docs/coexistence.md" in caught.value.hint
    with pytest.raises(KernelRefused, match="ENODEV"):
        host.tc.add_clsact(9_999)


def test_a_rule_set_that_is_flushed_between_two_effects_ends_that_fault_and_not_the_keeper(
    node: Any, sh: Callable[..., str]
) -> None:
    """As a reload of nftables.conf does it."""
    sh("nft", "add table inet filter; add chain inet filter input { type filter hook input"
       " priority 0; }")  # fmt: skip
    steps = iter(range(100))

    def flush_once() -> None:
        if next(steps) == 1:
            sh("nft", "flush", "ruleset")

    node.engine.step = flush_once
    fault = node.partition(action="drop")
    status = node.status(fault)
    assert (status.state, status.reason) == ("ended", "not_in_force")
    assert "removed it" in status.detail
    node.engine.step = lambda: None
    assert not node.engine.standing
