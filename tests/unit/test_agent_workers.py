"""What the keeper makes of what its workers say."""

from __future__ import annotations

import socket

import pytest

from chaos_agent.linux.systemd import Systemd
from chaos_agent.linux.workers import Workers, _Run
from chaos_core.errors import Unsupported


def test_a_warning_on_stderr_does_not_take_back_that_it_works() -> None:
    """Under systemd a service's stderr is its stdout, and Python writes there unasked."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    workers = Workers(Systemd(), {})
    workers._running["chs-0a1b2c3d-w"] = _Run(ours)
    with theirs:
        assert workers.look("chs-0a1b2c3d-w") == (0, "it is starting")
        theirs.send(b"4711 3 of 50 are open\n4711\n")
        theirs.send(b"Task was destroyed but it is pending!\ntask: <Task pending name='x'>\n")
        assert workers.look("chs-0a1b2c3d-w") == (4711, "")
        theirs.send(b"OSError: the port is taken\n")
    with pytest.raises(Unsupported, match="has ended: the port is taken"):
        workers.look("chs-0a1b2c3d-w")
