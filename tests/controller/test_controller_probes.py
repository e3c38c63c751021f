"""What a controller's own file gives its probes, and what it refuses before anybody looks."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chaos_controller.config import Probes
from chaos_core.errors import InvalidInput
from chaos_experiment.record import Record
from chaos_proto.v1 import chaos_pb2 as pb

from .rig import Client, Rig

SCENARIO = """\
title: The queue stays short
targets: {{web: {{names: [n1]}}}}
probes:
  queue:
    {probe}
baseline: 300ms
steady_state: ["queue.{condition} over 300ms"]
recovery: {{within: 3s, stable: 200ms}}
timeline:
  - {{for: 300ms, fault: network.latency, with: {{peers: [10.0.0.9], delay: 20ms}}}}
"""
NUMBER = (sys.executable, "-c", "print(7)")


def asked(probe: str, condition: str = "value == 7") -> pb.ExperimentRequest:
    return pb.ExperimentRequest(
        name="q.yaml", text=SCENARIO.format(probe=probe, condition=condition)
    )


async def set_up(rig: Rig, probes: Probes) -> None:
    rig.changes["probes"] = probes
    await rig.restart()
    await rig.agent("n1")


async def refusal(ann: Client, request: pb.ExperimentRequest) -> str:
    with pytest.raises(InvalidInput) as refused:
        await ann.all("Experiment", request)
    return str(refused.value)


async def test_a_command_of_the_controllers_file_reaches_the_experiment(rig: Rig) -> None:
    await set_up(rig, Probes(commands={"depth": NUMBER}))
    async with rig.operator() as ann:
        events = await ann.all("Experiment", asked("command: {command: depth, interval: 100ms}"))
        parts = await ann.all("GetRecord", pb.GetRecordRequest(run=events[0].run))
    record = Record.model_validate_json("".join(part.json for part in parts))
    assert events[-1].verdict == "passed", events[-1].text
    assert {point.last for point in record.probes[0].points} == {7.0}


async def test_a_command_that_is_not_allowed_is_refused_with_its_place(rig: Rig) -> None:
    await set_up(rig, Probes(commands={"depth": NUMBER}))
    async with rig.operator() as ann:
        said = await refusal(ann, asked("command: {command: dept, interval: 100ms}"))
    assert "q.yaml:5:probes.queue.command.command: " in said
    assert "no command 'dept'" in said
    assert "allowed in [probes.commands]: depth" in said
    assert not rig.controller.experiments.live


async def test_a_secret_that_is_not_there_is_refused_with_its_place(
    rig: Rig, tmp_path: Path
) -> None:
    await set_up(rig, Probes(secrets=tmp_path))
    probe = (
        "postgres: {url: 'postgresql://me@127.0.0.1:1/shop', password: shop-db, interval: 100ms}"
    )
    async with rig.operator() as ann:
        said = await refusal(ann, asked(probe, "value < 1s"))
        assert "q.yaml:5:probes.queue.postgres" in said
        assert f"write {tmp_path}/shop-db" in said
        (tmp_path / "shop-db").write_text("secret\n")
        events = await ann.all("Experiment", asked(probe, "value < 1s"))
    assert events[-1].verdict == "refused"  # nobody listens there, which preflight finds
    assert "connection" in events[-1].text


@pytest.fixture
async def prometheus() -> AsyncIterator[int]:
    """Answers any query as Prometheus does one that it cannot parse."""
    said = b'{"status":"error","errorType":"bad_data","error":"parse error: unclosed"}'
    head = f"HTTP/1.1 400 Bad\r\ncontent-length: {len(said)}\r\nconnection: close\r\n\r\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head.encode() + said)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield int(server.sockets[0].getsockname()[1])
    server.close()


async def test_a_query_that_cannot_be_parsed_is_refused_before_anybody_looks(
    rig: Rig, prometheus: int
) -> None:
    await set_up(rig, Probes())
    probe = f"prometheus: {{url: 'http://127.0.0.1:{prometheus}', query: 'sum(', interval: 100ms}}"
    async with rig.operator() as ann:
        said = await refusal(ann, asked(probe))
    assert "q.yaml:5:probes.queue.prometheus.query: Prometheus says: parse error" in said


@pytest.mark.parametrize("host", ["10.9.8.7", "[fd09::1]", "169.254.169.254"])
async def test_no_probe_asks_a_protected_address(rig: Rig, host: str) -> None:
    protected = Probes.parse_networks(["10.9.0.0/16", "fd09::/16"])
    await set_up(rig, Probes(protected=protected))
    async with rig.operator() as ann:
        said = await refusal(
            ann, asked(f"http: {{url: 'http://{host}/', rate: 10}}", "error_rate < 1%")
        )
    assert "q.yaml:5:probes.queue.http: " in said
    assert "protected" in said


async def test_no_load_is_sent_to_the_controller_itself(rig: Rig) -> None:
    await set_up(rig, Probes())
    url = f"http://localhost:{rig.controller.port}/"
    async with rig.operator() as ann:
        said = await refusal(ann, asked(f"http: {{url: '{url}'}}", "error_rate < 1%"))
    assert "the controller itself" in said


SITE = """\
probes:
  backup: {{command: {{command: backup-age, interval: 100ms}}}}
preflight:
  - name: The backup is recent
    condition: backup.value < 24 over 300ms
    why: {why}
"""


def site_file(directory: Path, why: str = "what breaks for good is as old as it") -> Path:
    file = directory / "site.yaml"
    file.write_text(SITE.format(why=why))
    file.chmod(0o644)
    return file


@pytest.mark.parametrize(("age", "verdict"), [("3", "passed"), ("31", "refused")])
async def test_no_scenario_begins_without_what_the_site_asks(
    rig: Rig, tmp_path: Path, age: str, verdict: str
) -> None:
    commands = {"depth": NUMBER, "backup-age": (sys.executable, "-c", f"print({age})")}
    rig.changes["site"] = site_file(tmp_path)
    await set_up(rig, Probes(commands=commands))
    async with rig.operator() as ann:
        events = await ann.all("Experiment", asked("command: {command: depth, interval: 100ms}"))
        parts = await ann.all("GetRecord", pb.GetRecordRequest(run=events[0].run))
    record = Record.model_validate_json("".join(part.json for part in parts))
    assert events[-1].verdict == verdict, events[-1].text
    (line,) = [event.text for event in events if event.event == "preflight"]
    assert f"The backup is recent: backup.value < 24 over 300ms ({age})" in line
    (check,) = [each for each in record.checks if each.phase == "preflight"]
    assert (check.name, check.measured) == ("The backup is recent", age)
    assert {probe.name: probe.site for probe in record.probes} == {"queue": False, "backup": True}
    assert "backup" not in record.scenario


async def test_while_the_sites_file_is_wrong_nothing_begins(rig: Rig, tmp_path: Path) -> None:
    file = rig.changes["site"] = site_file(tmp_path)
    await set_up(rig, Probes(commands={"depth": NUMBER}))
    request = asked("command: {command: depth, interval: 100ms}")
    async with rig.operator() as ann:
        said = await refusal(ann, request)
        assert f"{file}:2:probes.backup.command.command: " in said
        file.chmod(0o666)
        assert "writable by others than root" in await refusal(ann, request)
        file.unlink()
        assert "cannot read the site's file" in await refusal(ann, request)
    with pytest.raises(InvalidInput, match="cannot read the site's file"):
        await rig.restart()
    site_file(tmp_path)
    await rig.start()
