"""What a fault hit: its words, its sum, its bounds, and its way over the wire."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from chaos_core import faults
from chaos_core.effects import Chain, IngressPipe, Pipe, Rule
from chaos_core.faults._counting import counted
from chaos_core.hits import MAX_NOTE, UNITS, Hits, add
from chaos_core.messages import FaultStatus, Heartbeat, from_keeper
from chaos_core.node import NodeView
from chaos_proto.hits import from_wire, to_wire
from chaos_proto.v1 import chaos_pb2 as pb

COUNT = st.integers(0, 2**53 - 1)
HITS = st.builds(
    Hits,
    count=COUNT,
    unit=st.sampled_from(UNITS),
    seen=st.none() | COUNT,
    asked=st.none() | COUNT,
    note=st.text("abc %.", max_size=MAX_NOTE).map(str.strip),
)


@pytest.mark.parametrize(
    ("hits", "text"),
    [
        (Hits(count=412, unit="packets", seen=9000), "412 of 9000 packets"),
        (Hits(count=0, unit="connections", seen=3), "0 of 3 connections"),
        (Hits(count=7, unit="packets", seen=3), "7 of 7 packets"),
        (Hits(count=1_500_000, unit="cpu_us", asked=3_000_000), "1.5 s of 3.0 s of CPU time"),
        (Hits(count=3 * 2**20, unit="bytes"), "3.0 MiB"),
        (Hits(count=12, unit="throttled periods"), "12 throttled periods"),
        (Hits(count=5, unit="packets", seen=5, note="1 of them dropped"),
         "5 of 5 packets (1 of them dropped)"),
    ],
)  # fmt: skip
def test_it_reads_as_a_sentence_goes_on(hits: Hits, text: str) -> None:
    assert str(hits) == text
    assert len(f"node-17: network.partition hit {hits}") < 80


def test_parts_add_up_and_what_is_not_counted_is_no_zero() -> None:
    assert add([]) is None
    assert add([None, None]) is None
    parts = [None, Hits(count=2, unit="packets"), Hits(count=0, unit="packets", seen=9)]
    assert add(parts) == Hits(count=2, unit="packets", seen=9)
    mixed = [Hits(count=2, unit="connections", seen=2), Hits(count=1, unit="packets", seen=4)]
    assert add(mixed) == Hits(count=3, unit="packets", seen=6), "connections are seen by a packet"


@pytest.mark.parametrize(
    "bad",
    [
        {"count": -1},
        {"count": 2**63},
        {"unit": "wonders"},
        {"seen": -1},
        {"seen": "3"},
        {"more": 1},
    ],
)
def test_its_fields_are_bounded(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Hits.model_validate({"count": 1, "unit": "packets", **bad})


@given(HITS | st.none())
def test_it_survives_both_wires(hits: Hits | None) -> None:
    status = FaultStatus(fault="f", run="r", kind="k", state="in_force", hits=hits)
    beat = Heartbeat(seq=1, sent_at=1, epoch=1, faults=(status,))
    assert from_keeper(beat.model_dump_json().encode()) == beat
    assert from_wire(pb.FaultStatus(hits=to_wire(hits))) == hits


def test_what_another_version_counts_is_not_counted_here() -> None:
    assert from_wire(pb.RunEvent(hits=pb.Hits(count=1, unit="wonders"))) is None


# ── the rules that count ──────────────────────────────────────────────────────────────────


def test_they_are_about_the_same_packets_by_any_device_and_without_a_share() -> None:
    rule = Rule("DROP", protocol="tcp", match_set="s", set_side="src", in_device="eth1",
                destination_ports=("80",), uid=7, probability=10_000)  # fmt: skip
    seen, exposed, last = counted([rule])
    assert last == rule
    assert (seen.target, seen.in_device, seen.probability) == ("SEEN", "", 0)
    assert (exposed.target, exposed.in_device, exposed.probability) == ("EXPOSED", "eth1", 0)
    for one in (seen, exposed):
        assert (one.protocol, one.match_set, one.set_side) == ("tcp", "s", "src")
        assert (one.destination_ports, one.uid) == (("80",), 7)
    assert counted([rule], anywhere=False)[0].in_device == "eth1"


@pytest.mark.parametrize("kind", [kind for kind in faults.kinds() if kind.startswith("network.")])
def test_every_network_fault_is_counted(kind: str) -> None:
    cls = faults.lookup(kind)
    fault = faults.parse(kind, faults.from_words(cls.example.split()))
    chains = [
        one for one in fault.compile(NodeView.example(), "0123abcd") if isinstance(one, Chain)
    ]
    pipes = [
        one
        for one in fault.compile(NodeView.example(), "0123abcd")
        if isinstance(one, Pipe | IngressPipe)
    ]
    assert chains or not pipes
    assert any(rule.target == "SEEN" for chain in chains for rule in chain.rules)
