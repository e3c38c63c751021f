"""P1, bounded: the ceilings, at and just above each, alone, in sum and in any sequence."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos_core import envelope
from chaos_core.envelope import MAX_DURATION, PROFILES, Draw, Envelope, FaultClass
from chaos_core.errors import EnvelopeExceeded, InvalidInput
from chaos_core.units import SECOND, Duration, Percent, Quantity

quick = settings(derandomize=True, deadline=None, database=None, max_examples=60)
D, P = Duration.parse, Percent.parse

# DESIGN §2, column by column; a ceiling that moves must be moved here as well.
TABLE = {
    "production": ("50ms", "1%", "15%", "10%", "one", 1, "300s", "60s", "60s", "60s", False),
    "staging": ("500ms", "5%", "50%", "30%", "minority", 1, *(["300s"] * 4), True),
    "lab": ("30s", "100%", "90%", "80%", "all", 4, *(["300s"] * 4), True),
}
SHARES = ("latency", "loss", "cpu", "memory")


@pytest.mark.parametrize("profile", TABLE)
def test_profiles_are_the_table_of_the_design(profile: str) -> None:
    latency, loss, cpu, memory, nodes, runs, d_lat, d_loss, d_cpu, d_mem, destructive = TABLE[
        profile
    ]
    assert PROFILES[profile] == Envelope(
        profile,
        *(D(str(latency)), P(str(loss)), P(str(cpu)), P(str(memory))),
        nodes=nodes,  # type: ignore[arg-type]
        runs=runs,  # type: ignore[arg-type]
        duration_latency=D(str(d_lat)),
        duration_loss=D(str(d_loss)),
        duration_cpu=D(str(d_cpu)),
        duration_memory=D(str(d_mem)),
        destructive=bool(destructive),
    )


def test_there_are_three_profiles_and_production_is_the_default() -> None:
    assert PROFILES.keys() == TABLE.keys()
    assert envelope.DEFAULT_PROFILE == "production"
    assert D("300s") == MAX_DURATION


def _draw(what: str, amount: int) -> Draw:
    kind = Duration if what == "latency" else Percent
    return Draw(what, **{what: kind(amount)})  # type: ignore[arg-type]


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("what", SHARES)
def test_a_share_at_its_ceiling_passes_and_one_step_above_is_refused(
    profile: str, what: str
) -> None:
    node = PROFILES[profile]
    ceiling = getattr(node, what)
    envelope.check(node, _draw(what, ceiling), SECOND)
    with pytest.raises(EnvelopeExceeded, match=f"{what} .* above the ceiling of .*{profile}"):
        envelope.check(node, _draw(what, ceiling + 1), SECOND)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("what", SHARES)
def test_two_faults_that_add_up_past_a_ceiling_are_refused(profile: str, what: str) -> None:
    node = PROFILES[profile]
    ceiling = getattr(node, what)
    there = _draw(what, ceiling - 1)
    envelope.check(node, _draw(what, 1), SECOND, [there])
    with pytest.raises(EnvelopeExceeded, match="in force"):
        envelope.check(node, _draw(what, 2), SECOND, [there])


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("fault_class", get_args(FaultClass))
def test_a_duration_at_its_ceiling_passes_and_one_step_above_is_refused(
    profile: str, fault_class: FaultClass
) -> None:
    node = PROFILES[profile]
    if fault_class == "destructive" and not node.destructive:
        with pytest.raises(EnvelopeExceeded, match="refused in profile"):
            envelope.check(node, Draw(fault_class), SECOND)
        return
    longest = getattr(node, f"duration_{fault_class}", MAX_DURATION)
    envelope.check(node, Draw(fault_class), longest)
    for wrong in (Duration(longest + 1), Duration(0), Duration(-1)):
        with pytest.raises(EnvelopeExceeded, match="duration"):
            envelope.check(node, Draw(fault_class), wrong)


def test_five_minutes_is_the_cap_even_in_an_envelope_that_says_otherwise() -> None:
    wide = replace(PROFILES["lab"], duration_latency=D("1h"))
    with pytest.raises(EnvelopeExceeded):
        envelope.check(wide, Draw("latency"), D("301s"))


def test_runs_at_once() -> None:
    envelope.check_runs(PROFILES["production"], "a", [])
    envelope.check_runs(PROFILES["production"], "a", ["a"])
    with pytest.raises(EnvelopeExceeded, match="1 run"):
        envelope.check_runs(PROFILES["production"], "b", ["a"])
    envelope.check_runs(PROFILES["lab"], "d", ["a", "b", "c"])
    with pytest.raises(EnvelopeExceeded):
        envelope.check_runs(PROFILES["lab"], "e", ["a", "b", "c", "d"])


draws = st.builds(
    Draw,
    st.sampled_from(get_args(FaultClass)),
    latency=st.integers(0, 600_000).map(Duration),
    loss=st.integers(0, 60_000).map(Percent),
    cpu=st.integers(0, 600_000).map(Percent),
    memory=st.integers(0, 400_000).map(Percent),
)


@pytest.mark.parametrize("profile", PROFILES)
def test_no_sequence_of_requests_exceeds_an_envelope(profile: str) -> None:
    node = PROFILES[profile]
    request = st.tuples(st.integers(0, 5), draws, st.integers(0, 400).map(lambda s: s * 1_000_000))

    @quick
    @given(st.lists(request, max_size=20))
    def sequence(requests: list[tuple[int, Draw, int]]) -> None:
        in_force: list[tuple[str, Draw]] = []
        for number, draw, duration in requests:
            if number == 0 and in_force:
                in_force.pop()
                continue
            try:
                envelope.check_runs(node, f"r{number}", [run for run, _ in in_force])
                envelope.check(node, draw, Duration(duration), [d for _, d in in_force])
            except EnvelopeExceeded:
                continue
            in_force.append((f"r{number}", draw))
            assert 0 < duration <= MAX_DURATION
            assert len({run for run, _ in in_force}) <= node.runs
            assert node.destructive or draw.fault_class != "destructive"
            for what in SHARES:
                assert sum(getattr(d, what) for _, d in in_force) <= getattr(node, what)

    sequence()


def test_a_ceiling_can_be_lowered() -> None:
    node = envelope.lowered("staging", {"latency": D("10ms"), "runs": 1, "cpu": P("5%")})
    assert (node.latency, node.runs, node.cpu) == (D("10ms"), 1, P("5%"))
    assert node.loss == PROFILES["staging"].loss


@pytest.mark.parametrize("profile", PROFILES)
def test_no_ceiling_can_be_raised(profile: str) -> None:
    for field in fields(Envelope):
        ceiling = getattr(PROFILES[profile], field.name)
        if isinstance(ceiling, int) and not isinstance(ceiling, bool):
            with pytest.raises(InvalidInput, match="above"):
                envelope.lowered(profile, {field.name: type(ceiling)(ceiling + 1)})


@pytest.mark.parametrize(
    "ceilings",
    [{"destructive": True}, {"nodes": "all"}, {"profile": "lab"}, {"latencie": D("1ms")}],
)
def test_what_is_not_a_ceiling_cannot_be_set(ceilings: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match="unknown ceiling"):
        envelope.lowered("production", ceilings)


@pytest.mark.parametrize("value", [5, "5ms", True, None, Percent(1)])
def test_a_ceiling_needs_its_own_unit(value: object) -> None:
    with pytest.raises(InvalidInput, match="must be like"):
        envelope.lowered("production", {"latency": value})


def test_an_unknown_profile_is_refused() -> None:
    with pytest.raises(InvalidInput, match="unknown profile 'prod'"):
        envelope.lowered("prod", {})


@pytest.mark.parametrize("profile", PROFILES)
def test_json_round_trip(profile: str) -> None:
    node = envelope.lowered(profile, {"latency": D("7ms")})
    data = json.loads(json.dumps(envelope.as_json(node)))
    assert envelope.from_json(data) == node
    assert all(not isinstance(v, Quantity) for v in envelope.as_json(node).values())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("nodes", "many"),
        ("destructive", "false"),
        ("runs", "1"),
        ("runs", True),
        ("latency", 50),
        ("latency", "50"),
        ("profile", "prod"),
        ("profile", ["lab"]),
    ],
)
def test_what_is_not_an_envelope_is_refused(field: str, value: object) -> None:
    data: dict[str, object] = {**envelope.as_json(PROFILES["production"]), field: value}
    with pytest.raises(InvalidInput):
        envelope.from_json(data)


@pytest.mark.parametrize("field", [field.name for field in fields(Envelope)])
def test_a_missing_ceiling_is_refused(field: str) -> None:
    data: dict[str, object] = {**envelope.as_json(PROFILES["lab"])}
    del data[field]
    with pytest.raises(InvalidInput, match="not an envelope"):
        envelope.from_json(data)
