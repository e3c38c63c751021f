"""What crosses keeper.sock is typed and bounded; the keeper trusts none of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos_core import messages
from chaos_core.envelope import MAX_FAULTS
from chaos_core.errors import InvalidInput

APPLY: dict[str, Any] = {
    "type": "apply",
    "epoch": 1,
    "seq": 2,
    "ttl_us": 3_000_000,
    "run": "r1",
    "fault": "0123abcd",
    "kind": "cpu.stress",
    "params": '{"percent":"5%"}',
    "duration_us": 60_000_000,
}
GRANT: dict[str, Any] = {"type": "grant", "epoch": 1, "seq": 2, "ttl_us": 1, "runs": ["r1"]}


@pytest.mark.parametrize("data", [APPLY, GRANT, {"type": "revert"}])
def test_round_trip(data: dict[str, Any]) -> None:
    message = messages.to_keeper(json.dumps(data).encode())
    assert messages.to_keeper(message.model_dump_json().encode()) == message


def test_the_keepers_own_messages_round_trip() -> None:
    beat = messages.Heartbeat(
        seq=1,
        sent_at=2,
        epoch=3,
        faults=(messages.FaultStatus(fault="f", run="r", kind="k", state="in_force"),),
        quarantine=("qdisc left on eth0",),
    )
    assert messages.from_keeper(beat.model_dump_json().encode()) == beat


@pytest.mark.parametrize(
    "change",
    [
        {"fault": "../../etc"},
        {"fault": "0123ABCD"},
        {"fault": "0123abcd\n"},
        {"run": ""},
        {"run": "-rf"},
        {"epoch": -1},
        {"epoch": "1"},
        {"epoch": 1.0},
        {"epoch": 2**63},
        {"seq": None},
        {"ttl_us": 10**12 + 1},
        {"duration_us": -1},
        {"params": {"percent": "5%"}},
        {"params": "x" * (messages.MAX_PARAMS + 1)},
        {"kind": "x" * 65},
        {"type": "exec"},
        {"command": "id"},
    ],
)
def test_a_wrong_field_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        messages.to_keeper(json.dumps({**APPLY, **change}).encode())


def test_too_long_or_too_many_is_refused() -> None:
    with pytest.raises(InvalidInput, match="above"):
        messages.to_keeper(b" " * (messages.MAX_MESSAGE + 1))
    with pytest.raises(InvalidInput, match="runs"):
        messages.to_keeper(json.dumps({**GRANT, "runs": ["r"] * 17}).encode())


@given(st.binary(max_size=200))
@settings(derandomize=True, deadline=None, database=None, max_examples=100)
def test_any_bytes_are_a_message_or_invalid_input(data: bytes) -> None:
    for parse in (messages.to_keeper, messages.from_keeper):
        with pytest.raises(InvalidInput):
            parse(data)


@pytest.mark.parametrize(
    "text",
    ["[" * 4_000, '{"a":' * 900, "NaN", '{"a": NaN}', '"\\ud800"', "[]", "5", "", "{", "\ud800"],
)
def test_parameters_that_are_no_plain_object_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        messages.read_params(text)


def test_the_fullest_heartbeat_fits_and_is_read_back_as_it_was() -> None:
    """Thirty-two faults and a quarantine of a thousand lines, all in the widest letters."""
    for letter in ("漢", '"', "\\", "\x1b", "\u202e"):
        words = dict.fromkeys(("fault", "reason", "code"), "x" * 32)
        times = dict.fromkeys(("started_at", "in_force_at", "ended_at", "expires_at"), 2**62)
        more = {"run": "r" * 32, "kind": "k" * 64, "state": "in_force", "detail": letter * 20_000}
        status = messages.FaultStatus.model_validate({**words, **times, **more})
        most = messages.MAX_ENDED + MAX_FAULTS
        beat = messages.Heartbeat(
            seq=2**62, sent_at=2**62, epoch=2**62, faults=(status,) * most,
            quarantine=(letter * 1_000,) * 1_000,
        )  # fmt: skip
        data = beat.model_dump_json().encode()
        assert len(data) <= messages.MAX_FROM_KEEPER
        assert messages.from_keeper(data) == beat
        assert len(beat.quarantine) == messages.MAX_LINES
        assert "981 more" in beat.quarantine[-1]
