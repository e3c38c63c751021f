"""Probes that look from nodes: the real link's, and what a controller makes of what nodes say."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from chaos_agent.allowed import ProbeRules
from chaos_controller import clock
from chaos_controller.watching import NodeClock, Watching, params
from chaos_core.errors import InvalidInput
from chaos_core.units import SECOND
from chaos_experiment.probes import Probe, kinds
from chaos_experiment.record import Record
from chaos_experiment.series import Observation
from chaos_proto.v1 import chaos_pb2 as pb

from .rig import Agent, Client, Rig, until
from .test_controller_experiments import Shop
from .test_controller_experiments import shop as shop
from .test_controller_link import Keeper, linked

SCENARIO = """\
title: The shop as n1 sees it
targets: {{web: {{names: [n1]}}}}
probes:
  it:
    {probe}
baseline: 400ms
steady_state: ["it.{condition} over 500ms"]
abort_when: ["it.{abort}"]
grace: 1s
recovery: {{within: 2s, stable: 300ms}}
timeline:
  - {{for: {length}, fault: network.latency, with: {{peers: [10.0.0.9], delay: 20ms}}}}
"""
HERE = ProbeRules(hosts=("127.0.0.1",), commands={"six": ("/usr/bin/printf", "6")})
MACHINE = pb.ProbeOffer(kinds=["host", "process"])


def made(kind: str, **fields: Any) -> Probe:
    return kinds()[kind].model_validate({"from": "web", **fields})


def asked(probe: str, condition: str, abort: str, length: str = "500ms") -> pb.ExperimentRequest:
    text = SCENARIO.format(probe=probe, condition=condition, abort=abort, length=length)
    return pb.ExperimentRequest(name="q.yaml", text=text)


async def record_of(ann: Client, run: str) -> Record:
    parts = await ann.all("GetRecord", pb.GetRecordRequest(run=run))
    return Record.model_validate_json("".join(part.json for part in parts))


@contextlib.asynccontextmanager
async def watching(rig: Rig, probe: Probe, node: str = "n1") -> AsyncIterator[list[Observation]]:
    """What the node sees by a probe, as it comes in."""
    seen: list[Observation] = []
    work = Watching(rig.controller.fleet).watch("it", probe, [node], seen.append)
    task = asyncio.create_task(work)
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def link(rig: Rig, said: list[str] | None = None) -> AsyncIterator[Keeper]:
    """The real link of n1, connected."""
    async with linked(rig, rig.home("agent/n1"), said, HERE) as keeper:
        await until(lambda: keeper.grants, 8)
        yield keeper


# ── the real link ─────────────────────────────────────────────────────────────────────────


async def test_an_experiment_sees_by_a_load_from_a_node(rig: Rig, shop: Shop) -> None:
    probe = f"http: {{url: '{shop.url}', rate: 40, timeout: 500ms, from: web}}"
    async with link(rig), rig.operator() as ann:
        events = await ann.all("Experiment", asked(probe, "error_rate < 50%", "error_rate > 90%"))
        record = await record_of(ann, events[0].run)
        served = shop.served
        await asyncio.sleep(0.4)
    assert events[-1].verdict == "passed", events[-1].text
    (seen,) = record.probes
    assert sum(point.count for point in seen.points) > 40
    assert {check.held for check in record.checks if check.phase != "abort"} == {"yes"}
    assert shop.served <= served + 4  # those under way: nothing looks after the end


async def test_what_the_link_sees_is_what_is_there(rig: Rig, shop: Shop) -> None:
    async with link(rig):
        started = clock.now()
        async with (
            watching(rig, made("host", metric="uptime", interval="100ms")) as uptime,
            watching(rig, made("command", command="six")) as six,
            watching(rig, made("tcp", address=f"127.0.0.1:{shop.port}")) as tcp,
            watching(rig, made("process", cmdline="chaos-no-such-thing")) as process,
        ):
            await until(lambda: len(uptime) > 10 and all((six, tcp, process)), 8)
        now = clock.now()
        for each in uptime:
            assert started <= each.at <= now
            assert each.value == pytest.approx(each.at, abs=1_500_000)  # its clock is ours here
        due = [each.at for each in uptime]
        steps = {round((b - a) / 1000) for a, b in zip(sorted(due), sorted(due)[1:], strict=False)}
        assert steps <= {99, 100, 101, 200}  # as they were due, however late they came
        assert (six[0].ok, six[0].value) == (True, 6)
        assert (tcp[0].ok, tcp[0].text) == (True, "connected")
        assert (process[0].ok, process[0].text) == (False, "n1: no process is chaos-no-such-thing")


async def test_probes_end_with_the_stream_and_begin_again_with_the_next(
    rig: Rig, shop: Shop
) -> None:
    async with link(rig) as keeper, watching(rig, made("http", url=shop.url, rate=50)) as seen:
        await until(lambda: len(seen) > 20, 8)
        links = keeper.links
        rig.controller.fleet.sessions["n1"].close("the test says so")
        await until(lambda: "n1" not in rig.controller.fleet.sessions)
        served = shop.served
        await asyncio.sleep(0.2)
        assert keeper.links > links or shop.served <= served + 2
        count = len(seen)
        await until(lambda: len(seen) > count + 20, 8)
        await rig.controller.stop()
        await asyncio.sleep(0.2)
        served = shop.served
        await asyncio.sleep(0.6)
        assert shop.served == served
        await rig.start()


async def test_the_link_refuses_what_its_node_does_not_allow_whoever_asks(rig: Rig) -> None:
    """A controller that has been taken over does not look at offers first."""
    said: list[str] = []
    async with link(rig, said) as keeper:
        refused = {
            "not in hosts": made("tcp", address="10.1.2.3:22", interval="100ms"),
            "not in commands": made("command", command="rm"),
            "no probe of this kind": made("file", path="/etc/passwd"),
        }
        for why, probe in refused.items():
            async with watching(rig, probe) as seen:
                await until(lambda seen=seen: seen, 8)  # type: ignore[misc]
                await asyncio.sleep(0.3)
            assert [each.ok for each in seen] == [False]
            assert why in seen[0].text
        session = rig.controller.fleet.sessions["n1"]
        watches = [
            pb.Watch(id="1", kind="../os", params="{}"),
            pb.Watch(id="2", kind="_watch", params="{}"),
            pb.Watch(id="3", kind="redis", params="{}"),
            pb.Watch(id="4", kind="host", params="[" * 9_000),
            pb.Watch(id="5", kind="host", params='{"from": "web", "metric": "\\u0000"}'),
            pb.Watch(id="6", kind="host", params=json.dumps({"from": "x" * 20_000})),
            pb.Watch(id="x" * 50, kind="host", params=params(made("host", metric="cpu"))),
        ]
        for watch in watches:
            session.send(pb.ToAgent(watch=watch))
        session.send(pb.ToAgent(unwatch=pb.Unwatch(id="nobody's")))
        count = len(keeper.grants)
        await until(lambda: len(keeper.grants) > count + 3, 8)
        assert rig.controller.fleet.sessions["n1"] is session
    assert all(line.isprintable() and len(line) < 2_000 for line in said)


async def test_no_more_look_at_once_than_the_link_bears(rig: Rig) -> None:
    async with link(rig) as keeper, contextlib.AsyncExitStack() as stack:
        many = [
            await stack.enter_async_context(watching(rig, made("host", metric="load")))
            for _ in range(17)
        ]
        await until(lambda: all(many), 8)
        refused = [seen[0].text for seen in many if not seen[0].ok]
        assert refused == ["n1: 16 probes look from here already"]
        count = len(keeper.grants)
        await until(lambda: len(keeper.grants) > count + 3, 8)
    assert len(keeper.grants) >= len(keeper.sent) - 3  # none was lost for probes


async def test_loads_add_up(rig: Rig, shop: Shop) -> None:
    async with link(rig), contextlib.AsyncExitStack() as stack:
        loads = [
            await stack.enter_async_context(
                watching(rig, made("http", url=shop.url, rate=80, timeout="100ms"))
            )
            for _ in range(3)
        ]
        await until(lambda: all(loads), 8)
        texts = [seen[0].text for seen in loads]
        assert texts.count("n1: more than 200 looks a second from one node") == 1


def test_a_link_without_probes_loads_nothing_for_them() -> None:
    code = (
        "import sys, chaos_agent.main, chaos_agent.serve, chaos_agent.link;"
        "print([m for m in ('chaos_experiment', 'psutil', 'httpx', 'dns') if m in sys.modules])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert shown.stdout == "[]\n"


# ── what a node says ──────────────────────────────────────────────────────────────────────


def test_a_message_that_was_held_up_shifts_nothing() -> None:
    found = NodeClock()
    found.heard(1_000, 5_000_300)
    found.heard(2_000, 5_001_200)  # the least delayed: our clock is 4,999,200 ahead, at the most
    found.heard(3_000, 9_000_000)  # held up for seconds
    assert found.here(3_000) == 5_002_200


def test_a_clock_that_drifts_is_followed() -> None:
    """50 ppm: the least difference of all would be 4 s off after a day."""
    found = NodeClock()
    for second in range(0, 86_400, 5):
        now = second * SECOND
        found.heard(round(now * (1 - 50e-6)), now + 700)
    assert found.here(round(now * (1 - 50e-6))) == pytest.approx(now, abs=8_000)


@pytest.mark.parametrize("ahead", [-3_600 * SECOND, 3_600 * SECOND])
async def test_what_a_node_saw_is_at_our_time_whenever_it_arrives(rig: Rig, ahead: int) -> None:
    node = await rig.agent("n1", ahead=max(ahead, -clock.now() // 2), offers=MACHINE)
    async with watching(rig, made("host", metric="cpu")) as seen:
        await until(lambda: node.watches)
        (watch,) = node.watches
        moments = []
        for number in range(5):
            moments.append(clock.now())
            due = moments[-1] + node.ahead
            batch = pb.Observations(
                sent_at_us=due,
                seen=[pb.Observation(watch=watch, due_us=due, ok=True, value=number)],
            )
            await asyncio.sleep(0.5 if number == 3 else 0)  # one is held up on its way
            await node.stream.write(pb.FromAgent(observations=batch))
            await asyncio.sleep(0.05)
        await until(lambda: len(seen) == 5)
    for each, moment in zip(seen, moments, strict=True):
        assert each.at == pytest.approx(
            moment, abs=200_000
        )  # µs: a busy machine is late, and 0.5 s is not that


async def test_what_cannot_be_is_not_kept(rig: Rig) -> None:
    node, other = [await rig.agent(name, offers=MACHINE) for name in ("n1", "n2")]
    async with watching(rig, made("host", metric="cpu")) as seen:
        await until(lambda: node.watches)
        (watch,) = node.watches
        now = clock.now()
        nan, huge = float("nan"), 1e300
        long = "a\nerror  forged\x1b[2J" * 99
        said = [
            pb.Observation(watch="nobody's", due_us=now, ok=True, value=1),
            pb.Observation(watch=watch, due_us=now - 60 * SECOND, ok=True, value=2),  # before
            pb.Observation(watch=watch, due_us=now + 60 * SECOND, ok=True, value=3),  # to come
            pb.Observation(watch=watch, due_us=2**64 - 1, ok=True, value=4),
            pb.Observation(watch=watch, due_us=now, ok=True, value=nan),
            pb.Observation(watch=watch, due_us=now, ok=True, value=huge),
            pb.Observation(watch=watch, due_us=now, text=long, value=5),
        ]
        await node.observe(*said)
        await other.observe(pb.Observation(watch=watch, due_us=now, ok=True, value=6))
        await until(lambda: len(seen) >= 3)
        await asyncio.sleep(0.1)
        assert [(each.ok, each.value) for each in seen] == [(False, None)] * 3
        assert [each.text for each in seen[:2]] == ["n1: what it told is no figure"] * 2
        assert seen[2].text.isprintable()
        assert len(seen[2].text) <= 320
        many = [pb.Observation(watch=watch)] * 257
        await node.observe(*many)
        await until(lambda: "257 observations" in node.ended_by)


async def test_a_node_that_says_nothing_ends_the_experiment(rig: Rig) -> None:
    """What only it could see cannot be told: the guard's grace."""
    node = await rig.agent("n1", offers=MACHINE)
    node.saw(40)

    def silent(_: pb.Apply) -> None:
        node.sees = lambda _: None

    node.on_apply = silent
    probe = "host: {metric: cpu, interval: 100ms, timeout: 300ms, from: web}"
    async with rig.operator() as ann:
        events = await ann.all(
            "Experiment", asked(probe, "mean < 80", "max > 95 over 1s", length="30s")
        )
        record = await record_of(ann, events[0].run)
    assert events[-1].verdict == "aborted"
    assert "it.max > 95 over 1s (cannot be evaluated for 1s" in events[-1].text
    assert not node.active()
    assert not node.watches
    fault, at = record.faults[0], {each.what: each.at_us for each in record.events}
    assert fault.start_us is not None
    assert at["guard"] - fault.start_us < 4_500_000


async def test_the_silence_of_one_node_is_not_lost_among_those_that_look(rig: Rig) -> None:
    nodes = [await rig.agent(name, offers=MACHINE) for name in ("n1", "n2")]
    for node in nodes:
        node.saw(40)
    seen: list[Observation] = []
    probe = made("host", metric="cpu")
    work = Watching(rig.controller.fleet).watch("it", probe, ["n1", "n2"], seen.append)
    task = asyncio.create_task(work)
    await until(lambda: len(seen) > 10)
    nodes[1].silent = True
    await until(lambda: any("n2 says nothing" in each.text for each in seen), 12)
    assert not any("n1" in each.text for each in seen)
    nodes[1].silent = False
    await until(lambda: seen[-1].ok)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await until(lambda: not nodes[0].watches and not nodes[1].watches)


@pytest.mark.parametrize(
    ("offers", "place", "says"),
    [
        (pb.ProbeOffer(), "http.url", "10.0.0.7 is not in hosts"),
        (pb.ProbeOffer(kinds=["http"], hosts=["10.0.1.0/24"]), "http.url", "allows: 10.0.1.0/24"),
        (pb.ProbeOffer(hosts=["10.0.0.7"]), "http", "no probe of kind http"),
    ],
)
async def test_a_probe_that_its_node_would_refuse_is_refused_before_anything_is_hurt(
    rig: Rig, offers: pb.ProbeOffer, place: str, says: str
) -> None:
    node: Agent = await rig.agent("n1", offers=offers)
    probe = "http: {url: 'http://10.0.0.7/', rate: 4, from: web}"
    async with rig.operator() as ann:
        with pytest.raises(InvalidInput) as refused:
            await ann.all("Experiment", asked(probe, "error_rate < 1%", "error_rate > 5%"))
    shown = str(refused.value)
    assert f"q.yaml:5:probes.it.{place}: n1: the node's agent.toml does not allow it" in shown
    assert says in shown
    assert not node.applied
    assert not node.watches
