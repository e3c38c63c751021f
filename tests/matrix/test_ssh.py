"""sshd's socket under the release's systemd, at a port of its own: no fault cuts it off."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chaos_agent.linux import sshd

PORT, OTHER = 2222, 8088
_DROP_IN = Path("/run/systemd/system/ssh.socket.d/port.conf")


@pytest.fixture
def ssh_socket(shell: Callable[..., str]) -> Iterator[None]:
    """PID 1 listens for sshd, on port 2222."""
    _DROP_IN.parent.mkdir(parents=True)
    _DROP_IN.write_text(f"[Socket]\nListenStream=\nListenStream={PORT}\n")
    shell("systemctl", "daemon-reload")
    shell("systemctl", "stop", "ssh.service")
    shell("systemctl", "start", "ssh.socket")
    try:
        yield
    finally:
        shell("systemctl", "stop", "ssh.socket")
        _DROP_IN.unlink()
        _DROP_IN.parent.rmdir()
        shell("systemctl", "daemon-reload")


@pytest.mark.usefixtures("ssh_socket")
@pytest.mark.parametrize("direction", ["in", "both"])
def test_a_port_at_which_systemd_listens_for_sshd_is_left_alone(
    outside: Any,
    real_node: Callable[[], Any],
    ends: Callable[[Any, str], None],
    wait_for: Callable[..., None],
    direction: str,
) -> None:
    def problem(port: int) -> str:
        """Why a connection from outside is not made; empty when it is."""
        code = f"import socket; socket.create_connection(('{outside.node}', {port}), 2)"
        words = ["ip", "netns", "exec", "outside", sys.executable, "-S", "-c", code]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return done.stderr.strip().rpartition("\n")[2]

    node = real_node()
    assert PORT in {found.port for found in sshd.find(node.engine.host.systemd)}
    with socket.create_server(("", OTHER)):
        wait_for(lambda: problem(PORT) == "", 30)  # the wire is new
        assert problem(OTHER) == ""
        fault = node.apply("network.partition", peers=outside.address, direction=direction)
        assert node.status(fault).state == "in_force", node.status(fault).detail
        node.grant("r-1")
        assert problem(PORT) == ""
        node.grant("r-1")
        assert "timed out" in problem(OTHER)
        ends(node, fault)
        assert problem(OTHER) == ""
