"""Faults beside a rule set as kube-proxy makes it: thousands of nat rules that balance services."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from typing import Any

import pytest

SERVICES = 500
SERVICE = "10.96.0.7"


def rules() -> str:
    """Four rules and two chains a service; the seventh leads to the peer, the rest nowhere."""
    chains, body = [":KUBE-SERVICES - [0:0]", ":KUBE-MARK-MASQ - [0:0]"], []
    body += ["-A OUTPUT -j KUBE-SERVICES", "-A PREROUTING -j KUBE-SERVICES"]
    body += ["-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000"]
    for number in range(SERVICES):
        service, endpoint = f"KUBE-SVC-{number:04}", f"KUBE-SEP-{number:04}"
        ip = f"10.96.{number // 250}.{number % 250}"
        to = "10.9.0.2:7081" if ip == SERVICE else f"10.200.{number // 250}.{number % 250}:80"
        chains += [f":{service} - [0:0]", f":{endpoint} - [0:0]"]
        body += [
            f"-A KUBE-SERVICES -d {ip}/32 -p tcp -m tcp --dport 80 -j {service}",
            f"-A {service} -j {endpoint}",
            f"-A {endpoint} -s {to.split(':')[0]}/32 -j KUBE-MARK-MASQ",
            f"-A {endpoint} -p tcp -m tcp -j DNAT --to-destination {to}",
        ]
    return "\n".join(["*nat", *chains, *body, "COMMIT", ""])


def saved(sh: Callable[..., str], tool: str) -> str:
    text = re.sub(r"(?m)^#.*\n|\[\d+:\d+\]", "", sh(f"{tool}-save", "-t", "nat"))
    return "\n".join(line for line in text.splitlines() if "CHAOS-" not in line)


@pytest.mark.parametrize("tool", ["iptables-legacy", "iptables-nft"])
@pytest.mark.parametrize("direction", ["out", "in"])
def test_a_service_behind_thousands_of_rules_is_hit_and_they_stay(
    node: Any,
    net: Any,
    sh: Callable[..., str],
    ends: Callable[[Any, str], None],
    tool: str,
    direction: str,
) -> None:
    sh("ip", "route", "add", "default", "via", net.bystander[4])
    sh(f"{tool}-restore", stdin=rules())
    before = saved(sh, tool)
    assert before.count("-A ") > 4 * SERVICES

    def answered() -> bool:
        try:
            socket.create_connection((SERVICE, 80), 1.5).close()
        except OSError:
            return False
        return True

    with net.socket_there(4, socket.SOCK_STREAM) as server:
        server.bind((net.peer[4], 7081))
        server.listen()
        assert answered()
        fault = node.apply("network.loss", peers=net.peer[4], percent="100%", direction=direction)
        node.await_in_force(fault)
        assert not answered()
        node.grant("r-1")
        assert net.ping(net.bystander[4])
        assert saved(sh, tool) == before
        ends(node, fault)
        assert answered()
        assert saved(sh, tool) == before
