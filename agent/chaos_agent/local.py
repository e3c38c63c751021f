"""``chaos-agent apply --local``: one fault on this node, granted by whoever stands in front of it.

The same supervisor, engine and limits as under a controller; the leases are
granted in this process, so the fault ends with it.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

from chaos_agent.supervisor import Supervisor
from chaos_core.lease import TTL
from chaos_core.messages import Apply, FaultStatus, Grant
from chaos_core.units import Duration

_RUN = "local"
_GRANT_EVERY = 500_000  # µs


def apply(
    supervisor: Supervisor,
    *,
    fault: str,
    kind: str,
    params: Mapping[str, Any],
    duration: Duration,
    clock: Callable[[], int],
    tell: Callable[[FaultStatus], None],
) -> FaultStatus:
    """Apply, hold for ``duration`` or until a signal, revert; returns the last status.

    ``tell`` hears of each change of state.
    """
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _frame: stopped.append(received))
    epoch = supervisor.leases.epoch
    now = clock()
    request = Apply(
        epoch=epoch,
        seq=supervisor.heartbeat(now).seq,
        ttl_us=int(TTL),
        run=_RUN,
        fault=fault,
        kind=kind,
        params=json.dumps(dict(params)),
        duration_us=int(duration),
    )
    supervisor.obey(request, now)
    seen = ""
    granted_at = now
    while True:
        now = clock()
        heartbeat = supervisor.heartbeat(now)
        status = next(status for status in heartbeat.faults if status.fault == fault)
        if status.state != seen:
            seen = status.state
            tell(status)
        if status.state in ("ended", "refused") or (stopped and not supervisor.engine.standing):
            return status
        if stopped and status.state != "reverting":
            supervisor.end_all("stopped", now)
            continue
        if now - granted_at >= _GRANT_EVERY:
            granted_at = now
            supervisor.obey(
                Grant(epoch=epoch, seq=heartbeat.seq, ttl_us=int(TTL), runs=(_RUN,)), now
            )
        due = supervisor.next_wakeup() or now
        time.sleep(min(100_000, max(1_000, due - clock())) / 1_000_000)
        supervisor.tick(clock())
