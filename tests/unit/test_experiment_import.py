"""Experiments of Chaos Toolkit's become scenarios, and what does not is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from chaos_core.errors import InvalidInput
from chaos_core.units import Duration
from chaos_experiment.load import load
from chaos_experiment.toolkit_import import Imported, convert
from chaosctl.main import main


def python(func: str, module: str = "chaoschaosctl.actions", **arguments: Any) -> dict[str, Any]:
    provider = {"type": "python", "module": module, "func": func, "arguments": arguments}
    return {"type": "action", "name": func, "provider": provider}


def inject(delay: str = "50ms", duration: str = "60s", **more: Any) -> dict[str, Any]:
    params = {"peers": ["10.0.0.7"], "delay": delay}
    return python("inject", kind="network.latency", nodes=["Web 1"], duration=duration,
                  params=params, **more)  # fmt: skip


def http(tolerance: object = 200, **more: Any) -> dict[str, Any]:
    provider = {"type": "http", "url": "${shop_url}/health", "timeout": 1.5, **more}
    return {"type": "probe", "name": "Shop answers!", "tolerance": tolerance, "provider": provider}


def experiment(*method: Any, probes: Any = (), **more: Any) -> dict[str, Any]:
    return {
        "title": "The shop stands a slow database",
        "description": "50 ms cost no order",
        "tags": ["Shop", "db"],
        "configuration": {
            "chaosctl_controller": "10.0.0.5",
            "shop_url": {"type": "env", "key": "SHOP", "default": "http://10.0.0.9"},
            "secret_url": {"type": "env", "key": "SECRET"},
            "slow": "40ms",
        },
        "steady-state-hypothesis": {"title": "The shop answers", "probes": list(probes)},
        "method": list(method),
        **more,
    }


def made(*method: Any, **more: Any) -> Imported:
    return convert(json.dumps(experiment(*method, **more), indent=1), "shop.json")


def test_what_maps_is_a_scenario_that_loads() -> None:
    slow = {**inject("${slow}"), "pauses": {"before": 5, "after": 2.5}}
    imported = made(slow, inject(duration="30s"), probes=[http()])
    assert not imported.left_out
    loaded = load(imported.text(), "shop.yaml", {"slow": "30ms"})
    assert loaded.scenario.title == "The shop stands a slow database"
    assert loaded.scenario.hypothesis == "The shop answers; 50 ms cost no order"
    assert loaded.scenario.tags == ("shop", "db")
    assert loaded.params == {"shop_url": "http://10.0.0.9", "slow": "30ms"}
    first, second = loaded.plan.steps
    assert (first.kind, str(first.at), str(first.duration)) == ("network.latency", "5s", "60s")
    assert first.params["delay"] == "30ms"
    assert second.at == Duration.parse("67500ms")
    assert loaded.targets["web-1"].names == ("Web 1",)
    (condition,) = loaded.plan.steady_state
    assert condition.text == "shop-answers.error_rate < 1%"
    probe = loaded.probes["shop-answers"]
    assert probe.model_dump()["expect_status"] == (200,)
    assert probe.timeout == Duration.parse("1500ms")


def test_what_went_on_in_the_background_goes_on_beside_what_follows() -> None:
    in_background = {**inject(), "background": True, "pauses": {"after": 10}}
    imported = made(in_background, inject("10ms", "20s"), inject("20ms", "5s"))
    steps = load(imported.text(), "x.yaml").plan.steps
    assert [(str(each.at), str(each.duration)) for each in steps] == [
        ("0s", "60s"), ("10s", "20s"), ("30s", "5s")
    ]  # fmt: skip


def test_a_body_that_matches_is_a_tolerance() -> None:
    rule = {"type": "regex", "target": "body", "pattern": "^ok"}
    scenario = made(inject(), probes=[http(rule), http([200, 204], headers={"A": "b"})]).data
    assert scenario["probes"]["shop-answers"]["http"]["body_matches"] == "^ok"
    second = scenario["probes"]["shop-answers-2"]["http"]
    assert (second["expect_status"], second["headers"]) == ([200, 204], {"A": "b"})


@pytest.mark.parametrize(
    ("activity", "why"),
    [
        (python("terminate_instances", "chaosaws.ec2.actions"), "a cloud's own API"),
        (python("kill_pod", "chaosk8s.pod.actions"), "Kubernetes"),
        (python("anything", "mine.actions"), "mine.actions: nothing is known"),
        (python("end_run"), "shorter"),
        (python("nothing"), "there is no action 'nothing'"),
        ({"ref": "before"}, "write it out"),
        ({"type": "probe", "name": "p", "provider": {"type": "http"}}, "all the time"),
        ({"type": "action", "name": "p", "provider": {"type": "process"}}, "`hook`"),
        (inject("50"), "delay"),
        (inject("50ms", "soon"), "soon"),
        (inject("${nowhere}"), "the configuration does not have it"),
        (python("inject", kind="cpu.sress", nodes=["n1"], duration="9s"), "cpu.stress"),
        (python("inject", kind="cpu.stress", duration="9s"), "names no nodes"),
        ({**inject(), "pauses": {"before": "soon"}}, "'soon' is no number"),
        ("text", "nothing is known"),
    ],
)
def test_an_activity_that_does_not_map_is_told_with_its_line(activity: Any, why: str) -> None:
    imported = made(inject(), activity)
    (told,) = imported.left_out
    lines = json.dumps(experiment(inject(), activity), indent=1).splitlines()
    assert why in told.why
    line = int(told.where.removeprefix("shop.json:"))
    before = "\n".join(lines[: line - 1])
    assert before.count('"type": "action"') >= 1  # it is of the second activity
    assert f"# not mapped: {told}" in imported.text()


@pytest.mark.parametrize(
    ("probe", "why"),
    [
        (http({"type": "jsonpath", "path": "$.x"}), "of type jsonpath"),
        (http(tolerance=True), "'true' has no counterpart"),
        (http(url="${secret_url}"), "known only when the toolkit runs"),
        (http(arguments={"q": "x"}), "`arguments`"),
        (http(url="shop"), "`url`: 'shop' is not a URL"),
        (http(timeout=900), "`timeout`: "),
        (python("nodes_clean", "chaoschaosctl.probes"), "by itself, before and after"),
        (python("query", "chaosprometheus.probes"), "`prometheus` probe"),
        ({"name": "x", "provider": {"type": "process", "path": "true"}}, "`command` probe"),
    ],
)
def test_a_probe_that_does_not_map_is_told(probe: Any, why: str) -> None:
    imported = made(inject(), probes=[probe])
    (told,) = imported.left_out
    assert why in told.why
    assert "probes" not in imported.data


def test_what_is_told_cannot_add_to_the_scenario() -> None:
    imported = made(inject(), {**python("x", "chaosaws.x"), "name": "x\ntitle: mine\u2028a: b"})
    assert "\ntitle: mine" not in imported.text()
    assert load(imported.text(), "x.yaml").scenario.title == "The shop stands a slow database"


def test_rollbacks_and_what_a_scenario_has_nothing_like_are_told() -> None:
    imported = made(inject(), rollbacks=[python("end_run")], controls=[{"name": "c"}])
    assert [(each.what, each.why.partition(":")[0]) for each in imported.left_out] == [
        ("controls", "a scenario has nothing like it"),
        ("end_run", "not needed"),
    ]


@pytest.mark.parametrize("text", ["[]", "{", '{"title": "x"}', '{"method": {}}', "{\t}"])
def test_what_is_no_experiment_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        convert(text, "x.json")
    assert refused.value.where.startswith("x.json")


def test_the_command_writes_a_file_once_and_exits_2_when_nothing_maps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, to = tmp_path / "e.json", tmp_path / "scenario.yaml"
    source.write_text(json.dumps(experiment(inject(), python("x", "chaosaws.x")), indent="\t"))
    assert main(["import", str(source), "--to", str(to)]) == 0
    assert "not mapped: " in capsys.readouterr().err
    assert load(to.read_text(), "scenario.yaml").plan.steps
    assert main(["import", str(source), "--to", str(to)]) == 2  # it is somebody's by now
    assert main(["import", str(source)]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["timeline"]
    assert main(["import", str(source), "-o", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["not_mapped"]) == 1
    source.write_text(json.dumps(experiment(python("x", "chaosaws.x"))))
    assert main(["import", str(source)]) == 2
    assert "nothing of it maps" in capsys.readouterr().err
    assert main(["import", str(tmp_path / "none")]) == 2
