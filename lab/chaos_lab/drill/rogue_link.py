"""A taken-over link: asks the keeper, as the link's own user, for what it must refuse.

Runs on a node as user ``chaos`` with the real link stopped. Reads a JSON list of
cases ``{"name", "steps": [{"run", "kind", "params", "seconds"}]}`` from standard
input, sends each step over keeper.sock with a fresh and valid lease, and prints
for each case the states and reasons of its steps as JSON. All but the last step
of a case are expected to be in force.
"""

from __future__ import annotations

import json
import secrets
import socket
import sys
import time
from typing import Any

from chaos_core.messages import Apply, FaultStatus, Heartbeat, Revert, from_keeper

_SOCKET = "/run/chaos/keeper.sock"
_WAIT_S = 5.0


class RogueLink:
    """The link's end of the socket, without a link's manners."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.connect(_SOCKET)
        self._socket.settimeout(_WAIT_S)
        from_keeper(self._socket.recv(1 << 20))

    def heartbeat(self) -> Heartbeat:
        while True:
            message = from_keeper(self._socket.recv(1 << 20))
            if isinstance(message, Heartbeat):
                return message

    def ask(self, step: dict[str, Any]) -> FaultStatus:
        """Ask for one fault and return what became of it."""
        beat = self.heartbeat()
        fault = secrets.token_hex(4)
        self._send(
            Apply(
                epoch=beat.epoch,
                seq=beat.seq,
                ttl_us=3_000_000,
                run=step["run"],
                fault=fault,
                kind=step["kind"],
                params=json.dumps(step["params"]),
                duration_us=int(step["seconds"] * 1_000_000),
            )
        )
        deadline = time.monotonic() + _WAIT_S
        while time.monotonic() < deadline:
            for status in self.heartbeat().faults:
                if status.fault == fault and status.state != "applying":
                    return status
        raise TimeoutError(f"no word of {step}")

    def revert_all(self) -> None:
        self._send(Revert(reason="drill"))

    def _send(self, message: Apply | Revert) -> None:
        self._socket.send(message.model_dump_json().encode())


def main() -> None:
    """Play all cases."""
    link = RogueLink()
    results = {}
    for case in json.load(sys.stdin):
        states = [link.ask(step) for step in case["steps"]]
        link.revert_all()
        results[case["name"]] = [
            {"state": status.state, "code": status.code, "detail": status.detail}
            for status in states
        ]
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
