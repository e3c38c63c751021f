"""What is preloaded into User-Mode Linux, under a process that does what UML does when it idles."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from chaos_lab import uml
from chaos_lab.layout import LabDir

_UML = """
import ctypes, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
what, interrupts = sys.argv[1], []
signal.signal(signal.SIGIO, lambda *_: interrupts.append("io"))
signal.signal(signal.SIGALRM, lambda *_: interrupts.append("timer"))

class Event(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("events", ctypes.c_uint32), ("data", ctypes.c_uint64)]

EPOLLIN, EPOLLET, ADD = 1, 1 << 31, 1
guest, host = os.pipe()
epoll = libc.epoll_create(64)
assert libc.epoll_ctl(epoll, ADD, guest, ctypes.byref(Event(EPOLLIN | EPOLLET, 0))) == 0
if what != "nothing":
    os.write(host, b"a packet whose signal is spent")
if what == "handled":
    assert libc.epoll_wait(epoll, ctypes.byref(Event()), 1, 0) == 1
signal.setitimer(signal.ITIMER_REAL, 1)
if what == "busy":
    libc.timer_settime.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    timer, armed = ctypes.c_void_p(), (ctypes.c_long * 4)(0, 0, 100, 0)
    assert libc.timer_create(1, None, ctypes.byref(timer)) == 0
    assert libc.timer_settime(timer, 0, armed, None) == 0
else:
    nobody = (ctypes.c_ulong * 16)()
    assert libc.sigsuspend(nobody) == -1 and ctypes.get_errno() == 4
print(*interrupts)
"""


@pytest.mark.parametrize(
    ("what", "interrupt"),
    [("nothing", "timer"), ("handled", "timer"), ("unhandled", "io"), ("busy", "io")],
)
def test_what_is_unhandled_interrupts_a_cpu_and_nothing_else_keeps_it_awake(
    what: str, interrupt: str, tmp_path: Path
) -> None:
    preloaded = uml.command(LabDir(tmp_path, tmp_path, tmp_path / "cache"), 0)[:-1]
    done = subprocess.run(
        [*preloaded, sys.executable, "-c", _UML, what], capture_output=True, text=True, timeout=20
    )
    assert (done.stdout.split(), done.stderr) == ([interrupt], ""), done
