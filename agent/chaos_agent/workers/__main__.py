"""``python -I -m chaos_agent.workers NAME PROGRAM DEADLINE_US EXPIRES_US PARENT ARGUMENTS``

Times are CLOCK_BOOTTIME in µs. The last holder of the lease is the kernel: the SIGKILL
timer of ``holder.py``. Renewals are lines on stdin with a new expiry; its end is the end,
so the keeper's death is ours. PARENT is a pid, for PR_SET_PDEATHSIG, or 0. Once the
program works, ``ready PID`` is written to stdout.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys

from chaos_agent.holder import Lease, die_with, obey


def main() -> None:
    _, _name, program, deadline_us, expires_us, parent, arguments = sys.argv
    lease = Lease(int(expires_us), int(deadline_us))
    if int(parent):
        die_with(int(parent))
    asyncio.run(_work(lease, program, json.loads(arguments)))


async def _work(lease: Lease, program: str, arguments: object) -> None:
    asyncio.get_running_loop().add_reader(0, obey, lease, 0)
    serve = importlib.import_module(f"chaos_agent.workers.{program}").serve
    await serve(arguments, lambda: os.write(1, f"ready {os.getpid()}\n".encode()))


if __name__ == "__main__":
    main()
