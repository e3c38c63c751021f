"""Processes are found by what they are, and hit by identity."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chaos_agent.effects import ops
from chaos_agent.linux import processes
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.cgroupfs import mounts
from chaos_agent.linux.host import Host
from chaos_core.effects import Kill
from chaos_core.errors import NotInForce, Unsupported
from chaos_core.node import ProcessQuery

MARK = f"chaos-test-victim-{os.getpid()}"


def start() -> subprocess.Popen[bytes]:
    program = "import time; print(flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", program, MARK], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()  # it has its command line by now
    return process


@pytest.fixture
def victims() -> Iterator[list[subprocess.Popen[bytes]]]:
    started = [start(), start()]
    yield started
    for process in started:
        process.kill()
        process.wait()


def found(query: ProcessQuery) -> dict[int, int]:
    return {process.pid: process.started for process in processes.find(query)}


def apply(host: Host, effect: Kill) -> None:
    ops(effect).apply(host, effect, now_us() + 3_000_000)


def test_processes_are_found_by_command_line_and_number(
    victims: list[subprocess.Popen[bytes]],
) -> None:
    pids = {process.pid for process in victims}
    assert set(found(ProcessQuery(cmdline=MARK))) == pids
    one = victims[0].pid
    assert set(found(ProcessQuery(cmdline=MARK, pid=one))) == {one}
    assert not found(ProcessQuery(cmdline=MARK, unit="nosuch.service"))
    assert not found(ProcessQuery(pid=2**22))


@pytest.mark.parametrize(("wanted", "holds"), [("m?rk*end", True), ("mark*nd-", False)])
def test_a_star_stands_for_anything(wanted: str, holds: bool) -> None:
    named = subprocess.Popen([f"chaos-mark-of-{os.getpid()}-end", "600"], executable="/bin/sleep")
    try:
        assert (named.pid in found(ProcessQuery(cmdline=f"chaos-{wanted}"))) is holds
    finally:
        named.kill()
        named.wait()


_SERVER = """
import socket, subprocess, sys
helper = subprocess.Popen(["sleep", "600"])
server = socket.create_server((sys.argv[1], 0), family=getattr(socket, sys.argv[2]))
print(server.getsockname()[1], helper.pid, flush=True)
helper.wait()
"""


@pytest.mark.guest
@pytest.mark.parametrize(("address", "family"), [("127.0.0.1", "AF_INET"), ("::", "AF_INET6")])
def test_who_listens_at_a_port_is_found_with_all_of_its_group(
    wait_for: Callable[..., None], address: str, family: str
) -> None:
    """In a cgroup v2 of its own, as every service is."""
    group = Path("/sys/fs/cgroup/mine-processes")
    group.mkdir()
    words = ["sh", "-c", 'echo $$ > "$0/cgroup.procs"; exec "$@"', str(group)]
    words += [sys.executable, "-c", _SERVER, address, family]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port, helper = map(int, server.stdout.readline().split())
        assert set(found(ProcessQuery(port=port))) == {server.pid, helper}
        assert set(found(ProcessQuery(port=port, cmdline="sleep 600"))) == {helper}
        with socket.create_server(("127.0.0.1", 0)) as of_the_root:
            taken = of_the_root.getsockname()[1]
            assert not found(ProcessQuery(port=taken)), "all that is in no group"
        assert not found(ProcessQuery(port=1))
    finally:
        (group / "cgroup.kill").write_text("1")
        server.communicate()
        wait_for(lambda: "populated 0" in (group / "cgroup.events").read_text())
        group.rmdir()


def test_no_pattern_takes_long_whatever_command_lines_there_are() -> None:
    """As a regular expression this would take years, and the keeper has one thread."""
    evil = subprocess.Popen(["a" * 3_000 + "!", "600"], executable="/bin/sleep")
    try:
        began = time.monotonic()
        for pattern in ("(a+)+$", "a*" * 100, "*" * 200, "[a-"):
            found(ProcessQuery(cmdline=pattern))
        assert time.monotonic() - began < 5
    finally:
        evil.kill()
        evil.wait()


def test_a_name_that_is_no_text_hides_nobody() -> None:
    rename = "import ctypes, time; ctypes.CDLL(None).prctl(15, b'\\xff\\xfe) S'); print(flush=True)"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{rename}; time.sleep(600)", MARK], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        assert process.pid in found(ProcessQuery(cmdline=MARK))
    finally:
        process.kill()
        process.wait()


def test_a_thread_of_the_kernel_and_pid_1_are_known_as_such() -> None:
    assert [process.pid for process in processes.find(ProcessQuery(pid=1))] == [1]
    assert not next(processes.find(ProcessQuery(pid=1))).kernel
    for process in processes.find(ProcessQuery(pid=2)):  # a container has none
        assert process.kernel == (process.name == "kthreadd")


def test_a_kill_is_read_back(host: Host, victims: list[subprocess.Popen[bytes]]) -> None:
    mine, other = victims
    effect = Kill(((mine.pid, found(ProcessQuery(pid=mine.pid))[mine.pid]),), "SIGKILL", True)
    assert ops(effect).verify(host, effect) == f"still there: [{mine.pid}]"
    apply(host, effect)
    assert mine.wait(5) == -signal.SIGKILL
    assert ops(effect).verify(host, effect) is None
    assert other.poll() is None


def test_a_kill_that_got_half_its_way_is_not_called_refused(
    host: Host, victims: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A security module, say, lets us signal the one and not the other."""
    first, second = victims
    send = processes.send

    def not_the_second(pid: int, start: int, name: str) -> bool:
        if pid == second.pid:
            raise PermissionError(1, "Operation not permitted")
        return send(pid, start, name)

    monkeypatch.setattr(processes, "send", not_the_second)
    known = found(ProcessQuery(cmdline=MARK))
    both = tuple((process.pid, known[process.pid]) for process in (first, second))
    with pytest.raises(NotInForce, match=f"{second.pid}.*1 had got it"):
        apply(host, Kill(both, "SIGKILL", True))
    with pytest.raises(Unsupported, match="CAP_KILL"):
        apply(host, Kill(both[1:], "SIGKILL", True))


def test_a_recycled_pid_is_never_touched(
    host: Host, victims: list[subprocess.Popen[bytes]]
) -> None:
    """The pid is in use, by a process that started at another time than the one chosen."""
    innocent = victims[0]
    start = found(ProcessQuery(pid=innocent.pid))[innocent.pid]
    effect = Kill(((innocent.pid, start - 1),), "SIGKILL", True)
    with pytest.raises(Unsupported, match="ended before"):
        apply(host, effect)
    assert innocent.poll() is None
    assert ops(effect).verify(host, effect) is None


def test_a_signal_that_is_ignored_is_not_called_a_kill(
    host: Host, wait_for: Callable[..., None]
) -> None:
    program = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(flush=True); time.sleep(600)"
    )
    stubborn = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        assert stubborn.stdout is not None
        stubborn.stdout.readline()
        start = found(ProcessQuery(pid=stubborn.pid))[stubborn.pid]
        effect = Kill(((stubborn.pid, start),), "SIGTERM", True)
        apply(host, effect)
        assert ops(effect).verify(host, effect) == f"still there: [{stubborn.pid}]"
        os.kill(stubborn.pid, signal.SIGKILL)
        wait_for(lambda: ops(effect).verify(host, effect) is None)  # a zombie is gone
    finally:
        stubborn.kill()
        stubborn.wait()


_LISTENS = """
import socket, sys, time
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
one = socket.socket(); one.bind(("127.0.0.1", 0)); one.listen()
print(one.getsockname()[1], flush=True)
time.sleep(600)
"""


def test_processes_are_found_by_the_port_at_which_their_cgroup_waits() -> None:
    root = mounts()["unified"]
    group = root / f"test-port-{os.getpid()}"
    group.mkdir()
    words = [sys.executable, "-c", _LISTENS, str(group)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        assert set(found(ProcessQuery(port=port))) == {process.pid}
        assert not found(ProcessQuery(port=port, cmdline="nosuch"))
        with socket.socket() as other:  # of a process in no cgroup of its own
            other.bind(("127.0.0.1", 0))
            other.listen()
            assert not found(ProcessQuery(port=other.getsockname()[1]))
    finally:
        process.kill()
        process.wait()
        group.rmdir()


_HANDLES = """
import signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: print("collected", flush=True))
print(flush=True)
time.sleep(600)
"""


def test_a_signal_is_kept_from_a_process_that_would_die_of_it(
    host: Host, victims: list[subprocess.Popen[bytes]]
) -> None:
    """As asked of the kernel when it is sent: what was true before may not be any more."""
    (victim,) = processes.find(ProcessQuery(pid=victims[0].pid))
    assert not victim.handles(signal.SIGUSR1)
    with pytest.raises(Unsupported, match="does not handle SIGUSR1"):
        apply(host, Kill(((victim.pid, victim.started),), "SIGUSR1", False, handled=True))
    time.sleep(0.2)
    assert victims[0].poll() is None


def test_a_signal_that_a_process_handles_reaches_it(host: Host) -> None:
    process = subprocess.Popen([sys.executable, "-c", _HANDLES], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        (found_one,) = processes.find(ProcessQuery(pid=process.pid))
        assert found_one.handles(signal.SIGUSR1)
        assert not found_one.handles(signal.SIGUSR2)
        kill = Kill(((found_one.pid, found_one.started),), "SIGUSR1", False, handled=True)
        apply(host, kill)
        assert process.stdout.readline() == b"collected\n"
        assert ops(kill).verify(host, kill) is None
    finally:
        process.kill()
        process.wait()
