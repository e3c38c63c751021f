"""Nobody is locked out, wherever sshd listens: real connections, while everybody is cut off."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chaos_agent.linux import sshd
from chaos_agent.linux.cgroupfs import mounts
from chaos_agent.linux.host import Host

MARK = f"chaos-test-server-{os.getpid()}"
SSH, OTHER = 2222, 2223
EVERYBODY = "0.0.0.0/0,::/0"
IN_GUEST = "CHAOS_GUEST" in os.environ
# Listens as a process of that name, and echoes from a child process for each connection, as
# sshd does. With a third argument it enters that cgroup first; a SIGUSR1 ends its listening.
_SERVER = """
import ctypes, os, signal, socket, sys
port, name, group = int(sys.argv[1]), sys.argv[2], sys.argv[3]
if group:
    open(group + "/cgroup.procs", "w").write(str(os.getpid()))
ctypes.CDLL(None).prctl(15, name.encode())
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
server = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
signal.signal(signal.SIGUSR1, lambda *_: (server.close(), print("closed", flush=True)))
print("listens", flush=True)
while True:
    try:
        near, _ = server.accept()
    except OSError:
        signal.pause()
        continue
    if os.fork():
        near.close()
        continue
    server.close()
    while data := near.recv(100):
        near.sendall(data)
    os._exit(0)
"""


class Server:
    """A process of that name that listens here. Its sessions are its children."""

    def __init__(self, port: int, name: str, group: str = "") -> None:
        words = [sys.executable, "-c", _SERVER, str(port), name, group, MARK]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True)
        self.hear("listens")

    def hear(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().decode().strip() == word

    def stop_listening(self) -> None:
        self.process.send_signal(signal.SIGUSR1)
        self.hear("closed")

    def end(self) -> None:
        """With its sessions, which are in its process group. Idempotent."""
        if self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def start(net: Any) -> Iterator[Callable[..., Server]]:  # noqa: ARG001 - net is first
    started: list[Server] = []

    def one(*words: Any) -> Server:
        started.append(Server(*words))
        return started[-1]

    yield one
    for server in started:
        server.end()


def connect(net: Any, family: int, port: int) -> socket.socket:
    """A connection from the peer."""
    there: socket.socket = net.socket_there(family, socket.SOCK_STREAM)
    there.settimeout(1)
    try:
        there.connect((net.near[family], port))
    except OSError:
        there.close()
        raise
    return there


def answers(there: socket.socket) -> bool:
    try:
        there.sendall(b"x")
        return there.recv(10) == b"x"
    except OSError:
        return False


CUTS = [
    pytest.param("xtables", {"direction": "both", "action": "reject"}, id="reject"),
    pytest.param("nft", {"direction": "both", "action": "reject"}, id="reject by nftables"),
    pytest.param("nft", {"direction": "in"}, id="drop inwards by nftables"),
    pytest.param("xtables", {"direction": "in"}, id="drop inwards"),
    pytest.param("xtables", {"direction": "both"}, id="drop", marks=pytest.mark.guest),
    pytest.param("xtables", {"direction": "out"}, id="drop outwards", marks=pytest.mark.guest),
]


@pytest.mark.parametrize(("backend", "cut"), CUTS)
def test_who_cuts_off_everybody_cuts_off_no_ssh_server_at_any_port(
    net: Any,
    node: Any,
    host: Host,
    start: Callable[..., Server],
    sh: Callable[..., str],
    backend: str,
    cut: dict[str, str],
) -> None:
    if backend == "nft":
        sh("nft", "add table inet mine")
    assert host.backend == backend
    start(SSH, "sshd")
    start(OTHER, "nosshd")
    families = (4,) if IN_GUEST else (4, 6)  # it is slow, and a lease is short
    sessions = [connect(net, family, SSH) for family in families]
    others = [connect(net, family, OTHER) for family in families]
    assert all(map(answers, [*sessions, *others]))
    sshd.find(host.systemd)  # what is imported and opened once would take its share of the lease
    everybody = "0.0.0.0/0" if IN_GUEST else EVERYBODY
    node.await_in_force(node.apply("network.partition", peers=everybody, **cut))
    assert all(map(answers, sessions)), "a session"
    for family in families:
        with connect(net, family, SSH) as fresh:
            assert answers(fresh)
    for one in others:
        node.grant("r-1")
        assert not answers(one)
    for one in (*sessions, *others):
        one.close()


@pytest.mark.guest
@pytest.mark.parametrize(
    ("kind", "params"),
    [
        ("network.latency", {"delay": "3s"}),
        ("network.latency", {"delay": "3s", "direction": "in"}),
        ("network.loss", {"percent": "100%", "direction": "out"}),
        ("network.loss", {"percent": "100%", "direction": "in"}),
        ("network.blackhole", {"local_ports": f"{SSH}-{OTHER}"}),
    ],
)
def test_so_it_is_with_every_way_of_harming_everybody(
    net: Any,
    node: Any,
    start: Callable[..., Server],
    kind: str,
    params: dict[str, str],
) -> None:
    start(SSH, "dropbear")
    session = connect(net, 4, SSH)
    assert answers(session)
    node.await_in_force(node.apply(kind, peers="0.0.0.0/0", **params))
    assert answers(session)
    session.close()


@pytest.mark.guest
def test_an_interface_is_not_taken_down_under_a_session_at_another_port(
    net: Any, node: Any, start: Callable[..., Server]
) -> None:
    start(SSH, "dropbear")
    with connect(net, 4, SSH) as session:
        assert answers(session)
        status = node.status(node.apply("network.down", interface="v0"))
    assert status.state == "refused"
    assert "carries an SSH connection" in status.detail


def test_a_session_outlives_its_listener(net: Any, node: Any, start: Callable[..., Server]) -> None:
    """As when sshd was given another port and restarted."""
    server, other = start(SSH, "sshd"), start(OTHER, "nosshd")
    session, stranger = connect(net, 4, SSH), connect(net, 4, OTHER)
    assert answers(session)
    assert answers(stranger)
    for one in (server, other):
        one.stop_listening()
    node.await_in_force(
        node.apply("network.partition", peers=EVERYBODY, direction="both", action="reject")
    )
    assert answers(session)
    node.grant("r-1")
    assert not answers(stranger)
    session.close()
    stranger.close()


def test_who_is_found_and_who_is_not(host: Host, start: Callable[..., Server]) -> None:
    ours, _ = start(SSH, "sshd"), start(OTHER, "nosshd")
    assert sshd.find(host.systemd) == (sshd.SshPort(SSH, f"sshd, process {ours.process.pid}"),)


@pytest.mark.guest
def test_the_sealed_keeper_which_sees_no_descriptors_finds_it_by_its_cgroup(
    net: Any,  # noqa: ARG001
    start: Callable[..., Server],
    sh: Callable[..., str],
) -> None:
    groups = [mounts()["unified"] / f"{name}-{os.getpid()}.service" for name in ("a", "b")]
    for group in groups:
        group.mkdir()
    ours, other = start(SSH, "sshd", str(groups[0])), start(OTHER, "nosshd", str(groups[1]))
    program = (
        "import json; from chaos_agent.linux import sshd;"
        "from chaos_agent.linux.systemd import Systemd;"
        "print(json.dumps([[one.port, one.who] for one in sshd.find(Systemd())]))"
    )
    sealed = ("setpriv", "--bounding-set=-sys_ptrace", sys.executable, "-c", program)
    found = json.loads(sh(*sealed))
    assert found == [[SSH, f"sshd, process {ours.process.pid}"]]
    for server, group in ((ours, groups[0]), (other, groups[1])):
        server.end()
        group.rmdir()


def test_a_fault_of_ssh_alone_is_refused_and_not_idle(
    node: Any, start: Callable[..., Server]
) -> None:
    start(SSH, "sshd")
    status = node.status(node.apply("network.reject", peers="10.9.0.2", local_ports=str(SSH)))
    assert (status.state, status.code) == ("refused", "refused")
    assert "is SSH's" in status.detail


@pytest.mark.parametrize("kind", ["process.kill", "process.pause"])
def test_no_ssh_server_is_killed_or_paused_whatever_its_command_line(
    node: Any, start: Callable[..., Server], kind: str
) -> None:
    server = start(SSH, "sshd-session")
    more = {"repeat": "1s"} if kind == "process.kill" else {}
    status = node.status(node.apply(kind, cmdline=MARK, **more))
    assert (status.state, status.code) == ("refused", "refused")
    assert "an SSH server" in status.detail
    assert server.process.poll() is None


def test_doctor_compares_the_file_with_who_listens(
    tmp_path: Path, start: Callable[..., Server], sh: Callable[..., str]
) -> None:
    server = start(SSH, "sshd")
    config = tmp_path / "agent.toml"
    config.write_text('[node]\nname = "n1"\n[network]\nssh_ports = [22]\n')
    config.chmod(0o644)
    program = Path(sys.executable).with_name("chaos-agent")
    said = sh(str(program), "doctor", "--config", str(config))
    lines = [line for line in said.splitlines() if line.startswith("ssh ")]
    assert len(lines) == 2
    assert "port 22 is protected (configured)" in lines[0]
    assert "no SSH server is seen to listen there" in lines[0]
    assert f"port {SSH} is protected (found: sshd, process {server.process.pid})" in lines[1]
    assert "add it to network.ssh_ports" in lines[1]
    data = json.loads(sh(str(program), "doctor", "--config", str(config), "-o", "json"))
    assert [(one["port"], one["configured"]) for one in data["ssh"]] == [(22, True), (SSH, False)]
