"""doctor tells what this kernel can do, quickly, and leaves no trace."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from chaos_agent import doctor, snapshot
from chaos_agent.effects import sweep
from chaos_agent.linux.host import Host
from chaos_agent.offers import examine_host
from chaos_agent.snapshot import Scope
from chaos_core.faults import kinds


@pytest.mark.usefixtures("kernel")
def test_it_says_what_the_tools_find_and_leaves_nothing(
    host: Host, users: Any, sh: Callable[..., str]
) -> None:
    before, listing = snapshot.take(host, Scope(frozenset({"v0"}))), users.listing()
    doctor.examine(host)
    began = time.monotonic()
    found = {ability.name: ability for ability in doctor.examine(host).abilities}
    assert time.monotonic() - began < 0.5
    assert snapshot.diff(before, snapshot.take(host, Scope(frozenset({"v0"})))) == []
    assert users.listing() == listing
    assert sweep.find(host) == []
    assert all(bool(ability.why) != ability.ok for ability in found.values())
    for name, tool in (
        ("dummy", "ip link add mine1 type dummy"),
        ("ifb", "ip link add mine2 type ifb"),
        ("netem", "tc qdisc add dev lo root netem delay 1ms"),
        ("clsact", "tc qdisc add dev lo clsact"),
        ("fw", "tc filter add dev lo egress handle 1 fw action ok"),
        ("ipset", "ipset create mine3 hash:net timeout 1"),
        ("reject-ipv6", "ip6tables-legacy -A INPUT -j REJECT"),
        ("statistic", "iptables-legacy -A INPUT -m statistic --mode random --probability 0.1"),
    ):
        try:
            sh(*tool.split())
        except AssertionError:
            assert not found[name].ok, name
        else:
            assert found[name].ok, found[name]


def test_every_need_of_every_fault_is_examined(host: Host) -> None:
    names = {ability.name for ability in doctor.examine(host).abilities}
    for kind, cls in kinds().items():
        assert set(cls.needs) <= names, kind


@pytest.mark.usefixtures("kernel")
def test_what_is_busy_at_the_start_is_not_missing_for_good(
    host: Host, lock_held: Callable[[float], AbstractContextManager[None]]
) -> None:
    with lock_held(1.5):
        found = {ability.name: ability for ability in doctor.examine(host).abilities}
    assert found["reject"].ok
    assert "not tried: /run/xtables.lock is held" in found["reject"].why
    assert examine_host(host)["kinds"]["network.reject"]["ok"]


def test_nftables_in_use_is_mentioned(host: Host, sh: Callable[..., str]) -> None:
    assert "nftables" not in doctor.examine(host).firewall
    try:
        sh("nft", "add", "table", "bridge", "mine")
    except AssertionError:
        return  # a kernel without nftables has none to mention
    assert "bridge mine" in doctor.examine(host).firewall


@pytest.mark.guest
@pytest.mark.usefixtures("dummy_unloaded")
def test_links_that_a_module_brings_along_are_taken_away() -> None:
    with Host() as host:
        before = {link.name for link in host.tc.links()}
        link = host.tc.add_link("chs-0000000a-0", "dummy")
        assert {link.name for link in host.tc.links()} == before | {"chs-0000000a-0"}
        host.tc.delete_link(link)


@pytest.fixture
def dummy_unloaded() -> Iterator[None]:
    """A kernel that has yet to load the module, which then makes a link of its own."""
    modprobe = Path("/proc/sys/kernel/modprobe")
    libc = ctypes.CDLL(None, use_errno=True)
    unloaded = libc.syscall(176, b"dummy", os.O_NONBLOCK)
    assert unloaded == 0, os.strerror(ctypes.get_errno())
    modprobe.write_text("/run/modprobe")
    yield
    modprobe.write_text("\n")
