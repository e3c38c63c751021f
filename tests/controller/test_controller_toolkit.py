"""Chaos Toolkit drives the system: its own CLI, on a real controller and pretended effects."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from chaoslib.discovery.discover import discover_actions
from chaoslib.exceptions import ActivityFailed

from chaos_proto.v1 import chaos_pb2 as pb
from chaoschaosctl import actions, discover, probes

from .rig import Rig, until

CHAOS = Path(sys.executable).parent / "chaos"
LATENCY = {"peers": ["10.0.0.9"], "delay": "50ms"}


def configuration(rig: Rig) -> dict[str, str]:
    home = rig.home("operator/ci")
    return {"chaosctl_controller": rig.address, "chaosctl_pki": str(home)}


def activity(type_: str, func: str, **arguments: Any) -> dict[str, Any]:
    module = f"chaoschaosctl.{type_}s"
    provider = {"type": "python", "module": module, "func": func, "arguments": arguments}
    return {"type": type_, "name": func, "provider": provider}


def holds(func: str, tolerance: object, **arguments: Any) -> dict[str, Any]:
    return {**activity("probe", func, **arguments), "tolerance": tolerance}


def experiment(
    rig: Rig, *method: dict[str, Any], steady: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    return {
        "title": "web1 stands 50 ms",
        "description": "and is clean after",
        "configuration": configuration(rig),
        "steady-state-hypothesis": {"title": "well", "probes": steady or []},
        "method": list(method),
        "rollbacks": [],
    }


@asynccontextmanager
async def chaos(rig: Rig, told: dict[str, Any]) -> AsyncIterator[asyncio.subprocess.Process]:
    """`chaos run`, as a process of its own in a directory of its own."""
    home = rig.directory / "toolkit"
    home.mkdir()
    (home / "experiment.json").write_text(json.dumps(told))
    process = await asyncio.create_subprocess_exec(
        str(CHAOS), "--no-version-check", "--settings", "none.yaml", "run", "experiment.json",
        cwd=home, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def journal(rig: Rig) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((rig.directory / "toolkit" / "journal.json").read_text())
    return found


async def call(rig: Rig, what: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """An activity as the toolkit calls it, in this process."""
    return await asyncio.to_thread(what, *given, **named, configuration=configuration(rig))


async def runs(rig: Rig) -> list[pb.Run]:
    async with rig.operator("viewer/vi") as client:
        return list((await client.one("ListRuns", pb.ListRunsRequest())).runs)


async def test_chaos_run_reports_what_the_system_did_and_refused(rig: Rig) -> None:
    agent = await rig.agent("web1")
    params = {"kind": "network.latency", "nodes": ["web1"], "params": LATENCY}
    told = experiment(
        rig,
        activity("action", "inject", **params, duration="60s", background=True),
        activity("probe", "fault_in_force"),
        activity("action", "end_run", reason="seen enough"),
        activity("probe", "fault_in_force"),
        activity("action", "inject", **params, duration="200ms"),
        activity("probe", "run_verdict"),
        activity("action", "inject", **{**params, "params": {**LATENCY, "delay": "70ms"}},
                 duration="60s"),
        steady=[holds("nodes_connected", True, nodes=["web1"]), holds("nodes_clean", True)],
    )  # fmt: skip
    async with chaos(rig, told) as process:
        await process.wait()

    kept = journal(rig)
    assert (kept["status"], kept["deviated"]) == ("completed", False)
    first, seen, ended, after, second, verdict, refused = kept["run"]
    assert first["output"]["run"].startswith("r-")
    assert (seen["output"], ended["output"], after["output"]) == (True, "aborted", False)
    assert (second["output"]["verdict"], verdict["output"]) == ("held", "held")
    assert refused["status"] == "failed"
    assert "70 ms" in refused["exception"][-1] or "70ms" in refused["exception"][-1]
    assert len(agent.applied) == 2


async def test_faults_end_by_their_duration_when_the_toolkit_is_killed(rig: Rig) -> None:
    agent = await rig.agent("web1")
    inject = activity("action", "inject", kind="network.latency", nodes=["web1"], params=LATENCY,
                      duration="1s")  # fmt: skip
    async with chaos(rig, experiment(rig, inject)) as process:
        await until(agent.active, 10)
        process.kill()
        await process.wait()
        assert agent.active()  # nobody took it back: its end is its own
        await until(lambda: not agent.active())
    assert [fault.reason for fault in agent.faults.values()] == ["duration"]


async def test_an_interrupted_action_ends_its_run(rig: Rig) -> None:
    agent = await rig.agent("web1")
    inject = activity("action", "inject", kind="network.latency", nodes=["web1"], params=LATENCY,
                      duration="60s")  # fmt: skip
    async with chaos(rig, experiment(rig, inject)) as process:
        await until(agent.active, 10)
        process.send_signal(signal.SIGINT)
        await until(lambda: not agent.active())
        await process.wait()
    (run,) = await runs(rig)
    assert (run.verdict, "interrupted" in run.reason) == ("aborted", True)


SCENARIO = """
title: 20 ms
targets: {web: {names: [web1]}}
params: {delay: 20ms, kind: network.latency}
baseline: 100ms
recovery: {within: 1s, stable: 100ms}
timeline:
  - {fault: "${kind}", for: 100ms, with: {peers: [10.0.0.9], delay: "${delay}"}}
"""


async def test_a_scenario_is_one_action(rig: Rig, tmp_path: Path) -> None:
    agent = await rig.agent("web1")
    file = tmp_path / "slow.yaml"
    file.write_text(SCENARIO)
    done = await call(rig, actions.run_scenario, str(file), {"delay": "30ms"})
    assert done["verdict"] == "passed"
    assert json.loads(agent.applied[0].params)["delay"] == "30ms"
    assert await call(rig, probes.run_verdict) == "passed"
    for settings, said in (({"delay": "30"}, "slow.yaml:"), ({"kind": "clock.skew"}, "slow.yaml:")):
        with pytest.raises(ActivityFailed, match=said):
            await call(rig, actions.run_scenario, str(file), settings)
    with pytest.raises(ActivityFailed, match=r"none\.yaml"):
        await call(rig, actions.run_scenario, str(tmp_path / "none.yaml"))
    with pytest.raises(ActivityFailed, match="above the ceiling"):
        await call(rig, actions.run_scenario, str(file), {"delay": "60ms"})
    assert len(agent.applied) == 1


async def test_abort_latches_and_resume_lifts_it(rig: Rig) -> None:
    await rig.agent("web1")
    started = await call(
        rig, actions.inject, "network.latency", ["web1"], "60s", LATENCY, background=True
    )
    assert set(await call(rig, actions.abort, "enough")) == {"web1"}
    assert await call(rig, probes.run_verdict, started["run"]) == "aborted"
    with pytest.raises(ActivityFailed, match=r"aborted everything at .* → .*resume"):
        await call(rig, actions.inject, "network.latency", ["web1"], "60s", LATENCY)
    assert await call(rig, actions.resume, "looked at it") is True
    assert await call(rig, actions.resume, "again") is False


async def test_a_controller_that_is_lost_fails_the_action(rig: Rig) -> None:
    agent = await rig.agent("web1")
    asked = call(rig, actions.inject, "network.latency", ["web1"], "60s", LATENCY)
    waiting = asyncio.create_task(asked)
    await until(agent.active)
    await rig.restart()
    with pytest.raises(ActivityFailed, match="controller"):
        await asyncio.wait_for(waiting, 10)
    await until(lambda: not agent.active())


async def test_a_run_that_fails_is_an_activity_that_failed(rig: Rig) -> None:
    await rig.agent("web1", refuses="no room left")
    with pytest.raises(ActivityFailed, match=r"r-\w+ refused: .*no room left"):
        await call(rig, actions.inject, "network.latency", ["web1"], "1s", LATENCY)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "network.latencey"}, "network.latency"),
        ({"duration": "60"}, "duration: "),
        ({"nodes": "web1"}, "nodes: 'web1' is not a list"),
        ({"nodes": ["web9"]}, "web9"),
        ({"params": {"peers": ["10.0.0.9"], "delay": 50}}, "delay"),
        ({"kind": "unit.stop", "params": {"unit": "nginx.service"}}, "allow_risky"),
    ],
)
async def test_a_mistake_is_told_in_one_line(rig: Rig, changes: dict[str, Any], said: str) -> None:
    agent = await rig.agent("web1")
    asked: dict[str, Any] = {"kind": "network.latency", "nodes": ["web1"], "params": LATENCY,
                             "duration": "1s", **changes}  # fmt: skip
    with pytest.raises(ActivityFailed) as failed:
        await call(rig, actions.inject, **asked)
    assert said in str(failed.value)
    assert "\n" not in str(failed.value)
    assert not agent.applied


async def test_a_probe_of_a_node_that_nobody_knows_is_an_error_not_a_no(rig: Rig) -> None:
    await rig.agent("web1")
    with pytest.raises(ActivityFailed, match="there is no node 'web2' → known: web1"):
        await call(rig, probes.nodes_connected, ["web1", "web2"])
    with pytest.raises(ActivityFailed, match="operator/ci has started no run yet"):
        await call(rig, probes.run_verdict)


async def test_the_latest_run_is_of_the_identity_that_asks(rig: Rig) -> None:
    await rig.agent("web1")
    with pytest.raises(ActivityFailed, match="peers"):
        await call(rig, actions.inject, "network.latency", ["web1"], "1s", {"delay": "50ms"})
    mine = await call(rig, actions.inject, "network.latency", ["web1"], "50ms", LATENCY)
    async with rig.operator("operator/ann") as ann:
        await ann.inject("web1")
    assert (await runs(rig))[0].actor == "operator/ann"
    assert mine["verdict"] == await call(rig, probes.run_verdict) == "held"
    with pytest.raises(ActivityFailed, match="r-nope"):
        await call(rig, probes.fault_in_force, "r-nope")


def test_the_controller_is_named_by_configuration_or_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("CHAOSCTL_CONTROLLER", raising=False)
    with pytest.raises(ActivityFailed, match="no controller is named"):
        probes.nodes_clean()
    monkeypatch.setenv("CHAOSCTL_CONTROLLER", "127.0.0.1:1")
    monkeypatch.setenv("CHAOSCTL_PKI", str(tmp_path / "elsewhere"))
    with pytest.raises(ActivityFailed, match="elsewhere"):
        probes.nodes_clean()
    with pytest.raises(ActivityFailed, match="chaosctl_pki: 5 is not a text"):
        probes.nodes_clean(configuration={"chaosctl_pki": 5})


def test_the_toolkit_discovers_every_activity_with_its_types() -> None:
    found = {each["name"]: each for each in discover(discover_system=False)["activities"]}
    assert set(found) == {*actions.__all__, *probes.__all__}
    assert all(each["doc"] for each in found.values())
    types = {each["name"]: each["type"] for each in found["inject"]["arguments"]}
    assert types["kind"] == types["duration"] == "string"
    assert (types["nodes"], types["background"]) == ("list", "boolean")
    assert found["run_verdict"]["return_type"] == "string"
    assert len(discover_actions("chaoschaosctl.actions")) == len(actions.__all__)
