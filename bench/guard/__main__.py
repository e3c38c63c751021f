"""Whether the guard ends what hurts, how soon, and whether it ends what does not.

    .venv/bin/python -m bench.guard --breaches 30 --quiet 3600 --to docs/safety-case

Breaches: while a fault is in force on the node, an app there is really hurt in five ways, one
for each kind of condition. The fault refuses connections from the node to a peer; what
counts is the time from the guard's breach to the first connection that succeeds again.

Quiet: for an hour an experiment watches another app, to which nothing is done, with conditions
of every kind as tight as production's, and nothing may end it.

All programs are real, and on this machine (``ground.py``); how long an abort takes on VMs
is ``bench.fleet.bound``'s to measure.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from bench.fleet import picture
from bench.guard.ground import NODE, PEER, PEER_PORT, Ground, Run, running, wait_for
from bench.guard.monitoring import Monitoring, asked, monitoring
from rich.console import Console
from rich.table import Table

from chaos_core.errors import ChaosError, LabError
from chaos_core.lease import ABORT_BOUND

_BOUND_S: Final = ABORT_BOUND / 1_000_000
_APP, _QUIET_APP = 8000, 8001
_URL: Final = f"http://{NODE}:{_APP}/"

_BREACH: Final = f"""\
title: The guard ends what hurts
targets: {{{{app: {{{{names: [n1]}}}}}}}}
probes:
  app: {{{{http: {{{{url: "{_URL}", rate: 20, timeout: 1s}}}}}}}}
  {{extra}}
baseline: 1s
steady_state: [{{steady}}]
abort_when: ["{{condition}}"]
grace: 3s
recovery: {{{{within: 30s, stable: 100ms}}}}
timeline:
  - for: 120s
    fault: network.reject
    with: {{{{peers: [{PEER}], ports: [{PEER_PORT}], protocol: tcp}}}}
"""

_QUIET: Final = """\
title: An hour in which nothing happens
targets: {{app: {{names: [n1]}}}}
probes:
  shop: {{http: {{url: "{url}", rate: 20}}}}
  alerts: {{alertmanager: {{url: "{alertmanager}"}}}}
  up: {{prometheus: {{url: "{prometheus}", query: "up"}}}}
baseline: 10s
steady_state: ["shop.error_rate < 0.1% over 10s", "shop.p99 < {p99} over 10s", "up.value == 1"]
abort_when:
  - shop.error_rate > 0.5% over 10s
  - shop.p99 > {p99} over 10s for 3s
  - health < 90 for 3s
  - alerts.value <= P2
  - up.value < 1
recovery: {{within: 60s, stable: 5s}}
timeline:
  - {{at: 0s, for: 2s, fault: network.reject, with: {{peers: ["10.79.0.250"]}}}}
  - {{at: {last}s, for: 2s, fault: network.reject, with: {{peers: ["10.79.0.250"]}}}}
"""

_HALTING: Final = "while kill -STOP $1; do sleep .4; kill -CONT $1; sleep .2; done"


@dataclass(frozen=True, slots=True)
class Way:
    """A way in which the app is hurt, and the condition that is to see it."""

    condition: str
    extra: str = ""
    steady: str = ""
    hurt: str = "stop"


WAYS: Final = {
    "error_rate": Way("app.error_rate > 0.5% over 2s"),
    "p99": Way("app.p99 > 250ms over 2s", hurt="slow"),
    "health": Way("health < 90", steady='"app.error_rate < 1% over 2s"'),
    "alert": Way(
        "alerts.value <= P2 over 2s",
        extra='alerts: {alertmanager: {url: "ALERTMANAGER", timeout: 1s}}',
        steady='"app.availability > 1% over 2s"',
    ),
    "blind": Way(
        "load.value > 9 over 2s",
        extra='load: {prometheus: {url: "PROMETHEUS", query: "min(up)", timeout: 1s}}',
        steady='"app.availability > 1% over 2s"',
        hurt="freeze",
    ),
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One breach, in seconds: from hurting the app to the guard's decision, from there to the
    end of every fault as the controller recorded it, and to the first connection that succeeds."""

    run: str
    noticed: float
    recorded: float
    clean: float
    reason: str


class NotBegun(LabError):
    """An experiment was over before its fault was in force."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.guard", description=__doc__)
    parser.add_argument("--breaches", type=int, default=30, help="of each condition")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--quiet", type=int, default=3600, help="seconds; 0 leaves it out")
    parser.add_argument("--p99", default="150ms", help="that the quiet time allows")
    parser.add_argument("--to", type=Path, required=True, help="directory for the results")
    wanted = parser.parse_args()
    wanted.to.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False, width=100)
    started = time.monotonic()

    def say(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - started:6.1f} s  {text}[/dim]")

    with (
        tempfile.TemporaryDirectory(prefix="chaos-guard-") as home,
        Ground(Path(home)) as ground,
        _quiet(ground, wanted.quiet, wanted.p99, wanted.to, say),
    ):
        if wanted.breaches:
            _breaches(ground, wanted.breaches, wanted.ways, wanted.to, say)
            _show(console, wanted.to)


# ── breaches ──────────────────────────────────────────────────────────────────────────────


class App:
    """The app that is hurt. It can be stopped and begun again."""

    def __init__(self, ground: Ground, port: int) -> None:
        program = str(Path(__file__).with_name("app.py"))
        self.argv = ground.at("node", [sys.executable, program, NODE, str(port)])
        self.log = ground.home / f"app-{port}.log"
        self._stack = ExitStack()
        ground.stack.callback(self._stack.close)
        self.begin()

    def begin(self) -> None:
        self.process = self._stack.enter_context(running(self.argv, self.log))

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def _breaches(ground: Ground, times: int, ways: list[str], to: Path, say: Any) -> None:
    kept = to / "guard.json"
    records: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    app = App(ground, _APP)
    tools = monitoring(ground, "breaches", _APP, 9090)
    for name in ways:
        samples: list[Sample] = []
        while len(samples) < times:
            _wait_well(ground, tools)
            try:
                samples.append(_breach(ground, name, app, tools))
            except NotBegun as why:  # a busy machine was not well before anything was hurt
                say(f"{name}, once more: {why}")
                continue
            last = samples[-1]
            counted = f"{name} {len(samples)} of {times}"
            say(f"{counted}: {last.noticed:.2f} s, clean {last.clean:.2f} s")
            records[name] = {
                "condition": WAYS[name].condition,
                "measured": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
                "load": round(os.getloadavg()[2], 1),
                "samples": [_rounded(asdict(sample)) for sample in samples],
            }
            kept.write_text(json.dumps(records, indent=1) + "\n")


def _breach(ground: Ground, name: str, app: App, tools: Monitoring) -> Sample:
    """One experiment that the guard has to end."""
    way = WAYS[name]
    extra = way.extra.replace("ALERTMANAGER", tools.alertmanager)
    extra = extra.replace("PROMETHEUS", tools.prometheus)
    file = ground.home / f"{name}.yaml"
    file.write_text(_BREACH.format(extra=extra, steady=way.steady, condition=way.condition))
    run = Run(ground, file)
    try:
        try:
            run.reached("observe")
            since = len(ground.heard)
            wait_for(lambda: not all(yes for _, yes in ground.heard[since:]), "a refusal", 10)
        except LabError as error:
            raise NotBegun(str(error)) from None
        with _hurting(way.hurt, app, tools) as hurt:
            run.reached("recover")
        run.wait()
        breach, recorded = run.when("guard"), run.when("fault", "clean")
        heard = ground.heard
        wait_for(lambda: heard[-1][0] > breach + _BOUND_S or heard[-1][1], "a connection", 30)
        clean = next(at for at, yes in heard if at > breach and yes)
        begun = next(at for at, yes in heard[since:] if not yes)
        if any(yes for at, yes in heard if begun < at < breach):
            raise LabError(f"{run.id}: a connection succeeded while the fault was in force")
    finally:
        if run.process.poll() is None:
            run.process.terminate()  # which ends the experiment
            run.process.wait()
    reason = next(event["text"] for _, event in run.events if event["event"] == "guard")
    return Sample(run.id, breach - hurt, recorded - breach, clean - breach, reason)


@contextmanager
def _hurting(how: str, app: App, tools: Monitoring) -> Iterator[float]:
    """The app stopped or slow, or its Prometheus frozen, in the block. Yields since when."""
    since = time.monotonic()
    with ExitStack() as back:
        if how == "stop":
            app.stop()
            back.callback(app.begin)
        elif how == "slow":  # it stands still two thirds of the time
            halting = ["bash", "-c", _HALTING, "halting", str(app.process.pid)]
            back.callback(app.process.send_signal, signal.SIGCONT)
            back.enter_context(running(halting, app.log))
        else:
            tools.server.send_signal(signal.SIGSTOP)
            back.callback(tools.server.send_signal, signal.SIGCONT)
        yield since


def _wait_well(ground: Ground, tools: Monitoring) -> None:
    """Until the app answers, is scraped, and no alert is active."""
    up, alerts = f"{tools.prometheus}/api/v1/query?query=up", f"{tools.alertmanager}/api/v2/alerts"
    wait_for(lambda: "app_requests" in asked(ground, _URL), "the app", 60)
    wait_for(lambda: '"1"]' in asked(ground, up), "a scrape", 60)
    wait_for(lambda: asked(ground, alerts).strip() == "[]", "the alerts to end", 120)


def _rounded(sample: dict[str, Any]) -> dict[str, Any]:
    return {
        name: round(value, 3) if isinstance(value, float) else value
        for name, value in sample.items()
    }


def _show(console: Console, to: Path) -> None:
    records: Mapping[str, Any] = json.loads((to / "guard.json").read_text())
    heads = ("condition", "breaches", "hurt to breach s", "breach to clean s", "worst", "bound")
    table = Table(*heads, title="medians; clean: the first connection that succeeds")
    for found in records.values():
        noticed = statistics.median(each["noticed"] for each in found["samples"])
        clean = [each["clean"] for each in found["samples"]]
        figures = (f"{value:.2f}" for value in (noticed, statistics.median(clean), max(clean)))
        table.add_row(found["condition"], str(len(clean)), *figures, f"{_BOUND_S:g}")
    console.print(table)
    picture.spread(
        to / "guard.svg",
        "From the guard's breach until the fault is gone, seen from outside",
        {name: [each["clean"] for each in found["samples"]] for name, found in records.items()},
        {f"promised {_BOUND_S:g} s": _BOUND_S},
    )


# ── quiet ─────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _quiet(ground: Ground, seconds: int, p99: str, to: Path, say: Any) -> Iterator[None]:
    """One long experiment beside what is done in the block; until it has ended."""
    if not seconds:
        yield
        return
    App(ground, _QUIET_APP)
    tools = monitoring(ground, "quiet", _QUIET_APP, 9190)
    time.sleep(5)  # until it has scraped
    file = ground.home / "quiet.yaml"
    file.write_text(
        _QUIET.format(
            url=f"http://{NODE}:{_QUIET_APP}/",
            alertmanager=tools.alertmanager,
            prometheus=tools.prometheus,
            p99=p99,
            last=seconds - 2,
        )
    )
    run = Run(ground, file)
    run.reached("observe", 120)
    say(f"the quiet time has begun: {run.id}")
    yield
    run.wait(seconds + 300)
    kept = to / "guard-quiet.json"
    kept.write_text(json.dumps(_account(ground, run.id), indent=1) + "\n")
    told = json.loads(kept.read_text())
    say(f"quiet: {told['verdict']} after {told['watched_s']} s watched: {told['reason']}")


def _account(ground: Ground, run: str) -> dict[str, Any]:
    """How a quiet experiment ended, without what each second of it was like."""
    report = ground.chaosctl("report", run, "-o", "json")
    record = json.loads(subprocess.run(report, capture_output=True, check=True).stdout)
    hurting = [each for each in record["phases"] if each["phase"] in ("inject", "observe")]
    watched = sum(each["end_us"] - each["start_us"] for each in hurting) / 1_000_000
    return {
        "run": run,
        "measured": record["finished"],
        "load": round(os.getloadavg()[2], 1),
        "watched_s": round(watched, 1),
        "looks": sum(point["count"] for each in record["probes"] for point in each["points"]),
        "verdict": record["verdict"],
        "reason": record["reason"],
        "spans": record["spans"],
        "checks": record["checks"],
    }


if __name__ == "__main__":
    try:
        main()
    except ChaosError as error:
        sys.exit(str(error))
