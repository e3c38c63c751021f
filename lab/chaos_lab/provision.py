"""Installs the system on a fleet exactly as an operator would on VMs of their own.

The package is in the image already, with nothing enabled. What is left is what
the README says: a PKI and a token on the controller, enrolment on each node, the
agent's configuration, and the units.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from chaos_core.errors import LabError
from chaos_lab.fleet import Fleet
from chaos_lab.layout import CONTROLLER
from chaos_proto import files

MAIN_PORT, ENROLMENT_PORT = 7400, 7401
KEEPER_UNIT, LINK_UNIT = "chaos-agent.service", "chaos-link.service"
CONTROLLER_UNIT = "chaos-controller.service"
_READY_S = 120.0


def provision(fleet: Fleet, *, profile: str = "production", say: Callable[[str], None]) -> None:
    """Set up controller and nodes, and wait until every node is connected."""
    say("controller: PKI and service")
    set_up_controller(fleet)
    say(f"{', '.join(fleet.nodes)}: enrolment and services")
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda node: set_up_node(fleet, node, profile), fleet.nodes))
    wait_connected(fleet)
    say("all nodes are connected")


def set_up_controller(fleet: Fleet) -> None:
    """``pki init``, the unit, and the first operator's identity for this host."""
    ip = fleet.seat(CONTROLLER).ip
    fleet.exec(CONTROLLER, ["chaosctl", "pki", "init", "--name", CONTROLLER, "--name", ip])
    fleet.exec(CONTROLLER, ["systemctl", "enable", "--now", CONTROLLER_UNIT], timeout=60)
    home = operator_pki(fleet)
    home.mkdir(parents=True, exist_ok=True)
    identity = fleet.get(CONTROLLER, "/etc/chaos/pki/operator/admin/identity.pem")
    files.write(home / "identity.pem", identity, files.PRIVATE)


def set_up_node(fleet: Fleet, node: str, profile: str) -> None:
    """A token, enrolment, the configuration, and both units."""
    made = json.loads(
        operate(fleet, ["pki", "token", f"agent/{node}", "--ttl", "10m", "-o", "json"])
    )
    address = f"{fleet.seat(CONTROLLER).ip}:{ENROLMENT_PORT}"
    secret = ["--token", made["token"], "--ca-hash", made["ca_hash"]]
    fleet.exec(node, ["chaos-agent", "enrol", address, *secret], timeout=60)
    write_config(fleet, node, profile)
    fleet.exec(node, ["systemctl", "enable", "--now", KEEPER_UNIT, LINK_UNIT], timeout=180)


def write_config(
    fleet: Fleet, node: str, profile: str, extra: str = "", labels: Sequence[str] = ()
) -> None:
    """The node's own root-owned file, which alone decides its profile."""
    text = (
        f'[node]\nname = "{node}"\nlabels = {json.dumps(labels)}\n\n'
        f'[controller]\naddress = "{fleet.seat(CONTROLLER).ip}:{MAIN_PORT}"\n\n'
        f'[envelope]\nprofile = "{profile}"\n{extra}'
    )
    fleet.put(node, "/etc/chaos/agent.toml", text)


def operator_pki(fleet: Fleet) -> Path:
    """Where this host keeps the lab's operator identity."""
    return fleet.lab.home / "operator"


def operator_of(fleet: Fleet) -> tuple[str, Path]:
    """The controller's address, and the identity with which the lab's operator goes there."""
    return f"{fleet.seat(CONTROLLER).ip}:{MAIN_PORT}", operator_pki(fleet)


def operator_argv(fleet: Fleet, argv: list[str]) -> list[str]:
    """A host command that runs chaosctl as the lab's operator, inside the lab's network."""
    address, pki = operator_of(fleet)
    chaosctl = str(Path(sys.executable).with_name("chaosctl"))
    where = ["--controller", address, "--pki", str(pki)]
    return fleet.in_netns([chaosctl, *argv, *where])


def operate(fleet: Fleet, argv: list[str], *, timeout: float = 60.0) -> str:
    """Run chaosctl as the lab's operator and return what it printed. Raises LabError."""
    done = subprocess.run(
        operator_argv(fleet, argv), capture_output=True, text=True, timeout=timeout, check=False
    )
    if done.returncode:
        raise LabError(
            f"`chaosctl {' '.join(argv)}` ended with {done.returncode}: {done.stderr.strip()}"
        )
    return done.stdout


def wait_connected(fleet: Fleet, *, timeout: float = _READY_S) -> None:
    """Wait until the controller has a session with every node. Raises LabError."""
    deadline = time.monotonic() + timeout
    states: dict[str, str] = {}
    while time.monotonic() < deadline:
        try:
            nodes = json.loads(operate(fleet, ["nodes", "-o", "json"]))["nodes"]
        except LabError:
            nodes = []
        states = {node["name"]: node["state"] for node in nodes}
        if all(states.get(name) == "connected" for name in fleet.nodes):
            return
        time.sleep(0.3)
    raise LabError(f"not all nodes are connected after {timeout:g} s: {states}")
