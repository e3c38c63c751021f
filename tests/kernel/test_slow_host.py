"""What a host can keep waiting without end, and what must go on all the same: leases and ends.

A frozen disk, a mount whose server does not answer, a process whose memory nobody may look at.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chaos_agent.journal import Journal
from chaos_agent.linux import limits
from chaos_agent.linux.boottime import now_us
from chaos_core.messages import Revert

Sh = Callable[..., str]
SECOND = 1_000_000
# One thread writes to a page of a file on the frozen disk, and waits; another takes that page
# away, and waits for the first with the lock of the process's memory in its hand.
_UNREADABLE = """
import ctypes, mmap, os, sys, threading, time
libc = ctypes.CDLL(None)
file = open(sys.argv[1], "r+b")
area = mmap.mmap(file.fileno(), 4096)
page = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(area)))
os.setuid(int(sys.argv[2]))
print(flush=True)
sys.stdin.readline()
threading.Thread(target=lambda: libc.memset(page, 1, 1)).start()
time.sleep(0.3)
threading.Thread(target=lambda: libc.munmap(page, 4096)).start()
time.sleep(0.3)
print(flush=True)
"""


@pytest.fixture
def disk(tmp_path: Path, sh: Sh) -> Iterator[Path]:
    """A disk of its own, which a test may freeze."""
    image, place = tmp_path / "image", tmp_path / "disk"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(32 << 20)
    sh("mke2fs", "-q", "-t", "ext4", str(image))
    sh("mount", "-o", "loop", str(image), str(place))
    place.chmod(0o700)
    try:
        yield place
    finally:
        subprocess.run(["fsfreeze", "-u", str(place)], check=False, capture_output=True)
        sh("umount", "--lazy", str(place))


@pytest.fixture
def unreadable(disk: Path, sh: Sh) -> Iterator[list[int]]:
    """Processes whose command line nobody can read: root's, and somebody else's."""
    processes = []
    for user in ("0", "65534"):
        file = disk / user
        file.write_bytes(bytes(4096))
        argv = [sys.executable, "-I", "-S", "-c", _UNREADABLE, str(file), user]
        processes.append(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        assert processes[-1].stdout
        assert processes[-1].stdout.readline() == b"\n"
    sh("fsfreeze", "-f", str(disk))
    try:
        for process in processes:
            assert process.stdin
            assert process.stdout
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"\n"
        yield [process.pid for process in processes]
    finally:
        sh("fsfreeze", "-u", str(disk))
        for process in processes:
            process.kill()
            process.wait()


def test_a_frozen_disk_keeps_nothing_from_its_end_and_lets_nothing_begin(
    new_node: Callable[..., Any], disk: Path, net: Any, sh: Sh
) -> None:
    node = new_node(state=disk / "state")
    fault = node.partition()
    assert node.status(fault).state == "in_force"
    sh("fsfreeze", "-f", str(disk))
    began = time.monotonic()
    other = node.partition(peers="10.9.0.3", epoch=2)
    assert node.status(other).state == "refused"
    assert "the disk has not answered within 1 s" in node.status(other).detail
    assert not net.ping_from_peer(4, net.peer[4])
    node.supervisor.obey(Revert(fault=fault), now_us())
    assert (node.status(fault).state, node.status(fault).clean) == ("ended", True)
    assert net.ping_from_peer(4, net.peer[4])
    assert time.monotonic() - began < 5
    sh("fsfreeze", "-u", str(disk))
    node.engine.journal.close()
    assert Journal(disk / "state").open_intents() == []


def test_what_is_given_up_on_is_undone_in_the_journal_as_well(
    new_node: Callable[..., Any], disk: Path, sh: Sh
) -> None:
    node = new_node(state=disk / "state")
    sh("fsfreeze", "-f", str(disk))
    fault = node.partition(epoch=0)
    assert node.status(fault).state == "refused"
    assert node.engine.residue() == []
    sh("fsfreeze", "-u", str(disk))
    node.engine.journal.close()
    entries = list(Journal(disk / "state").entries())
    assert [entry["entry"] for entry in entries] == ["intent", "done"]
    assert entries[-1]["reason"] == "refused"


def test_a_mount_whose_server_does_not_answer_is_never_looked_at(
    node: Any, tmp_path: Path, users: Any
) -> None:
    standing = node.partition()
    place = tmp_path / "dead"
    place.mkdir()
    server = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={server},rootmode=40000,user_id=0,group_id=0".encode()
    assert libc.mount(b"dead", str(place).encode(), b"fuse", 0, options) == 0
    try:
        users.listing()
        began = time.monotonic()
        for kind, params in {
            "disk.fill": {"path": f"{place}/x", "size": "1MiB"},
            "io.stress": {"path": str(place)},
            "io.throttle": {"unit": "cron", "path": str(place), "write": "1MiB"},
        }.items():
            status = node.status(node.apply(kind, **params))
            assert status.state == "refused", status.detail
        assert limits.block_of(f"{place}/x") == ""
        assert time.monotonic() - began < 2
        assert node.status(standing).state == "in_force"
        node.supervisor.obey(Revert(), now_us())
        assert node.status(standing).clean
        assert node.engine.residue() == []
    finally:
        os.close(server)
        libc.umount2(str(place).encode(), 2)


def test_a_process_whose_memory_waits_holds_up_nobody(node: Any, unreadable: list[int]) -> None:
    for pid in unreadable:
        with pytest.raises(subprocess.TimeoutExpired):
            subprocess.run(["cat", f"/proc/{pid}/cmdline"], timeout=0.5, check=False)
    began = time.monotonic()
    fault = node.partition()
    holder = node.apply("cpu.stress", percent="1%")
    node.await_in_force(holder)
    assert node.engine.residue() != []  # looks at every process
    refused = node.apply("process.pause", cmdline="nobody-is-called-so")
    assert "cannot be read" in node.status(refused).detail
    node.supervisor.obey(Revert(), now_us())
    for one in (fault, holder):
        assert node.status(one).clean, node.status(one).detail
    assert node.engine.residue() == []
    assert time.monotonic() - began < 10
