"""The keeper as a process: what comes through its socket, and what its death leaves."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.keeper_process import Keeper, Link

from chaos_core.messages import Apply, FaultStatus, Grant, Revert


@pytest.fixture
def keeper(net: Any, tmp_path: Path, wait_for: Callable[..., None]) -> Iterator[Keeper]:  # noqa: ARG001
    """A real keeper in this test's namespace."""
    started = Keeper(tmp_path)
    try:
        wait_for(started.socket.exists, 20)
        yield started
    finally:
        started.process.kill()
        started.process.wait()


def partition(link: Link, fault: str = "0a1b2c3d") -> str:
    return link.apply(fault, "network.partition", peers="10.9.0.2", direction="in", action="reject")


def test_it_says_who_it_is_and_beats_once_a_second(keeper: Keeper) -> None:
    link = Link(keeper.socket)
    assert link.hello.node == "n1"
    assert link.hello.envelope["profile"] == "lab"
    assert link.hello.kinds["cpu.stress"]["ok"]
    first = link.heartbeat()
    second = link.heartbeat()
    assert second.seq > first.seq
    assert 0.9e6 < second.sent_at - first.sent_at < 3e6


def test_a_stopped_keeper_takes_its_faults_along(keeper: Keeper, net: Any) -> None:
    assert partition(Link(keeper.socket)) == "in_force"
    assert not net.ping_from_peer(4, net.peer[4])
    log = keeper.end()
    assert "reason=shutdown" in log
    assert net.ping_from_peer(4, net.peer[4])
    assert not keeper.socket.exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_or_frozen_keeper_holds_nothing_for_long(
    keeper: Keeper, net: Any, number: signal.Signals, wait_for: Callable[..., None]
) -> None:
    link = Link(keeper.socket)
    assert partition(link) == "in_force"
    link.send(Grant(epoch=1, seq=link.heartbeat().seq, ttl_us=3_000_000, runs=("r-1",)))
    time.sleep(0.2)
    keeper.process.send_signal(number)
    killed = time.monotonic()
    assert not net.ping_from_peer(4, net.peer[4])
    wait_for(lambda: net.ping_from_peer(4, net.peer[4]), 5)
    assert time.monotonic() - killed < 5


def test_a_keeper_takes_off_what_the_one_before_left_when_nobody_else_did(
    keeper: Keeper, net: Any, tmp_path: Path, wait_for: Callable[..., None]
) -> None:
    """systemd runs ``recover`` before it starts a keeper, but that may have been killed too."""
    assert partition(Link(keeper.socket)) == "in_force"
    keeper.process.kill()
    keeper.process.wait()
    keeper.socket.unlink()
    second = Keeper(tmp_path)
    try:
        wait_for(second.socket.exists, 20)
        assert net.ping_from_peer(4, net.peer[4])
        rules = subprocess.run(
            ["iptables-legacy-save", "-t", "filter"], capture_output=True, text=True, check=True
        )
        assert "CHAOS-" not in rules.stdout
        entries = (tmp_path / "state" / "journal").read_text().splitlines()
        assert '"reason": "recover"' in entries[-1]
        assert Link(second.socket).heartbeat().quarantine == ()
        assert "recovered" in second.end()
    finally:
        second.process.kill()
        second.process.wait()


def test_a_link_that_goes_away_is_a_lease_that_is_not_renewed(
    keeper: Keeper, net: Any, wait_for: Callable[..., None]
) -> None:
    link = Link(keeper.socket)
    assert partition(link) == "in_force"
    link.socket.close()
    wait_for(lambda: net.ping_from_peer(4, net.peer[4]), 5)
    again = Link(keeper.socket)
    while (status := again.heartbeat().faults[-1]).state != "ended":
        continue  # the kernel lets go first, up to a second before the keeper must
    assert (status.reason, status.clean) == ("lease", True)


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\xff garbage",
        b"{}",
        b"[]",
        b'{"type": "apply"}',
        b'{"type": "revert", "fault": "../../etc"}',
        b'{"type": "grant", "epoch": -1, "seq": 0, "ttl_us": 1}',
        b'{"type": "grant", "epoch": "1", "seq": 0, "ttl_us": 1}',
        b'{"type": "heartbeat", "seq": 1, "sent_at": 1, "epoch": 1}',
        b"[" * 30_000,
        b"x" * (1 << 16) + b"x" * 4096,
    ],
)
def test_hostile_messages_change_nothing(keeper: Keeper, data: bytes) -> None:
    link = Link(keeper.socket)
    link.socket.send(data)
    assert partition(link) == "in_force"
    link.send(Revert())
    while link.heartbeat().faults[-1].state != "ended":
        continue
    assert "message refused" in keeper.end()


def test_a_flood_is_cut_off_and_the_fault_ends_by_its_lease(
    keeper: Keeper, net: Any, wait_for: Callable[..., None]
) -> None:
    link = Link(keeper.socket)
    assert partition(link) == "in_force"

    def flood() -> None:
        for _ in range(100_000):
            link.send(Revert(fault="ffffffff"))

    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        flood()
    wait_for(lambda: net.ping_from_peer(4, net.peer[4]), 5)
    assert Link(keeper.socket).hello.node == "n1"


def test_slow_work_on_one_fault_holds_up_nothing_else(
    net: Any, tmp_path: Path, wait_for: Callable[..., None]
) -> None:
    """Grants, heartbeats and reverts go on between two steps, and an abort cuts an apply short."""
    keeper = Keeper(tmp_path, env={"SLOW_APPLY": "0.5"})
    peers = {"0a1b2c3d": "10.9.0.2", "1a1b2c3d": "10.9.0.3", "2a1b2c3d": "10.9.0.4"}
    first, second, third = peers
    gaps: list[float] = []
    last: dict[str, FaultStatus] = {}
    seen: dict[str, list[str]] = {fault: [] for fault in peers}

    def listen_until(link: Link, met: Callable[[], bool], *, grant: bool = True) -> int:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            began = time.monotonic()
            beat = link.heartbeat()
            gaps.append(time.monotonic() - began)
            for status in beat.faults:
                seen[status.fault].append(status.state)
                last[status.fault] = status
                assert status.state in ("applying", "in_force") or status.clean or not grant
            if met():
                return beat.seq
            if grant:
                link.grant(beat.seq)
        raise AssertionError(seen)

    def in_force(fault: str) -> bool:
        return "in_force" in seen[fault]

    def ask(link: Link, seq: int, fault: str) -> None:
        link.ask(seq, fault, "network.partition", peers=peers[fault], action="reject")

    try:
        wait_for(keeper.socket.exists, 20)
        link = Link(keeper.socket)
        seq = listen_until(link, lambda: True)
        for fault in (first, second):
            ask(link, seq, fault)
            seq = listen_until(link, partial(in_force, fault))
        assert seen[second].count("applying") > 3, "the work was not slow"
        assert seen[first][-1] == "in_force"
        ask(link, seq, third)
        listen_until(link, lambda: "applying" in seen[third])
        link.send(Revert(reason="abort"))
        listen_until(link, lambda: all("ended" in states for states in seen.values()), grant=False)
        assert last[third].in_force_at == 0
        whole = last[second].in_force_at - last[second].started_at
        assert last[third].ended_at - last[third].started_at < whole / 2, "it was not cut short"
        assert max(gaps) < 2.5
        assert net.ping_from_peer(4, net.peer[4])
        assert "trace" not in keeper.end()
    finally:
        keeper.process.kill()
        keeper.process.wait()


def test_a_newer_link_replaces_an_older_one(keeper: Keeper) -> None:
    old = Link(keeper.socket)
    new = Link(keeper.socket)
    assert old.closed()
    assert new.heartbeat().seq


def test_a_link_that_does_not_read_is_dropped_and_nothing_stalls(
    keeper: Keeper, tmp_path: Path
) -> None:
    deaf = Link(keeper.socket)
    deaf.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for _ in range(20):
        deaf.socket.send(Apply(epoch=1, seq=0, ttl_us=1, run="r-1", fault="0a1b2c3d", kind="x",
                               params="{}", duration_us=1).model_dump_json().encode())  # fmt: skip
        time.sleep(0.02)
    assert Link(keeper.socket).heartbeat().seq
    keeper.end()
    assert (tmp_path / "state" / "journal").read_bytes() == b""


def test_strangers_are_not_let_in(keeper: Keeper) -> None:
    keeper.socket.chmod(0o666)
    for place in (keeper.socket.parent, *keeper.socket.parents):
        if place.stat().st_mode & 0o005 != 0o005:
            place.chmod(0o755)
    stranger = subprocess.run(
        [sys.executable, "-c", "import os, socket, sys\n"
         "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
         "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
         "s.connect(sys.argv[1]); s.settimeout(5)\n"
         "try:\n    print(len(s.recv(100)))\n"
         "except ConnectionResetError:\n    print(0)", str(keeper.socket)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert stranger.stdout.strip() == "0"
    assert "neither root nor the link's user" in keeper.end()


def test_there_is_one_keeper_only(keeper: Keeper, tmp_path: Path) -> None:
    second = Keeper(tmp_path)
    log = second.ended()
    assert second.process.returncode == 3
    assert "another keeper is running" in log
    assert "Traceback" not in log
    assert Link(keeper.socket).heartbeat().seq


def test_the_keeper_loads_no_library_of_the_wire() -> None:
    """pyroute2 is built on asyncio; gRPC, protobuf, TLS keys and HTTP have no business here."""
    modules = subprocess.run(
        [sys.executable, "-c", "import chaos_agent.serve, chaos_agent.keeper, chaos_agent.engine,"
         "chaos_agent.supervisor, chaos_agent.offers, chaos_agent.recover, chaos_agent.local, sys\n"
         "from chaos_agent.linux.host import Host\n"
         "with Host() as host:\n    chaos_agent.offers.examine_host(host)\n"
         "print(*sys.modules)"],
        capture_output=True, text=True, check=True,
        env={**os.environ, "SETUPTOOLS_USE_DISTUTILS": "stdlib"},  # as where there are no dev tools
    ).stdout.split()  # fmt: skip
    unwanted = {"grpc", "google.protobuf", "chaos_proto", "cryptography", "http.client", "typer"}
    assert unwanted.intersection(modules) == set()


@pytest.mark.parametrize("deaf", ["log", "systemd"])
def test_nobody_who_does_not_read_holds_up_the_leases(
    net: Any,
    tmp_path: Path,
    wait_for: Callable[..., None],
    deaf: str,
) -> None:
    """A journald or a PID 1 that hangs, and a keeper with much to tell them."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    place = tmp_path / "notify"
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd,
        os.fdopen(writer, "w") as full,
    ):
        systemd.bind(str(place))
        log = full if deaf == "log" else None
        keeper = Keeper(tmp_path, log=log, env={"NOTIFY_SOCKET": str(place)})
        try:
            wait_for(keeper.socket.exists, 20)
            link = Link(keeper.socket)
            assert partition(link) == "in_force"
            for _ in range(60):  # each is refused, which is logged, and tells systemd of a turn
                link.socket.send(b"not a message")
                time.sleep(0.02)
            wait_for(lambda: net.ping_from_peer(4, net.peer[4]), 6)  # its lease was not renewed
            wait_for(lambda: any(one.state == "ended" for one in link.heartbeat().faults), 6)
        finally:
            keeper.process.kill()
            keeper.process.wait()
            os.close(reader)
