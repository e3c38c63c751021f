"""The hard limits: refused by the agent itself, and the second node by the controller."""

from __future__ import annotations

import json
from typing import Any

from chaos_core.errors import Exit
from chaos_lab.drill.context import Drill
from chaos_lab.provision import CONTROLLER_UNIT, LINK_UNIT


def limits(drill: Drill) -> None:
    """Everything above the production envelope is refused, with the controller out of the way."""
    _check(drill, [*_by_the_agent(drill), *_second_node(drill)], len(_cases(drill)) + 2)


def limits_of_the_node(drill: Drill) -> None:
    """The same for one node, where there is no second."""
    _check(drill, _by_the_agent(drill), len(_cases(drill)))


def _check(drill: Drill, wrong: list[str], cases: int) -> None:
    drill.check(
        "limits.refused",
        "P1",
        "each request above the envelope is refused",
        "; ".join(wrong) or f"all {cases} refused",
        "",
        not wrong,
    )


def _cases(drill: Drill) -> list[dict[str, Any]]:
    peer = drill.ip("n2")

    def one(name: str, kind: str, seconds: float, **params: str) -> dict[str, Any]:
        return {"name": name, "steps": [_step("r-rogue", kind, seconds, params)]}

    half = {"percent": "10%"}
    return [
        one("51 ms", "network.latency", 60, peers=peer, delay="51ms"),
        one("41 ms ± 10 ms", "network.latency", 60, peers=peer, delay="41ms", jitter="10ms"),
        one("1.1 % loss", "network.loss", 60, peers=peer, percent="1.1%"),
        one("16 % CPU", "cpu.stress", 60, percent="16%"),
        one("11 % memory", "memory.stress", 60, percent="11%"),
        one("301 s", "network.latency", 301, peers=peer, delay="10ms"),
        one("61 s of loss", "network.loss", 61, peers=peer, percent="1%"),
        one("a partition", "network.partition", 10, peers=peer),
        {
            "name": "10 % + 10 % CPU",
            "steps": [
                _step("r-rogue", "cpu.stress", 30, half),
                _step("r-rogue", "cpu.stress", 30, half),
            ],
        },
        {
            "name": "a second run",
            "steps": [
                _step("r-rogue", "cpu.stress", 30, {"percent": "1%"}),
                _step("r-other", "cpu.stress", 30, {"percent": "1%"}),
            ],
        },
    ]


def _step(run: str, kind: str, seconds: float, params: dict[str, str]) -> dict[str, Any]:
    return {"run": run, "kind": kind, "params": params, "seconds": seconds}


def _by_the_agent(drill: Drill) -> list[str]:
    """Speak to n1's keeper as its own link, so that no controller is asked."""
    fleet = drill.fleet
    cases = _cases(drill)
    fleet.exec("n1", ["systemctl", "stop", LINK_UNIT])
    try:
        rogue = ["runuser", "-u", "chaos", "--", "/opt/chaosctl/bin/python3", "-m"]
        done = fleet.exec(
            "n1", [*rogue, "chaos_lab.drill.rogue_link"], input=json.dumps(cases), timeout=90
        )
    finally:
        fleet.exec("n1", ["systemctl", "start", LINK_UNIT])
    drill.wait_for(lambda: drill.node("n1")["state"] == "connected", "n1 to be back")
    results = json.loads(done.stdout)
    wrong = []
    for case in cases:
        *before, last = results[case["name"]]
        if any(step["state"] != "in_force" for step in before):
            wrong.append(f"{case['name']}: the first step was not in force: {before}")
        if (last["state"], last["code"]) != ("refused", "envelope"):
            wrong.append(f"{case['name']}: {last['state']} {last['code']} {last['detail']}")
    return wrong


def _second_node(drill: Drill) -> list[str]:
    """One node at a time, by the controller's store, also right after its restart."""
    wrong = []
    second = ["inject", "cpu.stress", "percent=1%", "-n", "n2", "--for", "5s", "--yes"]
    run = drill.inject("cpu.stress", "percent=5%", nodes=("n1",), seconds=60)
    run.reached("observe")
    code, _, said = drill.chaosctl(*second)
    if code != Exit.REFUSED:
        wrong.append(f"a second node: exit {code}: {said.strip()}")
    drill.fleet.exec("controller", ["systemctl", "kill", "-s", "KILL", CONTROLLER_UNIT])
    run.wait()
    code = Exit.CONTROLLER_UNREACHABLE
    said = ""

    def answered() -> bool:
        nonlocal code, said
        got, _, said = drill.chaosctl(*second)
        code = Exit(got)
        return code != Exit.CONTROLLER_UNREACHABLE

    drill.wait_for(answered, "the controller to be back")
    if code != Exit.REFUSED:
        wrong.append(f"a second node after the restart: exit {code}: {said.strip()}")
    drill.wait_for(
        lambda: drill.node("n1")["state"] == "connected" and not _active(drill, "n1"),
        "n1 to be clean after the restart",
    )
    return wrong


def _active(drill: Drill, name: str) -> list[dict[str, Any]]:
    return [
        fault for fault in drill.node(name)["faults"] if fault["state"] not in ("ended", "refused")
    ]
