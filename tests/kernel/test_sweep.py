"""What carries our tag is found and removed without a journal, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chaos_agent.effects import ops, sweep
from chaos_agent.linux import children
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.cgroups import Cgroups
from chaos_agent.linux.host import Host
from chaos_core.effects import Chain, Effect, Family, Holder, LeasedSet, Netem, Pipe, Rule

LATER = 60 * 1_000_000
FAMILIES: tuple[Family, ...] = (4, 6)


def rules(peers: dict[Family, str]) -> list[Effect]:
    """Sets and chains of both families in both tables, as two faults would leave them."""
    effects: list[Effect] = []
    for family in FAMILIES:
        name = f"chs-000000a1-{family}"
        effects.append(LeasedSet(name, family, (peers[family],)))
        mark = Rule("MARK", match_set=name, set_side="dst", mark=0x1000000, mask=0xF000000)
        effects.append(Chain("CHAOS-000000a1-out", family, "mangle", "POSTROUTING", (mark,)))
        effects.append(Chain("CHAOS-000000b2-out", family, "filter", "OUTPUT", (Rule("RETURN"),)))
    return effects


def apply(host: Host, effects: list[Effect]) -> None:
    for effect in effects:
        ops(effect).apply(host, effect, now_us() + LATER)


def test_everything_of_ours_goes_and_nothing_of_the_users(
    host: Host, net: Any, users: Any, sh: Callable[..., str]
) -> None:
    before = users.listing()
    apply(host, [*rules(net.peer), Holder("chs-000000a1", "burn", cpu_quota=5_000)])
    sh("ip", "link", "add", "chs-000000a1-0", "type", "ifb")
    found = [str(item) for item in sweep.find(host)]
    for name in ("chain CHAOS-000000a1-out in mangle (IPv6)",
                 "chain CHAOS-000000b2-out in filter (IPv4)",
                 "set chs-000000a1-6", "link chs-000000a1-0", "cgroup chs-000000a1"):  # fmt: skip
        assert name in found
    with Host() as afresh:
        began = time.monotonic()
        assert sweep.remove(afresh) == []
        assert time.monotonic() - began < 1
        assert sweep.find(afresh) == []
        assert sweep.remove(afresh) == []
    assert users.listing() == before


@pytest.mark.guest
@pytest.mark.parametrize("own_clsact", [False, True])
def test_whole_faults_go_with_the_clsact_that_was_ours(
    host: Host, net: Any, users: Any, own_clsact: bool
) -> None:
    if own_clsact:
        users.add_clsact()
    before = users.listing()
    pipes: list[Effect] = [
        Pipe("v0", "chs-000000a1-0", 0x1000000, 0xF000000, 1, Netem(delay=1_000)),
        Pipe("v0", "chs-000000b2-0", 0x2000000, 0xF000000, 2, None),
    ]
    apply(host, [*pipes, *rules(net.peer)])
    with Host() as afresh:
        assert sweep.remove(afresh) == []
        assert sweep.find(afresh) == []
    assert users.listing() == before


@pytest.mark.guest
def test_a_filter_whose_ifb_was_deleted_is_still_known_as_ours(
    host: Host, net: Any, sh: Callable[..., str]
) -> None:
    """It would swallow every packet with our mark."""
    pipe = Pipe("v0", "chs-000000a1-0", 0x1000000, 0xF000000, 1, Netem(delay=1_000))
    apply(host, [pipe, *rules(net.peer)])
    sh("ip", "link", "del", "chs-000000a1-0")
    assert net.ping(net.peer[4]) == []
    assert sweep.remove(host) == []
    assert len(net.ping(net.peer[4])) == 2
    assert sh("tc", "filter", "show", "dev", "v0", "egress") == ""


def test_what_only_looks_like_ours_is_left_alone(host: Host, sh: Callable[..., str]) -> None:
    """Our names carry a fault's id; the prefix alone may be the user's."""
    names = ("chs-lan", "chs0", "chs-0123456", "chs-0123456789", "chs-deadbeef-x")
    for name in names:
        sh("ip", "link", "add", name, "type", "ifb")
        sh("ipset", "create", name, "hash:net")
    sh("iptables-legacy", "-N", "CHAOS-MONKEY")
    sh("iptables-legacy", "-A", "INPUT", "-j", "CHAOS-MONKEY")
    rules = sh("iptables-legacy", "-S")
    assert sweep.find(host) == []
    assert sweep.remove(host) == []
    assert {device.name for device in host.devices.all()} >= set(names)
    assert set(names) <= set(sh("ipset", "list", "-n").split())
    assert sh("iptables-legacy", "-S") == rules


@pytest.mark.guest
def test_a_fw_filter_of_the_users_is_left_alone(host: Host, sh: Callable[..., str]) -> None:
    sh("ip", "link", "add", "mine0", "type", "ifb")
    sh("tc", "qdisc", "add", "dev", "v0", "clsact")
    match = "filter add dev v0 egress pref 3 handle 0x1000000/0xf000000 fw"
    action = " action mirred egress redirect dev mine0"
    sh("tc", *f"{match}{action}".split())
    before = sh("tc", "filter", "show", "dev", "v0", "egress")
    pipe = Pipe("v0", "chs-000000a1-0", 0x1000000, 0xF000000, 1, None)
    apply(host, [pipe])
    assert sweep.remove(host) == []
    ops(pipe).revert(host, Pipe("v0", "chs-000000a1-0", 0x1000000, 0xF000000, 3, None))
    assert sh("tc", "filter", "show", "dev", "v0", "egress") == before


def test_one_thing_that_resists_does_not_keep_the_rest(
    host: Host, net: Any, sh: Callable[..., str]
) -> None:
    apply(host, rules(net.peer))
    sh("iptables-legacy", "-t", "mangle", "-A", "INPUT", "-m", "set",
       "--match-set", "chs-000000a1-4", "src", "-j", "ACCEPT")  # fmt: skip
    problems = sweep.remove(host)
    assert len(problems) == 1
    assert problems[0].startswith("set chs-000000a1-4: ")
    assert [str(item) for item in sweep.find(host)] == ["set chs-000000a1-4"]


@pytest.mark.usefixtures("kernel")
def test_the_group_of_an_undo_timers_service_is_left_to_systemd(host: Host) -> None:
    """It is named like ours, and killing it would end what is ending a fault."""
    group = host.cgroups.cpu / "chs-000000a1-2.service"
    group.mkdir()
    try:
        assert not [found for found in sweep.find(host) if "chs-000000a1-2" in str(found)]
    finally:
        group.rmdir()


def test_groups_that_come_and_go_are_no_error(tmp_path: Path) -> None:
    """Services start and stop, containers come and go, while we look for what is ours."""
    groups = Cgroups(2, tmp_path, tmp_path, root=tmp_path)
    (tmp_path / "system.slice/agent/chs-0a1b2c3d").mkdir(parents=True)
    over = threading.Event()

    def churn() -> None:
        while not over.is_set():
            for number in range(20):
                (tmp_path / f"system.slice/app-{number}/inner").mkdir(parents=True)
            for number in range(20):
                (tmp_path / f"system.slice/app-{number}/inner").rmdir()
                (tmp_path / f"system.slice/app-{number}").rmdir()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(300):
            assert groups.names() == ["chs-0a1b2c3d"]
    finally:
        over.set()
        thread.join()


def test_what_cannot_be_listed_does_not_hide_the_rest(
    host: Host, net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(host, rules(net.peer))

    def broken(*_: Any) -> Any:
        raise ValueError("a defect")

    with monkeypatch.context() as patch:
        patch.setattr(children, "find", broken)
        sweep.remove(host)
        (found,) = sweep.find(host)
        assert str(found).startswith("processes that cannot be listed: the agent has failed: ")
    assert sweep.find(host) == []


def test_a_process_of_somebody_elses_that_looks_like_a_holder_is_left_alone(host: Host) -> None:
    program = (
        "import ctypes, time\n"
        "libc = ctypes.CDLL(None)\n"
        "assert libc.prctl(15, b'chs-000000a1', 0, 0, 0) == 0\n"
        "assert libc.prctl(4, 0, 0, 0, 0) == 0\n"  # what cannot be dumped looks like root's
        "print(flush=True)\ntime.sleep(60)\n"
    )
    for user, found in ((0, "chs-000000a1"), (65534, "")):
        argv = [sys.executable, "-I", "-S", "-c", program]
        pretender = subprocess.Popen(argv, stdout=subprocess.PIPE, user=user)
        try:
            assert pretender.stdout is not None
            pretender.stdout.readline()
            assert children.holder_name(pretender.pid) == found
            assert len(sweep.find(host)) == len(found) // 12
        finally:
            pretender.kill()
            pretender.wait()
