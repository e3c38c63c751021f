"""Applies and reverts one fault again and again, by our engine and by its peers, and times it.

    python -m bench.latency.inside '{"kind": …, "params": …, "rounds": 15, …}'

Runs as root in a network namespace that nothing else uses: the guest kernel's only
one, or one of its own on the host. Every method's effect is seen once on the wire, or
in the counters, before it is timed. Results are lines of JSON after ``@bench`` on
standard output.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.latency.peers import Plan, call, plan, run_batches

from chaos_agent import snapshot
from chaos_agent.config import AgentConfig
from chaos_agent.effects import ops
from chaos_agent.engine import Engine
from chaos_agent.journal import Journal
from chaos_agent.linux.boottime import now_us
from chaos_agent.linux.host import Host
from chaos_agent.offers import node_view
from chaos_core.effects import Effect
from chaos_core.envelope import PROFILES
from chaos_core.faults import Fault, parse
from chaos_core.lease import Lease
from chaos_core.units import Duration

NEAR, PEER = "10.9.0.1", "10.9.0.2"
_TTL = Duration.parse("30s")  # so that nothing lapses before it is seen on a busy machine
_FAULT = "0000beef"


def tell(**what: Any) -> None:
    """Hand something out."""
    print("@bench", json.dumps(what), flush=True)  # the console may put other lines between


@contextmanager
def network() -> Iterator[int]:
    """A device ``v0`` and, at the other end of its wire, the peer: a process of its namespace."""
    peer = "unshare", "-n", "sleep", "900"
    there = subprocess.Popen(peer)
    try:
        ours, theirs = Path("/proc/self/ns/net"), Path(f"/proc/{there.pid}/ns/net")
        while ours.samefile(theirs):
            time.sleep(0.01)
        lines = ["link set lo up", f"link add v0 type veth peer name v1 netns {there.pid}"]
        call(["ip", "-batch", "-"], "\n".join([*lines, f"addr add {NEAR}/24 dev v0\n"]))
        enter = ["nsenter", f"--net=/proc/{there.pid}/ns/net"]
        call([*enter, "ip", "-batch", "-"], f"addr add {PEER}/24 dev v1\nlink set v1 up\n")
        call(["ip", "link", "set", "v0", "up"])
        yield there.pid
    finally:
        there.kill()
        there.wait()


def ping_ms() -> float:
    """The round trip to the peer; a hundred seconds when there is no answer."""
    words = ["ping", "-n", "-c", "3", "-i", "0.02", "-W", "1", PEER]
    said = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    times = [float(found) for found in re.findall(r"time=([\d.]+)", said)]
    return min(times[1:] or times or [100_000.0])


@dataclass(slots=True)
class Method:
    """A way to put the fault in force and to end it. ``here`` says whether it is in force."""

    name: str
    apply: Callable[[], object]
    revert: Callable[[], object]

    def timed(self) -> tuple[float, float]:
        """One round: seconds for each."""
        start = time.perf_counter()
        self.apply()
        applied = time.perf_counter() - start
        start = time.perf_counter()
        self.revert()
        return applied, time.perf_counter() - start


class Ours:
    """The engine, as the keeper runs it, with its journal on a disk."""

    def __init__(self, kind: str, params: dict[str, str], state: Path) -> None:
        self.host = Host()
        config = AgentConfig(node="n1", envelope=PROFILES["lab"], state=state)
        self.fault: Fault = parse(kind, params)
        self.engine = Engine(
            self.host, Journal(state), lambda fault: node_view(config, self.host, fault), now_us
        )

    @cached_property
    def compiled(self) -> tuple[Effect, ...]:
        """The fault's effects on this node, which stays as it is between the rounds."""
        return self.fault.compile(self.engine.view(self.fault), _FAULT)

    def lease(self) -> Lease:
        now = now_us()
        return Lease(_FAULT, "r-1", 1, now, now + _TTL, now + 60_000_000)

    def start(self) -> None:
        state = self.engine.start("r-1", self.fault, self.lease()).state
        assert state == "in_force", state

    def end(self) -> None:
        difference = self.engine.end(_FAULT, "revert").difference
        assert not difference, difference

    def plumb(self) -> None:
        """The effects alone: compiled before; no snapshot, no journal, no reading back after."""
        lease = self.lease()
        for effect in self.compiled:
            ops(effect).apply(self.host, effect, lease.hold_until, lease.hold_at_most)

    def unplumb(self) -> None:
        for effect in reversed(self.compiled):
            ops(effect).revert(self.host, effect)

    def steps(self) -> dict[str, float]:
        """The engine's steps one by one, in its order; seconds each."""
        took: dict[str, float] = {}
        at = time.perf_counter()

        def mark(step: str) -> None:
            nonlocal at
            took[step] = took.get(step, 0.0) + time.perf_counter() - at
            at = time.perf_counter()

        journal, lease = self.engine.journal, self.lease()
        at = time.perf_counter()
        view = self.engine.view(self.fault)
        mark("start: read the node's facts")
        effects = self.fault.compile(view, _FAULT)
        mark("start: compile")
        before = snapshot.take(self.host, snapshot.scope_of(effects))
        mark("start: snapshot")
        journal.intent(
            now_us(),
            fault=_FAULT,
            run="r-1",
            kind=self.fault.kind,
            to_apply=effects,
            before=before,
        )
        mark("start: journal, fdatasync")
        for effect in effects:
            ops(effect).apply(self.host, effect, lease.hold_until, lease.hold_at_most)
            mark(f"start: apply {type(effect).__name__}")
        for effect in effects:
            assert ops(effect).verify(self.host, effect) is None
            mark(f"start: read back {type(effect).__name__}")
        for effect in reversed(effects):
            ops(effect).revert(self.host, effect)
            mark(f"end: revert {type(effect).__name__}")
            assert ops(effect).absent(self.host, effect) is None
            mark(f"end: absent? {type(effect).__name__}")
        after = snapshot.take(self.host, snapshot.scope_of(effects))
        mark("end: snapshot")
        assert not snapshot.diff(before, after)
        mark("end: compare")
        journal.done(now_us(), fault=_FAULT, reason="revert", difference=[])
        mark("end: journal, fdatasync")
        return took

    def listing(self) -> snapshot.Snapshot:
        return snapshot.take(self.host, snapshot.scope_of(self.compiled))


def methods(ours: Ours, tcconfig: str) -> list[Method]:
    """Ours and its peers, each seen to do the same."""
    commands = plan(ours.compiled, _TTL // 1_000_000, socket.if_nametoindex("v0"))
    once = commands.batches("apply"), commands.batches("revert")
    found = [
        Method("engine", ours.start, ours.end),
        Method("plumbing", ours.plumb, ours.unplumb),
        Method("forked", lambda: commands.run("apply"), lambda: commands.run("revert")),
        Method("batched", lambda: run_batches(once[0]), lambda: run_batches(once[1])),
    ]
    if tcconfig:
        network = ["--delay", "50ms", "--network", PEER]
        set_, del_ = [f"{tcconfig}/{name}" for name in ("tcset", "tcdel")]
        found.append(
            Method(
                "tcconfig",
                lambda: call([set_, "v0", *network]),
                lambda: call([del_, "v0", "--all"]),
            )
        )
    _prove(found, ours, commands)
    return found


def _prove(found: list[Method], ours: Ours, commands: Plan) -> None:
    """See each method work, and that the first four build the very same."""
    bare = ping_ms()
    clean, built = ours.listing(), {}
    for method in found:
        start = time.perf_counter()
        method.apply()
        first = time.perf_counter() - start
        rtt = ping_ms()
        built[method.name] = ours.listing()
        method.revert()
        if method.name != "tcconfig":
            assert not snapshot.diff(clean, ours.listing()), method.name
            assert built[method.name] == built["engine"], (
                method.name,
                snapshot.diff(built["engine"], built[method.name]),
            )
        tell(seen=method.name, rtt=rtt, first=first)
        assert rtt > bare + 49, f"{method.name}: no effect, {rtt} ms"
    tell(
        commands=[len(commands.apply), len(commands.revert)],
        batches=[len(commands.batches("apply")), len(commands.batches("revert"))],
    )


def main() -> None:
    job = json.loads(sys.argv[1])
    with network():
        ours = Ours(job["kind"], {"peers": PEER, **job["params"]}, Path(job["state"]))
        found = methods(ours, job["tcconfig"])
        for number in range(job["rounds"]):
            for method in found:
                if method.name != "tcconfig" or number < job["tcconfig_rounds"]:
                    applied, reverted = method.timed()
                    tell(method=method.name, apply=applied, revert=reverted)
            tell(steps=ours.steps())
        ours.host.close()


if __name__ == "__main__":
    main()
