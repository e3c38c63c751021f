"""The child that holds CPU or memory, and lets go when its lease ends, whatever happens.

Run as a program of its own, with nothing but the standard library, so that it
starts fast and weighs little::

    python -I -S holder.py NAME {burn|hold} COUNT DEADLINE_US EXPIRES_US PARENT CGROUP...

COUNT is the number of busy threads, or the bytes of anonymous memory to hold, this
interpreter's own included. Times are CLOCK_BOOTTIME in µs. Each CGROUP is a
directory, joined before any work is done; one that is gone ends this process.

The last holder of the lease is the kernel: a POSIX timer on CLOCK_BOOTTIME whose
signal is SIGKILL. It strikes a stopped process too. Renewals are lines with a new
expiry on stdin; none goes beyond DEADLINE_US, and the end of stdin is the end.
PR_SET_PDEATHSIG is the second line: the keeper's death is ours.

It is one process, so that one signal ends it whole. (Child processes would each
have to ask for that signal, and one stopped before it did would stay behind.)
"""

import _thread
import ctypes
import mmap
import os
import select
import signal
import sys

_CLOCK_BOOTTIME = 7
_TIMER_ABSTIME = 1
_SIGEV_SIGNAL = 0
_PR_SET_PDEATHSIG = 1
_CHUNK = 16 * 2**20  # bytes; some 10 ms of filling between two looks at stdin

_libc = ctypes.CDLL(None, use_errno=True)


class _Sigevent(ctypes.Structure):
    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signo", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("padding", ctypes.c_int * 12),
    )


class _Itimerspec(ctypes.Structure):
    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class Lease:
    """This process's life, in the kernel's hands. An expiry in the past ends it at once."""

    def __init__(self, expires_us: int, deadline_us: int) -> None:
        self._deadline_us = deadline_us
        self._timer = ctypes.c_void_p()
        event = _Sigevent(None, signal.SIGKILL, _SIGEV_SIGNAL)
        if _libc.timer_create(_CLOCK_BOOTTIME, ctypes.byref(event), ctypes.byref(self._timer)):
            raise OSError(ctypes.get_errno(), "timer_create")
        self.renew(expires_us)

    def renew(self, expires_us: int) -> None:
        """Let the kernel kill this process at ``expires_us``, or at the deadline if that is first.

        A time of 0 would disarm the timer, so it never gets below 1 µs.
        """
        until = max(1, min(expires_us, self._deadline_us))
        spec = _Itimerspec(0, 0, until // 1_000_000, until % 1_000_000 * 1_000)
        if _libc.timer_settime(self._timer, _TIMER_ABSTIME, ctypes.byref(spec), None):
            raise OSError(ctypes.get_errno(), "timer_settime")


def die_with(parent: int) -> None:
    """Be killed when ``parent`` dies; the check is for a death that came first.

    Must be called by the main thread: the kernel counts a thread's death as well.
    """
    if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        os._exit(1)


def obey(lease: Lease, timeout_s: float | None) -> None:
    """Take renewals from stdin, for ``timeout_s`` at most. Exits at its end."""
    if not select.select([0], [], [], timeout_s)[0]:
        return
    lines = os.read(0, 4096).split()
    if not lines:
        os._exit(0)
    lease.renew(int(lines[-1]))


def write(path: str, text: str) -> None:
    """Write to a kernel file. Raises OSError, which ends this process."""
    with open(path, "w") as file:  # noqa: PTH123 - pathlib weighs 1 MiB
        file.write(text)


def burn(workers: int) -> None:
    """Keep that many threads busy, in a C function, for which Python lets go of its lock.

    A Bessel function of the highest order touches no memory and takes seconds.
    """
    bessel = ctypes.CDLL("libm.so.6").jn
    bessel.argtypes = (ctypes.c_int, ctypes.c_double)
    bessel.restype = ctypes.c_double

    def work() -> None:
        while True:
            bessel(2**31 - 1, 1e10)

    for _ in range(workers):
        _thread.start_new_thread(work, ())


def anonymous() -> int:
    """Bytes of anonymous memory of this process, interpreter and all."""
    with open("/proc/self/smaps_rollup", "rb") as file:  # noqa: PTH123
        for line in file:
            if line.startswith(b"Anonymous:"):
                return int(line.split()[1]) * 1024
    raise OSError("no Anonymous: in smaps_rollup")


def hold(lease: Lease, size: int) -> list[mmap.mmap]:
    """Touch pages until this process has ``size`` bytes of them, heeding the lease meanwhile.

    They stay for as long as what is returned.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    held = []
    while (missing := size - anonymous()) >= mmap.PAGESIZE:
        while missing >= mmap.PAGESIZE:
            chunk = min(missing, _CHUNK) // mmap.PAGESIZE * mmap.PAGESIZE
            held.append(mmap.mmap(-1, chunk, flags=flags))
            missing -= chunk
            obey(lease, 0)
    return held


def main() -> None:
    _, work, count, deadline_us, expires_us, parent, *cgroups = sys.argv[1:]
    lease = Lease(int(expires_us), int(deadline_us))
    die_with(int(parent))
    write("/proc/self/oom_score_adj", "1000")
    for cgroup in cgroups:
        write(f"{cgroup}/cgroup.procs", str(os.getpid()))
    if work == "burn":
        burn(int(count))
    held = hold(lease, int(count)) if work == "hold" else []
    while True:
        obey(lease, None)
        assert held is not None  # referred to for as long as the lease lasts


if __name__ == "__main__":
    main()
