"""What firewalld's and ufw's tests share: faults in the node's own namespace."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.matrix.containers import wait_until

PORT = 8081

FAULTS: dict[str, tuple[str, dict[str, str]]] = {
    "loss out": ("network.loss", {"percent": "100%", "direction": "out"}),
    "loss in": ("network.loss", {"percent": "100%", "direction": "in"}),
    "partition": ("network.partition", {}),
    "partition reject": ("network.partition", {"action": "reject"}),
    "latency": ("network.latency", {"delay": "5s"}),
}


@contextmanager
def page() -> Iterator[None]:
    """A page of the node's at ``PORT``."""
    with socket.create_server(("10.66.0.1", PORT)) as server:

        def serve() -> None:
            while True:
                try:
                    call, _ = server.accept()
                except OSError:
                    return
                with call:
                    call.send(b"HTTP/1.0 200 OK\r\n\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def listing(run: Callable[..., str]) -> str:
    """All of the firewall's rules, without counters."""
    text = run("nft", "-s", "list", "ruleset") + run("iptables-legacy-save")
    return re.sub(r"(?m)^#.*\n|\[\d+:\d+\]|counter packets \d+ bytes \d+", "", text)


def settled(run: Callable[..., str]) -> str:
    """The same once nothing changes any more: a firewall builds its rules for a while here."""
    found = [listing(run)]

    def steady() -> bool:
        time.sleep(3)
        found.append(listing(run))
        return found[-1] == found[-2]

    wait_until(steady, "the firewall's rules keep changing")
    return found[-1]


def works_beside(
    run: Callable[..., str],
    outside: Any,
    made: Any,
    ends: Callable[[Any, str], None],
    name: str,
    meanwhile: Callable[[], object] = lambda: None,
) -> None:
    """The peer is hit and the bystander is not; the firewall is as it was."""
    kind, params = FAULTS[name]

    def bystander() -> bool:
        made.await_in_force(fault)
        return bool(outside.fetches(PORT, source="10.66.0.3"))

    with page():
        wait_until(lambda: outside.fetches(PORT), "the page is not reached without a fault")
        before = settled(run)
        fault = made.apply(kind, peers=outside.address, **params)
        made.await_in_force(fault)
        meanwhile()
        made.await_in_force(fault)
        for _ in range(10):
            time.sleep(1)
            made.await_in_force(fault)
        assert not outside.fetches(PORT)
        made.await_in_force(fault)
        wait_until(bystander, "the bystander is hit as well")
        ends(made, fault)
        wait_until(lambda: outside.fetches(PORT), "the page is not reached after the fault")
        assert settled(run) == before
