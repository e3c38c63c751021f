"""The child that holds a resource, and lets go when its lease ends, whatever happens.

Run as a program of its own, with nothing but the standard library, so that it
starts fast and weighs little::

    python -I -S holder.py NAME DEADLINE_US EXPIRES_US PARENT [CGROUP...] -- WORK ARGUMENT...

Times are CLOCK_BOOTTIME in µs. Each CGROUP is a directory, joined before any work is
done; one that is gone ends this process. WORK is one of those in ``WORKS``.

The last holder of the lease is the kernel: a POSIX timer on CLOCK_BOOTTIME whose
signal is SIGKILL. It strikes a stopped process too. Renewals are lines with a new
expiry on stdin; none goes beyond DEADLINE_US, and the end of stdin is the end.
PR_SET_PDEATHSIG is the second line: the keeper's death is ours.

It is one process, so that one signal ends it whole. (Child processes would each
have to ask for that signal, and one stopped before it did would stay behind.) What it
holds goes with it: memory, descriptors, and files that never had a name.
"""

from __future__ import annotations

import _thread
import ctypes
import mmap
import os
import resource
import select
import signal
import sys
import time

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CLOCK_BOOTTIME = 7
_TIMER_ABSTIME = 1
_SIGEV_SIGNAL = 0
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_CHUNK = 16 * 2**20  # bytes; some 10 ms of filling between two looks at stdin
_STEP_S = 0.1  # between two steps of a ramp, and two tries where there is no room
# Where a ramp begins. With less, a burner that overruns its quota by a tick of the kernel's
# (up to 10 ms) would throttle the thread that minds the ramp and the lease for a second.
FIRST_QUOTA_US = 10_000
_CHURNED = 8 * 2**20  # bytes at once
_FEW = 1_000  # descriptors between two looks at stdin

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


def take_name(name: str) -> None:
    """Be known to the kernel as ``name``, of at most 15 bytes: so is a holder found again."""
    if _libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


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


def rest(lease: Lease, seconds: float) -> None:
    """Let so much time pass, heeding the lease."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        obey(lease, left)


def write(path: str, text: str) -> None:
    """Write to a kernel file. Raises OSError, which ends this process."""
    with open(path, "w") as file:  # noqa: PTH123 - pathlib weighs 1 MiB
        file.write(text)


def ramp(lease: Lease, ramp_us: int) -> Iterator[float]:
    """How much of the whole is due, step by step, up to 1. Without a ramp that is at once."""
    began = time.monotonic()
    while (due := (time.monotonic() - began) * 1_000_000) < ramp_us:
        yield due / ramp_us
        rest(lease, _STEP_S)
    yield 1.0


def burn(lease: Lease, cgroups: list[str], *given: str) -> None:
    """Keep so many threads busy, in a C function, for which Python lets go of its lock.

    A Bessel function of the highest order touches no memory and takes seconds. With a
    ramp, the quota is raised from ``FIRST_QUOTA_US`` to what was asked for.
    """
    workers, ramp_us, quota, period = map(int, given)
    bessel = ctypes.CDLL("libm.so.6").jn
    bessel.argtypes = (ctypes.c_int, ctypes.c_double)
    bessel.restype = ctypes.c_double

    def work() -> None:
        while True:
            bessel(2**31 - 1, 1e10)

    for _ in range(workers):
        _thread.start_new_thread(work, ())
    if ramp_us:
        for part in ramp(lease, ramp_us):
            now = max(min(FIRST_QUOTA_US, quota), int(part * quota))
            for cgroup in cgroups:
                if os.path.exists(f"{cgroup}/cpu.max"):  # noqa: PTH110
                    write(f"{cgroup}/cpu.max", f"{now} {period}")
                elif os.path.exists(f"{cgroup}/cpu.cfs_quota_us"):  # noqa: PTH110
                    write(f"{cgroup}/cpu.cfs_quota_us", str(now))


def anonymous() -> int:
    """Bytes of anonymous memory of this process, interpreter and all."""
    with open("/proc/self/smaps_rollup", "rb") as file:  # noqa: PTH123
        for line in file:
            if line.startswith(b"Anonymous:"):
                return int(line.split()[1]) * 1024
    raise OSError("no Anonymous: in smaps_rollup")


def hold(lease: Lease, _cgroups: list[str], *given: str) -> list[mmap.mmap]:
    """Touch pages until this process has so many bytes of them, heeding the lease meanwhile.

    The interpreter's own count. They stay for as long as what is returned.
    """
    size, ramp_us = map(int, given)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    held = []
    for part in ramp(lease, ramp_us):
        while (missing := int(part * size) - anonymous()) >= mmap.PAGESIZE:
            while missing >= mmap.PAGESIZE:
                chunk = min(missing, _CHUNK) // mmap.PAGESIZE * mmap.PAGESIZE
                held.append(mmap.mmap(-1, chunk, flags=flags))
                missing -= chunk
                obey(lease, 0)
    return held


def cache(lease: Lease, _cgroups: list[str], *given: str) -> int:
    """The same, in the page cache: a file in memory that has no name. Its descriptor."""
    size, ramp_us = map(int, given)
    file = os.memfd_create("chaos")
    done = 0
    for part in ramp(lease, ramp_us):
        while (missing := int(part * size) - anonymous() - done) >= mmap.PAGESIZE:
            chunk = min(missing, _CHUNK) // mmap.PAGESIZE * mmap.PAGESIZE
            os.posix_fallocate(file, done, chunk)
            done += chunk
            obey(lease, 0)
    return file


def churn(lease: Lease, _cgroups: list[str], *given: str) -> None:
    """Take memory, touch every page of it and give it back, so many bytes a second.

    Page by page, also where the kernel would give huge ones: by its count of them it is seen
    from outside. One that is late by more than a second forgets what it missed.
    """
    rate = int(given[0])
    block = max(mmap.PAGESIZE, min(_CHURNED, rate // 20) // mmap.PAGESIZE * mmap.PAGESIZE)
    due = time.monotonic()
    while True:
        taken = mmap.mmap(-1, block, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        try:  # noqa: SIM105 - contextlib is slow to import
            taken.madvise(mmap.MADV_NOHUGEPAGE)
        except OSError:  # a kernel that knows none
            pass
        taken[:: mmap.PAGESIZE] = bytes(block // mmap.PAGESIZE)
        taken.close()
        due = max(due + block / rate, time.monotonic() - 1)
        obey(lease, max(0.0, due - time.monotonic()))


def nameless(directory: str, device: str, flags: int = 0) -> int:
    """A new file without a name there, gone with this process. Raises OSError.

    ``device`` is the file system that was looked at; on another one nothing is made.
    """
    place = os.open(directory, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    if os.fstat(place).st_dev != int(device):
        raise OSError(f"{directory} is on another file system now")
    return os.open(".", os.O_TMPFILE | os.O_RDWR | flags, 0o600, dir_fd=place)


def fill(lease: Lease, _cgroups: list[str], directory: str, device: str, *given: str) -> int:
    """Give a nameless file so many bytes, but leave the reserve free. The descriptor.

    Where there is no room, because others have taken it meanwhile, it waits for some.
    """
    size, reserve = map(int, given)
    file = nameless(directory, device)
    done = 0
    while done < size:
        chunk = min(_CHUNK, size - done)
        room = os.fstatvfs(file)
        try:
            if room.f_bfree * room.f_frsize - chunk < reserve:
                raise OSError("the reserve would be touched")
            os.posix_fallocate(file, done, chunk)  # writes where the file system has no such call
            done += chunk
        except OSError:
            rest(lease, _STEP_S)
        obey(lease, 0)
    return file


def io(_lease: Lease, _cgroups: list[str], directory: str, device: str, *given: str) -> None:
    """Read and write a nameless file past the page cache, so many bytes a second in all.

    Each worker keeps to a schedule and to its own part of the file. One that is late by
    more than a second forgets what it missed: never is the rate exceeded to catch up.
    """
    mode, *numbers = given
    rate, workers, size = map(int, numbers)
    block = mmap.PAGESIZE
    while block < 2**20 and block * 40 * workers <= rate:  # 20 to 40 a second, or more
        block *= 2
    part = max(size // workers // block, 1) * block
    file = nameless(directory, device, os.O_DIRECT)
    os.posix_fallocate(file, 0, part * workers)

    def work(number: int) -> None:
        buffer = mmap.mmap(-1, block)  # aligned, as O_DIRECT wants it
        buffer.write(os.urandom(block))
        due, at, turn = time.monotonic(), 0, 0
        try:
            while True:
                lag = time.monotonic() - due
                if lag > 1:
                    due += lag
                elif lag < 0:
                    time.sleep(-lag)
                # The first round writes, whatever is wanted: what was never written is not read.
                reads = turn >= part // block and (mode == "read" or (mode == "both" and turn % 2))
                where = number * part + at
                (os.preadv if reads else os.pwritev)(file, [buffer], where)
                at = (at + block) % part
                turn += 1
                due += block * workers / rate
        except OSError:
            os._exit(1)

    for number in range(workers):
        _thread.start_new_thread(work, (number,))


def files(lease: Lease, _cgroups: list[str], *given: str) -> list[int]:
    """Open so many descriptors, but leave the reserve to the rest of the system.

    Where there are none left, because others have taken them meanwhile, it waits for some.
    """
    count, reserve = map(int, given)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    held: list[int] = []
    while len(held) < count:
        with open("/proc/sys/fs/file-nr") as file:  # noqa: PTH123
            taken, _, limit = map(int, file.read().split())
        some = min(count - len(held), _FEW, limit - taken - reserve)
        try:
            held.extend(os.open("/dev/null", os.O_RDONLY) for _ in range(some))
        except OSError:
            some = 0
        rest(lease, 0 if some > 0 else _STEP_S)
        obey(lease, 0)
    return held


WORKS: dict[str, Callable[..., object]] = {
    "burn": burn,
    "hold": hold,
    "cache": cache,
    "churn": churn,
    "fill": fill,
    "io": io,
    "files": files,
}


def main() -> None:
    _, name, deadline_us, expires_us, parent, *words = sys.argv
    lease = Lease(int(expires_us), int(deadline_us))
    die_with(int(parent))
    take_name(name)
    write("/proc/self/oom_score_adj", "1000")
    end = words.index("--")
    cgroups, (work, *arguments) = words[:end], words[end + 1 :]
    for cgroup in cgroups:
        write(f"{cgroup}/cgroup.procs", str(os.getpid()))
    _held = WORKS[work](lease, cgroups, *arguments)  # for as long as the lease lasts
    while True:
        obey(lease, None)


if __name__ == "__main__":
    main()
