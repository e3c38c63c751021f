"""``python -I -m chaos_agent.workers NAME PROGRAM DEADLINE_US EXPIRES_US PARENT ARGUMENTS``

Times are CLOCK_BOOTTIME in µs. The last holder of the lease is the kernel: the SIGKILL
timer of ``holder.py``. Renewals are lines on stdin with a new expiry; its end is the end,
so the keeper's death is ours. PARENT is a pid, for PR_SET_PDEATHSIG, or 0. Once the
program works, ``ready PID`` is written to stdout.
"""

from __future__ import annotations

import _thread
import os
import sys

from chaos_agent.holder import Lease, die_with, obey


def main() -> None:
    _, _name, program, deadline_us, expires_us, parent, arguments = sys.argv
    lease = Lease(int(expires_us), int(deadline_us))
    if int(parent):
        die_with(int(parent))
    _thread.start_new_thread(_mind, (lease,))
    # On a slow machine these imports take longer than a lease: it is renewed meanwhile.
    import asyncio
    import importlib
    import json

    serve = importlib.import_module(f"chaos_agent.workers.{program}").serve

    def ready() -> None:
        os.write(1, f"ready {os.getpid()}\n".encode())

    asyncio.run(serve(json.loads(arguments), ready))


def _mind(lease: Lease) -> None:
    while True:
        obey(lease, None)


if __name__ == "__main__":
    main()
