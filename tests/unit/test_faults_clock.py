"""clock.skew, as it compiles: a bounded step, after every time daemon is down."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chaos_core import effects, faults
from chaos_core.effects import ClockShift, ClockStrobe, UndoTimer, Unit
from chaos_core.errors import InvalidInput, Refused
from chaos_core.node import ClockFacts, NodeView, UnitFacts

CLOCK = ClockFacts(difference=1_795_000_000_123_456, boot="b-1")
CHRONY = UnitFacts("chrony.service", active=True)
NODE = replace(NodeView.example(), units={}, clock=CLOCK)


@pytest.mark.parametrize(
    ("text", "kept", "microseconds"),
    [
        ("+10m", "+10m", 600_000_000),
        ("-90s", "-90s", -90_000_000),
        ("+1h", "+60m", 3_600_000_000),
        ("+3600s", "+60m", 3_600_000_000),
        ("-10ms", "-10ms", -10_000),
    ],
)
def test_an_offset_has_a_sign_and_a_unit(text: str, kept: str, microseconds: int) -> None:
    fault = faults.parse("clock.skew", {"offset": text})
    assert fault.model_dump() == {"offset": kept, "strobe": None}
    timer, shift = fault.compile(NODE, "0123abcd")
    assert shift == ClockShift(microseconds, CLOCK.difference, "b-1", ())
    assert timer == UndoTimer("chs-0123abcd", (effects.to_text(shift),))
    assert effects.from_text(timer.undo[0]) == shift


def test_a_strobe_is_the_same_step_by_turns() -> None:
    fault = faults.parse("clock.skew", {"offset": "-90s", "strobe": "2s"})
    assert faults.parse("clock.skew", fault.model_dump(mode="json")) == fault
    timer, strobe = fault.compile(replace(NODE, now=7_000_000), "0123abcd")
    assert strobe == ClockStrobe(-90_000_000, CLOCK.difference, "b-1", (), 7_000_000, 2_000_000)
    assert isinstance(timer, UndoTimer)
    assert effects.from_text(timer.undo[0]) == strobe
    assert effects.changes((strobe,)) == {"the clock"}
    turns = [strobe.turn(at) for at in (7_000_000, 8_999_999, 9_000_000, 10_999_999, 11_000_000)]
    assert turns == [
        (True, 7_000_000),
        (True, 7_000_000),
        (False, 9_000_000),
        (False, 9_000_000),
        (True, 11_000_000),
    ]


@pytest.mark.parametrize("text", ["999ms", "61s", "0s", "1"])
def test_other_strobes_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="strobe"):
        faults.parse("clock.skew", {"offset": "+1s", "strobe": text})


@pytest.mark.parametrize("text", ["10m", "+10", "+-1s", "+9ms", "-61m", "+3601s", "", "+1e3s", "+"])
def test_other_offsets_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="offset"):
        faults.parse("clock.skew", {"offset": text})


def test_who_keeps_the_clock_is_down_before_it_moves_and_back_after() -> None:
    """Under its own name, once, and only if it runs."""
    units = {
        "chrony.service": CHRONY,
        "chronyd.service": CHRONY,  # an alias
        "systemd-timesyncd.service": UnitFacts("systemd-timesyncd.service", active=False),
    }
    fault = faults.parse("clock.skew", {"offset": "+1m"})
    timer, unit, shift = fault.compile(replace(NODE, units=units), "0123abcd")
    assert unit == Unit("chrony.service", "stopped")
    assert isinstance(shift, ClockShift)
    assert shift.after == ("chrony.service",)
    assert isinstance(timer, UndoTimer)
    assert [effects.from_text(text) for text in timer.undo] == [unit, shift]
    assert effects.changes((unit, shift)) == {"chrony.service", "the clock"}


@pytest.mark.parametrize(
    "keeper", [replace(CHRONY, frozen=True), replace(CHRONY, dependents=("app.service",))]
)
def test_a_time_daemon_that_cannot_be_put_back_as_it_was_is_refused(keeper: UnitFacts) -> None:
    fault = faults.parse("clock.skew", {"offset": "+1m"})
    with pytest.raises(Refused, match=r"chrony\.service keeps the clock"):
        fault.compile(replace(NODE, units={keeper.id: keeper}), "0123abcd")
