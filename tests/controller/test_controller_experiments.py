"""Experiments through the real controller, with pretended nodes and a real web server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from chaos_core.errors import ChaosError, InvalidInput, Latched, Refused
from chaos_experiment.record import Record
from chaos_proto.v1 import chaos_pb2 as pb

from .rig import Client, Rig, until

SCENARIO = """
title: The shop answers late
hypothesis: Nobody notices.
targets:
  web: {names: [n1]}
probes:
  shop: {http: {url: "${url}", rate: 40, timeout: 200ms}}
params: {url: "http://127.0.0.1:1/", delay: 20ms}
environments: {staging: {}}
environment: staging
baseline: 1s
steady_state: ["shop.p50 < 100ms over 800ms", "shop.error_rate < 50% over 800ms"]
during: ["shop.error_rate < 50%"]
abort_when: ["shop.error_rate > 60% over 400ms"]
recovery: {within: 3s, stable: 300ms}
timeline:
  - at: 0s
    for: 700ms
    fault: network.latency
    on: web
    with: {peers: [10.0.0.9], delay: "${delay}"}
  - {at: 100ms, note: look}
"""


@dataclass
class Shop:
    """A web server whose health is turned by the test."""

    port: int = 0
    status: int = 200
    served: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.served += 1
                head = f"HTTP/1.1 {self.status} X\r\ncontent-length: 2\r\n\r\n"
                writer.write(head.encode() + b"ok")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    shop = Shop()
    server = await asyncio.start_server(shop.serve, "127.0.0.1", 0)
    shop.port = server.sockets[0].getsockname()[1]
    yield shop
    server.close()


def asked(shop: Shop, text: str = SCENARIO, **settings: str) -> pb.ExperimentRequest:
    return pb.ExperimentRequest(name="shop.yaml", text=text, settings={"url": shop.url, **settings})


async def record_of(ann: Client, run: str) -> Record:
    parts = await ann.all("GetRecord", pb.GetRecordRequest(run=run))
    return Record.model_validate_json("".join(part.json for part in parts))


async def test_from_scenario_to_record(rig: Rig, shop: Shop) -> None:
    node = await rig.agent("n1")
    async with rig.operator() as ann:
        events = await ann.all("Experiment", asked(shop))
        run = events[0].run
        record = await record_of(ann, run)
        listed = await ann.one("ListRuns", pb.ListRunsRequest())
    assert (events[-1].verdict, record.verdict) == ("passed", "passed"), events[-1].text
    phases = ["preflight", "baseline", "inject", "observe", "recover", "verdict"]
    assert [span.phase for span in record.phases] == phases
    assert [event.text for event in record.events if event.what == "note"] == ["look"]
    (fault,) = record.faults
    assert (fault.kind, fault.nodes, fault.verdict) == ("network.latency", ["n1"], "held")
    assert fault.start_us is not None
    assert fault.end_us is not None
    assert fault.end_us - fault.start_us >= 600_000
    (probe,) = record.probes
    assert sum(point.count for point in probe.points) > 40
    judged = {(check.phase, check.held) for check in record.checks}
    assert judged == {("baseline", "yes"), ("during", "yes"), ("recovery", "yes"), ("abort", "no")}
    assert record.recovery_us is not None
    assert record.environment == "staging"
    assert "error rate" in {row.name for row in record.slo}
    (applied,) = node.applied
    assert applied.run == f"{run}-1"
    assert [found.id for found in listed.runs] == [run]  # not its step
    actions = [row["action"] for row in await rig.audit()]
    assert actions[-4:] == ["experiment", "inject", "verdict", "verdict"]


async def test_a_system_that_is_ill_is_not_hurt(rig: Rig, shop: Shop) -> None:
    node = await rig.agent("n1")
    shop.status = 500
    async with rig.operator() as ann:
        events = await ann.all("Experiment", asked(shop))
    assert events[-1].verdict == "refused"
    assert "shop.error_rate < 50%" in events[-1].text
    assert not node.applied


async def test_the_guard_ends_the_fault_when_it_hurts_too_much(rig: Rig, shop: Shop) -> None:
    node = await rig.agent("n1")
    text = SCENARIO.replace("for: 700ms", "for: 30s")

    def hurt(_: pb.Apply) -> None:
        shop.status = 500

    node.on_apply = hurt
    async with rig.operator() as ann:
        stream = ann.stub.Experiment(asked(shop, text))
        ended = None
        async for event in stream:
            if event.phase == "abort" and event.event == "phase":
                ended = event.at_us
                shop.status = 200
            last = event
    assert last.verdict == "aborted"
    assert "abort condition: shop.error_rate > 60%" in last.text
    assert ended is not None
    assert node.faults[node.applied[0].fault].reason == "revert"


async def test_an_abort_ends_it_and_nothing_begins_while_latched(rig: Rig, shop: Shop) -> None:
    node = await rig.agent("n1")
    async with rig.operator() as ann:
        task = asyncio.create_task(
            ann.all("Experiment", asked(shop, SCENARIO.replace("for: 700ms", "for: 30s")))
        )
        await until(node.active, 10)
        await ann.all("Abort", pb.AbortRequest(reason="enough"))
        events = await task
        assert (events[-1].verdict, events[-1].text) == ("aborted", "operator/ann: enough")
        assert not node.active()
        with pytest.raises(Latched):
            await ann.all("Experiment", asked(shop))


async def test_one_experiment_is_ended_and_nothing_is_latched(rig: Rig, shop: Shop) -> None:
    node = await rig.agent("n1")
    async with rig.operator() as ann:
        stream = ann.stub.Experiment(asked(shop, SCENARIO.replace("for: 700ms", "for: 30s")))
        async for event in stream:
            if event.phase == "observe" and event.event == "phase":
                await ann.one("End", pb.EndRequest(run=event.run, reason="Ctrl-C"))
            last = event
        assert (last.verdict, last.text) == ("aborted", "operator/ann: Ctrl-C")
        assert not node.active()
        assert (await ann.all("Experiment", asked(shop)))[-1].verdict == "passed"
        with pytest.raises(InvalidInput, match="unknown run"):
            await ann.one("End", pb.EndRequest(run="r-nosuch", reason="x"))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"delay": "60ms"}, Refused, "above the ceiling of 50ms"),
        ({"nobody": "1"}, InvalidInput, "nobody"),
        ({"delay": "fast"}, InvalidInput, "fast"),
    ],
)
async def test_what_is_not_allowed_is_refused_before_anybody_looks(
    rig: Rig, shop: Shop, change: dict[str, str], error: type[ChaosError], says: str
) -> None:
    await rig.agent("n1")
    async with rig.operator() as ann:
        with pytest.raises(error, match=says) as refused:
            await ann.all("Experiment", asked(shop, **change))
    if "delay" in change:
        assert "shop.yaml:" in str(refused.value)
    assert shop.served == 0
    assert not rig.controller.experiments.live


async def test_a_target_that_matches_nobody_is_refused(rig: Rig, shop: Shop) -> None:
    async with rig.operator() as ann:
        with pytest.raises(InvalidInput, match=r"shop\.yaml:5:targets\.web: "):
            await ann.all("Experiment", asked(shop))


async def test_two_faults_of_an_experiment_are_one_run_to_a_node(rig: Rig, shop: Shop) -> None:
    node, *_ = [await rig.agent(name, profile="staging") for name in ("n1", "n2", "n3")]
    second = """  - {at: 0s, for: 500ms, fault: cpu.stress, on: web, with: {percent: 10%}}
"""
    async with rig.operator() as ann:
        events = await ann.all("Experiment", asked(shop, SCENARIO + second))
        assert events[-1].verdict == "passed", events[-1].text
    assert len(node.applied) == 2


async def test_a_controller_that_restarts_closes_it_as_interrupted(rig: Rig, shop: Shop) -> None:
    node = await rig.agent("n1")
    async with rig.operator() as ann:
        stream: Any = ann.stub.Experiment(asked(shop, SCENARIO.replace("for: 700ms", "for: 30s")))
        async for event in stream:
            run = event.run
            if event.phase == "observe":
                break
        stream.cancel()
    await rig.restart()
    await until(lambda: not node.active())
    async with rig.operator() as ann:
        record = await record_of(ann, run)
    assert (record.verdict, record.reason) == (
        "interrupted", "its controller died; the leases ended it",
    )  # fmt: skip
    assert record.faults[0].kind == "network.latency"
    assert record.finished
