"""Records of runs that never were: a service of some replicas that is hurt and recovers.

What the probes see is drawn at random from a seed, then goes the way that real observations
go: ``verdict.spans``, ``points``, ``slo_rows`` and ``score``. One call at 20 requests/s takes
some 20 ms.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Any

from chaos_core.units import Duration
from chaos_experiment import verdict
from chaos_experiment.conditions import parse
from chaos_experiment.plan import Slo
from chaos_experiment.record import Check, Event, FaultSpan, PhaseSpan, ProbeRecord, Record
from chaos_experiment.record import Verdict as Word
from chaos_experiment.series import Observation, Series

S = 1_000_000
BASELINE = 30 * S  # T
RATE = 20


@dataclass(frozen=True)
class World:
    """How the service fares: milliseconds and shares. ``slow_after`` is how long it stays hurt."""

    title: str = "Checkout stays up when one replica of three is slow"
    id: str = "x-7k2qd"
    seed: int = 1
    fault_s: int = 60
    median_ms: float = 12.0
    added_ms: float = 50.0
    failing: float = 0.002  # share of requests that fail while it is hurt
    slow_after_s: float = 6.0
    environment: str = "staging"
    day: int = 21
    abort_at_s: int | None = None  # after T


def simulated(world: World | None = None, **changes: Any) -> Record:
    """One run from preflight to verdict, in ``World()`` with ``changes``."""
    world = replace(world or World(), **changes)
    random = Random(world.seed)  # noqa: S311
    hurt_from = BASELINE + 300_000
    ended = BASELINE + (world.abort_at_s or world.fault_s) * S
    well_at = ended + round(world.slow_after_s * S)
    aborted = world.abort_at_s is not None
    end = well_at + 12 * S
    series = Series()
    for number in range(end * RATE // S):
        at = number * S // RATE
        hurt = hurt_from <= at < well_at
        took = world.median_ms * random.lognormvariate(0, 0.22)
        if hurt and random.random() < 1 / 3:  # one replica of three
            took += world.added_ms * random.lognormvariate(0, 0.08)
        ok = random.random() >= (world.failing if hurt else 0)
        text = "" if ok else "503 Service Unavailable"
        series.add(Observation("shop", at, ok, took * 1000 if ok else None, text))
    for at in range(0, end, 5 * S):
        lag = random.uniform(0.1, 0.4) + (2.5 if hurt_from <= at < well_at else 0)
        series.add(Observation("replica-lag", at, True, lag))
    health = [
        (at, round(100 - (14 + random.random() * 3 if hurt_from <= at < well_at else 0), 1))
        for at in range(0, end, S)
    ]
    phases = [
        PhaseSpan(phase=phase, start_us=start, end_us=stop)
        for phase, start, stop in (
            ("preflight", 0, 400_000),
            ("baseline", 400_000, BASELINE),
            ("inject", BASELINE, hurt_from),
            ("observe", hurt_from, ended),
            ("abort" if aborted else "recover", ended, end),
        )
    ]
    first_bad = next(
        (p.at_us + S for p in verdict.points(series, "shop", 0, end) if (p.p99 or 0) > 40_000), None
    )
    checks = _checks(series, phases, ended, well_at, end)
    if aborted:
        checks.append(
            Check(phase="abort", condition="shop.error_rate > 5% over 5s for 5s", held="yes",
                  measured="7.25 %")
        )  # fmt: skip
    held = all(check.held == "yes" for check in checks if check.phase != "abort")
    word: Word = "aborted" if aborted else "passed" if held else "failed"
    record = Record(
        id=world.id,
        title=world.title,
        hypothesis="With one slow replica, checkout answers within 100 ms and loses no order.",
        tags=["network", "staging-drill"],
        scenario="scenarios/latency.yaml",
        environment=world.environment,
        level="medium",
        params={"delay": f"{world.added_ms:g}ms", "for": f"{world.fault_s}s"},
        actor="ci@example.com",
        started=f"2026-11-{world.day:02}T02:00:00Z",
        finished=f"2026-11-{world.day:02}T02:01:48Z",
        targets={"slow": ["web-2"], "clients": ["web-1", "web-3"]},
        injected_us=BASELINE,
        phases=phases,
        events=_events(world, first_bad, hurt_from, ended, well_at, word),
        faults=[
            FaultSpan(step=1, kind="network.latency", params={"delay": f"{world.added_ms:g}ms"},
                      nodes=["web-2"], start_us=hurt_from, end_us=ended,
                      verdict="aborted" if aborted else "held",
                      reason="in force as asked, and clean after"),
        ],
        probes=[
            ProbeRecord(name="shop", kind="http", unit="duration",
                        points=verdict.points(series, "shop", 0, end)),
            ProbeRecord(name="replica-lag", kind="postgres", unit="",
                        points=verdict.points(series, "replica-lag", 0, end)),
        ],
        spans=verdict.spans(series, phases),
        health=health,
        checks=checks,
        detection_us=None if first_bad is None else first_bad - hurt_from,
        recovery_us=well_at - ended,
        mttr_us=None if first_bad is None else well_at - first_bad,
        total_us=well_at - BASELINE,
        verdict=word,
        reason=_reason(word, checks),
    )  # fmt: skip
    slo = verdict.slo_rows(
        verdict.targets(Slo(mttr=Duration.parse("90s")), world.environment), verdict.figures(record)
    )
    record = record.model_copy(update={"slo": slo})
    return record.model_copy(update={"score": verdict.score(record)})


def history(count: int = 6, **changes: Any) -> list[Record]:
    """Older runs of the same scenario, oldest first."""
    return [
        simulated(seed=n, id=f"x-old{n}", day=n, slow_after_s=5.0 + n % 3, **changes)
        for n in range(1, count + 1)
    ]


def refused() -> Record:
    """A run that preflight ended: nothing was hurt."""
    text = "preflight: shop.error_rate < 0.1% over 10s: was 3.4 %"
    return Record(
        id="x-refus",
        title="Checkout stays up when one replica of three is slow",
        scenario="scenarios/latency.yaml",
        environment="production",
        started="2026-11-21T14:00:00Z",
        finished="2026-11-21T14:00:02Z",
        phases=[PhaseSpan(phase="preflight", start_us=0, end_us=2 * S)],
        events=[
            Event(at_us=0, what="phase", text="preflight"),
            Event(at_us=2 * S, what="verdict", text=f"refused: {text}"),
        ],
        checks=[
            Check(phase="preflight", condition="shop.error_rate < 0.1% over 10s", held="no",
                  measured="3.4 %"),
            Check(phase="preflight", condition="backup.value < 24h", held="unknown",
                  measured="no data: connection refused"),
        ],
        verdict="refused",
        reason=text,
    )  # fmt: skip


def _checks(
    series: Series, phases: list[PhaseSpan], ended: int, well_at: int, end: int
) -> list[Check]:
    found = []
    for phase, text, start, stop in (
        ("preflight", "shop.error_rate < 0.1%", 0, 5 * S),
        ("baseline", "shop.p99 < 40ms", phases[1].start_us, BASELINE),
        ("baseline", "shop.error_rate < 0.1%", phases[1].start_us, BASELINE),
        ("during", "shop.p99 < 100ms", BASELINE, ended),
        ("during", "shop.error_rate < 1%", BASELINE, ended),
        ("recovery", "shop.p99 < 40ms", well_at, end),
        ("recovery", "shop.error_rate < 0.1%", well_at, end),
    ):
        reading = parse(text).over_span(series, start, stop)
        found.append(
            Check.model_validate(
                {"phase": phase, "condition": text, "held": reading.held.value,
                 "measured": reading.measured}
            )
        )  # fmt: skip
    return found


def _events(
    world: World, first_bad: int | None, hurt_from: int, ended: int, well_at: int, word: str
) -> list[Event]:
    rows = [
        Event(at_us=0, what="phase", text="preflight: 2 nodes connected, nothing active"),
        Event(at_us=400_000, what="phase", text="baseline for 30s"),
        Event(at_us=BASELINE, what="phase", text="inject"),
        Event(at_us=hurt_from, what="fault", text="network.latency in force", node="web-2"),
        Event(at_us=BASELINE + 20 * S, what="note", text="half of the traffic is on web-1 now"),
    ]
    if first_bad is not None:
        rows.append(Event(at_us=first_bad, what="probe", text="shop.p99 < 40ms no longer holds"))
    if world.abort_at_s is not None:
        text = "abort: shop.error_rate > 5% over 5s for 5s was 7.25 %"
        rows.append(Event(at_us=ended - 700_000, what="guard", text=text))
    rows += [
        Event(at_us=ended, what="fault", text="network.latency reverted, clean", node="web-2"),
        Event(at_us=well_at, what="probe", text="steady again"),
        Event(at_us=well_at + 5 * S, what="verdict", text=word),
    ]
    return sorted(rows, key=lambda event: event.at_us)


def _reason(word: str, checks: list[Check]) -> str:
    match word:
        case "passed":
            return "steady while hurt, and steady again"
        case "aborted":
            return "shop.error_rate > 5% over 5s for 5s was 7.25 %"
        case _:
            bad = next(check for check in checks if check.held != "yes")
            return f"{bad.phase}: {bad.condition} was {bad.measured}"
