"""The system as installed on VMs: what the drill does not measure, and what must be refused.

Runs after test_lab.py, on the same fleet, which it provisions.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from chaos_core.errors import Exit
from chaos_core.lease import ABORT_BOUND
from chaos_lab import provision
from chaos_lab.drill.context import Drill
from chaos_lab.drill.measure import Pings, delayed
from chaos_lab.layout import CONTROLLER


def pings(system: Drill, source: str, address: str) -> bool:
    """Whether one of three pings is answered."""
    argv = ["ping", "-n", "-c", "3", "-i", "0.2", "-W", "1", address]
    return "time=" in system.fleet.exec(source, argv, check=False).stdout


def token(system: Drill, identity: str, ttl: str = "10m") -> dict[str, str]:
    code, out, err = system.chaosctl("pki", "token", identity, "--ttl", ttl, "-o", "json")
    assert code == Exit.DONE, err
    made: dict[str, str] = json.loads(out)
    return made


def enrol(
    system: Drill, secret: str, ca_hash: str, directory: str
) -> subprocess.CompletedProcess[str]:
    """Enrol on n1, into a directory of its own."""
    address = f"{system.ip(CONTROLLER)}:{provision.ENROLMENT_PORT}"
    argv = ["chaos-agent", "enrol", address, "--token", secret, "--ca-hash", ca_hash]
    done = system.fleet.exec("n1", [*argv, "--dir", directory], check=False)
    return subprocess.CompletedProcess(argv, done.returncode, done.stdout, done.stderr)


@contextmanager
def as_viewer(system: Drill) -> Iterator[list[str]]:
    """Options that make chaosctl on n1 a viewer."""
    made = token(system, "viewer/eve")
    done = enrol(system, made["token"], made["ca_hash"], "/root/viewer")
    assert done.returncode == 0, done.stderr
    address = f"{system.ip(CONTROLLER)}:{provision.MAIN_PORT}"
    yield ["--controller", address, "--pki", "/root/viewer"]
    system.fleet.exec("n1", ["rm", "-r", "/root/viewer"])


# ── faults that production refuses, and other families ────────────────────────────────────


@pytest.mark.parametrize(("action", "by_name"), [("drop", True), ("reject", False)])
def test_a_partition_cuts_both_ways_in_both_families_and_nobody_else(
    system: Drill, action: str, by_name: bool
) -> None:
    n2 = system.fleet.seat("n2")
    peers = "peers=n2" if by_name else f"peers={n2.ip},{n2.ip6}"
    with system.fault("network.partition", peers, f"action={action}", nodes=("n1",), seconds=60):
        for address in (n2.ip, n2.ip6):
            assert not pings(system, "n1", address)
        for address in (system.fleet.seat("n1").ip, system.fleet.seat("n1").ip6):
            assert not pings(system, "n2", address)
            assert pings(system, "n3", address)
        assert system.node("n1")["state"] == "connected"
    assert pings(system, "n2", system.ip("n1"))
    assert not system.node("n1")["quarantine"]


def test_a_topology_cuts_the_nodes_of_the_run_from_each_other(system: Drill) -> None:
    """The minority of three is the first: it alone carries the fault."""
    nodes = ("n1", "n2", "n3")
    with system.fault("network.partition", "topology=minority", nodes=nodes):
        for other in ("n2", "n3"):
            assert not pings(system, "n1", system.ip(other))
            assert not pings(system, other, system.fleet.seat("n1").ip6)
        assert pings(system, "n2", system.ip("n3"))
        carried = [
            any(f["state"] == "in_force" for f in system.node(name)["faults"]) for name in nodes
        ]
        assert carried == [True, False, False]
    assert pings(system, "n1", system.ip("n3"))


def test_latency_reaches_ipv6_and_leaves_the_other_direction_alone(system: Drill) -> None:
    n2 = system.fleet.seat("n2")
    with Pings(system.fleet, "n2", system.fleet.seat("n1").ip6) as wire:
        base = wire.median(2)
        with system.fault(
            "network.latency", f"peers={n2.ip6}", "delay=100ms", nodes=("n1",), seconds=60
        ):
            assert 90 < wire.median(3) - base < 120


def test_a_port_selects_what_is_delayed(system: Drill) -> None:
    """SSH is protected, ICMP has no port: only the port asked for is slow."""
    script = (
        "import socket, sys, time\n"
        "def took(port):\n"
        "    start = time.perf_counter()\n"
        "    try:\n"
        "        socket.create_connection((sys.argv[1], port), 5)\n"
        "    except ConnectionRefusedError:\n"
        "        pass\n"
        "    return (time.perf_counter() - start) * 1000\n"
        "print(*(min(took(port) for _ in range(5)) for port in (7007, 7008)))\n"
    )
    with system.fault(
        "network.latency",
        *(f"peers={system.ip('n2')}", "delay=100ms", "local_ports=7007"),
        nodes=("n1",),
        seconds=60,
    ):
        out = system.fleet.exec("n2", ["python3", "-c", script, system.ip("n1")]).stdout
    slow, quick = map(float, out.split())
    assert slow > 95
    assert quick < 60


# ── processes that die ────────────────────────────────────────────────────────────────────


def test_a_killed_keeper_is_restarted_recovers_and_the_run_says_so(system: Drill) -> None:
    run = system.inject(
        "network.latency", f"peers={system.ip('n2')}", "delay=200ms", nodes=("n1",), seconds=120
    )
    with Pings(system.fleet, "n2", system.ip("n1")) as wire:
        run.reached("observe")
        wire.wait(delayed(100))
        system.fleet.exec("n1", ["systemctl", "kill", "-s", "KILL", provision.KEEPER_UNIT])
        assert run.wait() == Exit.FAILED
        assert not delayed(100)(wire.replies[-1])
    provision.wait_connected(system.fleet)
    node = system.node("n1")
    assert not node["quarantine"]
    journal = system.fleet.get("n1", "/var/lib/chaos-agent/journal").decode()
    assert '"reason": "recover"' in journal.splitlines()[-1]


def test_a_run_whose_controller_died_is_closed_as_interrupted(system: Drill) -> None:
    run = system.inject("cpu.stress", "percent=10%", nodes=("n1",), seconds=120)
    run.reached("observe")
    system.fleet.exec(CONTROLLER, ["systemctl", "kill", "-s", "KILL", provision.CONTROLLER_UNIT])
    assert run.wait() == Exit.CONTROLLER_UNREACHABLE
    wait_open(system)
    _, out, _ = system.chaosctl("runs", "-o", "json")
    assert json.loads(out)["runs"][0]["verdict"] == "interrupted"


# ── what is refused ───────────────────────────────────────────────────────────────────────


def test_a_token_works_once_and_only_with_the_right_ca(system: Drill) -> None:
    made = token(system, "agent/n9")
    wrong = enrol(system, made["token"], "sha256:" + "0" * 64, "/root/n9")
    assert wrong.returncode == Exit.INVALID
    assert "CA" in wrong.stderr
    assert enrol(system, made["token"], made["ca_hash"], "/root/n9").returncode == 0
    again = enrol(system, made["token"], made["ca_hash"], "/root/n9-again")
    assert again.returncode in (Exit.INVALID, Exit.REFUSED)
    assert "token" in again.stderr
    assert "Traceback" not in again.stderr + wrong.stderr
    listing = system.fleet.exec("n1", ["ls", "/root"]).stdout
    assert "n9-again" not in listing
    system.fleet.exec("n1", ["rm", "-r", "/root/n9"])


def test_an_expired_token_is_refused(system: Drill) -> None:
    made = token(system, "agent/n9", ttl="1s")
    system.fleet.exec("n1", ["sleep", "1.5"])
    late = enrol(system, made["token"], made["ca_hash"], "/root/late")
    assert late.returncode in (Exit.INVALID, Exit.REFUSED)
    assert "expired" in late.stderr


def test_a_viewer_may_look_and_not_touch(system: Drill) -> None:
    with as_viewer(system) as options:
        look = system.fleet.exec("n1", ["chaosctl", "nodes", *options])
        assert "n1" in look.stdout
        for words in (
            ["inject", "cpu.stress", "percent=1%", "-n", "n1", "--for", "1s"],
            ["abort"],
            ["resume", "--reason", "x"],
            ["pki", "token", "operator/eve"],
        ):
            touch = system.fleet.exec("n1", ["chaosctl", *words, *options], check=False)
            assert touch.returncode == Exit.REFUSED, touch.stderr
            assert "viewer/eve" in touch.stderr


def test_an_agents_certificate_opens_nothing_for_operators(system: Drill) -> None:
    address = f"{system.ip(CONTROLLER)}:{provision.MAIN_PORT}"
    argv = ["chaosctl", "nodes", "--controller", address, "--pki", "/var/lib/chaos-link"]
    done = system.fleet.exec("n1", argv, check=False)
    assert done.returncode == Exit.REFUSED
    assert "agent/n1" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["inject", "cpu.stress", "percent=1%", "-n", "n7", "--for", "1s"], 2, "unknown node"),
        (["inject", "cpu.stress", "percent=51%", "-n", "n1", "--for", "1s"], 3, "ceiling"),
        (["inject", "cpu.stress", "percent=1%", "-n", "n1", "--for", "301s"], 3, "ceiling"),
        (["inject", "cpu.stress", "percent=1%", "-n", "n1", "-n", "n2", "--for", "1s"], 3, "nodes"),
        (["inject", "network.latency", "peers=127.0.0.1", "delay=1ms", "-n", "n1", "--for", "9s"],
         3, "itself"),
        (["inject", "network.latency", "peers=10.77.0.10", "delay=1ms", "-n", "n1", "--for", "9s"],
         3, "protected"),
        (["inject", "network.latency", "peers=controller", "delay=1ms", "-n", "n1", "--for", "9s"],
         3, "10.77.0.10/32 is protected"),
        (["runs", "show", "r-none"], 2, "r-none"),
    ],
)  # fmt: skip
def test_a_bad_request_is_one_clear_message_and_changes_nothing(
    system: Drill, words: list[str], code: int, said: str
) -> None:
    got, out, err = system.chaosctl(*words)
    assert (got, said in out + err) == (code, True), out + err
    assert "Traceback" not in err
    assert not [f for f in system.node("n1")["faults"] if f["state"] not in ("ended", "refused")]


def test_a_configuration_that_others_can_write_keeps_the_agent_from_starting(
    system: Drill,
) -> None:
    system.fleet.exec("n3", ["chmod", "666", "/etc/chaos/agent.toml"])
    try:
        done = system.fleet.exec("n3", ["chaos-agent", "run"], check=False)
        assert done.returncode == Exit.REFUSED
        assert "/etc/chaos/agent.toml: writable by others" in done.stderr
    finally:
        system.fleet.exec("n3", ["chmod", "644", "/etc/chaos/agent.toml"])


def test_a_node_out_of_reach_is_refused_with_6_and_no_controller_is_5(system: Drill) -> None:
    words = ["inject", "cpu.stress", "percent=1%", "-n", "n3", "--for", "1s"]
    system.fleet.exec("n3", ["systemctl", "stop", provision.LINK_UNIT])
    try:
        system.wait_for(lambda: system.node("n3")["state"] == "unreachable", "n3 to be missed")
        code, _, err = system.chaosctl(*words)
        assert (code, "n3" in err) == (Exit.NODE_UNREACHABLE, True)
    finally:
        system.fleet.exec("n3", ["systemctl", "start", provision.LINK_UNIT])
    provision.wait_connected(system.fleet)
    system.fleet.exec(CONTROLLER, ["systemctl", "stop", provision.CONTROLLER_UNIT])
    try:
        code, _, err = system.chaosctl(*words)
        assert (code, "Traceback" in err) == (Exit.CONTROLLER_UNREACHABLE, False)
    finally:
        system.fleet.exec(CONTROLLER, ["systemctl", "start", provision.CONTROLLER_UNIT])
    wait_open(system)


# ── certificates ──────────────────────────────────────────────────────────────────────────

IDENTITY = "/var/lib/chaos-link/identity.pem"


def certificates(system: Drill, identity: str) -> list[dict[str, str]]:
    """Those that hold, the newest last."""
    code, out, err = system.chaosctl("pki", "list", "-o", "json")
    assert code == Exit.DONE, err
    return [c for c in json.loads(out)["certificates"] if c["identity"] == identity]


def enrol_again(system: Drill, node: str) -> None:
    made = token(system, f"agent/{node}")
    address = f"{system.ip(CONTROLLER)}:{provision.ENROLMENT_PORT}"
    secret = ["--token", made["token"], "--ca-hash", made["ca_hash"]]
    system.fleet.exec(node, ["chaos-agent", "enrol", address, *secret, "--replace"], timeout=60)


def wait_open(system: Drill) -> None:
    """Wait until a controller that was started anew takes runs: not before the abort bound."""
    provision.wait_connected(system.fleet)
    time.sleep(ABORT_BOUND.seconds)


def restart(system: Drill, machine: str, unit: str) -> None:
    system.fleet.exec(machine, ["systemctl", "restart", unit], timeout=60)


@contextmanager
def short_lives(system: Drill) -> Iterator[None]:
    """Certificates that are issued meanwhile live for half a minute."""
    config = "/etc/chaos/controller.toml"
    system.fleet.put(CONTROLLER, config, 'certificate_life = "30s"\n')
    restart(system, CONTROLLER, provision.CONTROLLER_UNIT)
    wait_open(system)
    try:
        yield
    finally:
        system.fleet.exec(CONTROLLER, ["rm", config])
        restart(system, CONTROLLER, provision.CONTROLLER_UNIT)
        wait_open(system)


def test_the_sealed_link_renews_its_certificate_and_a_fault_is_held_through_it(
    system: Drill,
) -> None:
    """The fault lasts longer than the certificates of both ends of its stream."""
    with short_lives(system):
        enrol_again(system, "n1")
        restart(system, "n1", provision.LINK_UNIT)
        provision.wait_connected(system.fleet)
        known = {c["serial"] for c in certificates(system, "agent/n1")}
        run = system.inject("cpu.stress", "percent=10%", nodes=("n1",), seconds=40)
        assert run.wait() == Exit.DONE
        serials = {c["serial"] for c in certificates(system, "agent/n1")}
        assert serials - known, "it has not renewed"
        said = system.fleet.exec("n1", ["journalctl", "-u", provision.LINK_UNIT, "-n", "20"]).stdout
        assert "certificate renewed" in said
        since = said[said.rindex("session  ") :]  # of the one that opened the stream
        assert "no session" not in since
    owner = system.fleet.exec("n1", ["stat", "-c", "%U:%G %a", IDENTITY]).stdout.strip()
    assert owner == "chaos:chaos 600"
    enrol_again(system, "n1")
    restart(system, "n1", provision.LINK_UNIT)
    provision.wait_connected(system.fleet)


def test_a_revoked_node_is_out_and_comes_back_with_a_new_token(system: Drill) -> None:
    run = system.inject("cpu.stress", "percent=10%", nodes=("n2",), seconds=60)
    run.reached("observe")
    words = ["pki", "revoke", "agent/n2", "--reason", "it was sold", "--yes"]
    assert system.chaosctl(*words)[0] == Exit.DONE
    system.wait_for(lambda: system.node("n2")["state"] == "unreachable", "n2 to be out")
    system.abort()
    assert run.wait() == Exit.ABORTED
    said = system.fleet.exec("n2", ["journalctl", "-u", provision.LINK_UNIT, "-n", "20"]).stdout
    assert "was revoked by operator/admin" in said
    assert "it was sold" in said
    enrol_again(system, "n2")
    provision.wait_connected(system.fleet)
    system.resume()
    assert not system.node("n2")["quarantine"]
