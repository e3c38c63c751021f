"""``python -I -m chaos_agent.workers NAME PROGRAM DEADLINE_US EXPIRES_US PARENT``

Times are CLOCK_BOOTTIME in µs. The last holder of the lease is the kernel: the SIGKILL
timer of ``holder.py``. The first line on stdin is what the program is told, as JSON: here,
since everybody can read arguments. Renewals are lines with a new expiry, also those that came
while a busy machine had not started this process yet: the timer is armed with the last of
them, before anything else is done. The end of stdin is the end, so the keeper's death is ours.
PARENT is a pid, for PR_SET_PDEATHSIG, or 0.
What the program tells is written to stdout, as lines with our pid before each.
"""

from __future__ import annotations

import _thread
import os
import sys

from chaos_agent.holder import Lease, die_with, obey, take_name

_MOST = 65_536  # bytes at once; what a program is told has a few hundred


def main() -> None:
    _, name, program, deadline_us, expires_us, parent = sys.argv
    told, _, renewals = _read().partition(b"\n")
    lease = Lease(int([expires_us.encode(), *renewals.split()][-1]), int(deadline_us))
    if int(parent):
        die_with(int(parent))
    take_name(name)
    from chaos_agent.notify import Notifier

    Notifier.from_environment().ready()  # the lease runs: it is the kernel that ends this process
    _thread.start_new_thread(_mind, (lease,))
    # On a slow machine these imports take longer than a lease: it is renewed meanwhile.
    import asyncio
    import importlib
    import json

    serve = importlib.import_module(f"chaos_agent.workers.{program}").serve

    last = ""

    def tell(text: str) -> None:
        nonlocal last
        line = f"{os.getpid()} {text}".strip()
        if line != last:
            os.write(1, f"{line}\n".encode())
        last = line

    asyncio.run(serve(json.loads(told), tell))


def _read() -> bytes:
    """What is on stdin by now: the first line, and whatever has come behind it."""
    data = b""
    while b"\n" not in data:
        more = os.read(0, _MOST)
        if not more:
            os._exit(0)
        data += more
    return data


def _mind(lease: Lease) -> None:
    while True:
        obey(lease, None)


if __name__ == "__main__":
    main()
