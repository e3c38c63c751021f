"""Quantities: exact, never without a unit, and read back as what they print."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from chaos_core.errors import InvalidInput
from chaos_core.units import Bandwidth, ByteSize, Duration, Percent, Quantity

KINDS: list[type[Quantity]] = [Duration, Percent, ByteSize, Bandwidth]
quick = settings(derandomize=True, deadline=None, database=None, max_examples=150)


@pytest.mark.parametrize("kind", KINDS)
def test_text_reads_back_as_the_same_quantity(kind: type[Quantity]) -> None:
    @quick
    @given(st.integers(0, 2**63 - 1))
    def round_trip(number: int) -> None:
        value = kind(number)
        assert kind.parse(str(value)) == value
        assert type(kind.parse(str(value))) is kind

    round_trip()


@pytest.mark.parametrize("kind", KINDS)
def test_any_text_is_a_quantity_or_a_clear_refusal(kind: type[Quantity]) -> None:
    alphabet = "0123456789.+-% µumshkMGTiBeE\n٣"

    @quick
    @given(st.text(alphabet, max_size=12))
    def reads(text: str) -> None:
        with suppress(InvalidInput):
            assert 0 <= kind.parse(text) < 2**63

    reads()


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Duration, "50ms", 50_000),
        (Duration, "1.5s", 1_500_000),
        (Duration, "5m", 300_000_000),
        (Duration, "1h", 3_600_000_000),
        (Duration, "7µs", 7),
        (Duration, " 7 us ", 7),
        (Percent, "1%", 10_000),
        (Percent, "0.25%", 2_500),
        (ByteSize, "512MiB", 512 * 2**20),
        (ByteSize, "100MB", 100_000_000),
        (Bandwidth, "1mbit", 1_000_000),
        (Bandwidth, "0.5kbit", 500),
    ],
)
def test_known_texts(kind: type[Quantity], text: str, value: int) -> None:
    assert kind.parse(text) == value


@pytest.mark.parametrize(
    ("kind", "text", "what"),
    [
        (Duration, "50", "has no unit"),
        (Percent, "1", "has no unit"),
        (ByteSize, "0", "has no unit"),
        (Duration, "50sec", "unknown unit 'sec'"),
        (Duration, "1%", "unknown unit '%'"),
        (Percent, "1ms", "unknown unit 'ms'"),
        (ByteSize, "1mib", "unknown unit 'mib'"),
        (Duration, "0.5us", "finer or larger"),
        (Percent, "0.00001%", "finer or larger"),
        (Duration, "1.00000000000000000000000000000000001s", "finer or larger"),
        (Duration, "99999999999999h", "finer or larger"),
        (Duration, "-1s", "is not a duration"),
        (Duration, "1e3s", "is not a duration"),
        (Duration, "", "is not a duration"),
        (Duration, "ms", "is not a duration"),
        (Duration, "1s\n", "is not a duration"),
    ],
)
def test_wrong_texts_are_refused_with_a_hint(kind: type[Quantity], text: str, what: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        kind.parse(text)
    assert what in caught.value.what
    assert kind.example in caught.value.hint or "one of" in caught.value.hint


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Duration(0), "0s"),
        (Duration.parse("60s"), "60s"),
        (Duration.parse("300s"), "5m"),
        (Duration(1_500), "1500us"),
        (Percent.parse("1.50%"), "1.5%"),
        (Percent(0), "0%"),
        (ByteSize.parse("1024KiB"), "1MiB"),
        (ByteSize(0), "0B"),
    ],
)
def test_canonical_text(value: Quantity, text: str) -> None:
    assert str(value) == text


def test_a_model_refuses_numbers_and_takes_texts() -> None:
    class Model(BaseModel):
        delay: Duration

    assert Model(delay="50ms").delay == 50_000  # type: ignore[arg-type]
    assert Model(delay=Duration(1)).model_dump_json() == '{"delay":"1us"}'
    for bare in (50, 5.0, True, None):
        with pytest.raises(ValidationError, match="has no unit"):
            Model.model_validate({"delay": bare})
    assert Model.model_json_schema()["properties"]["delay"]["format"] == "duration"
