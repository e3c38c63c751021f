"""network.dns with answers: what it compiles to, and what is answered."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import dns.edns
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.update
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos_agent.workers.dns import Answer
from chaos_core import faults
from chaos_core.effects import Chain, LeasedSet, Rule, Worker
from chaos_core.errors import InvalidInput, Unsupported
from chaos_core.node import Device, NodeView, Protected, Way

ID = "0a1b2c3d"
NODE = NodeView(
    "n1",
    cpus=1,
    memory_total=2**30,
    devices=(Device("lo", ("127.0.0.1", "::1"), loopback=True), Device("eth0", ("10.0.0.1",))),
    elsewhere=Way(("eth0",)),
    protected=Protected(controllers=("10.0.0.9",)),
)
TEXTS = [b"\0\0\0\0\2db\0", b"\0\0\0\1\2db\0"]


def compiled(**given: Any) -> tuple[Any, ...]:
    """Of what the node itself sends, unless ``scope`` says otherwise."""
    words = {"names": "db", "answer": "nxdomain", "scope": "host", **given}
    return faults.parse("network.dns", words).compile(NODE, ID)


def test_who_answers_comes_first_and_what_leads_there_hangs_on_the_lease() -> None:
    worker, *_ = compiled()
    assert isinstance(worker, Worker)
    sets = [one for one in compiled() if isinstance(one, LeasedSet)]
    assert worker.name == f"chs-{ID}-w"
    assert [one.family for one in sets] == [4, 6]
    arguments = json.loads(worker.arguments)
    low, high = arguments["own_ports"]
    assert not low <= arguments["port"] <= high
    chains = [one for one in compiled() if isinstance(one, Chain)]
    assert [(one.table, one.family) for one in chains] == [
        (table, family) for table in ("raw", "nat", "filter") for family in (4, 6)
    ]
    hits = {}
    for chain in chains:
        assert chain.hook == "OUTPUT"
        own = Rule("RETURN", protocol="tcp", source_ports=(f"{low}:{high}",))
        assert own in chain.rules
        assert (Rule("RETURN", destination="10.0.0.9/32") in chain.rules) == (chain.family == 4)
        counted = [rule for rule in chain.rules if rule.target == "SEEN"]
        assert bool(counted) == (chain.table != "raw"), "what CT tells apart is hit further on"
        found = [rule for rule in chain.rules if rule.match_set and rule not in counted]
        assert {rule.match_set for rule in found} == {f"chs-{ID}-{chain.family}"}
        assert {rule.destination_ports for rule in found} == {("53",)}
        hits[chain.table] = [
            (one.target, one.protocol, one.syn, bytes.fromhex(one.text), one.reject_with)
            for one in found
        ]
        if chain.table == "raw":
            first = chain.rules[0]  # before any that spares where the answers go
            assert first.own == "src"
            assert first.source_ports == (str(arguments["port"]),)
            assert {rule.zone for rule in (first, *found)} == {arguments["port"]}
        if chain.table == "nat":
            assert {rule.to_port for rule in found} == {arguments["port"]}
    assert hits == {
        "raw": [("CT", "udp", False, text, "") for text in TEXTS],
        "nat": [
            ("REDIRECT", "tcp", True, b"", ""),
            *(("REDIRECT", "udp", False, text, "") for text in TEXTS),
        ],
        "filter": [("REJECT", "tcp", False, text, "tcp-reset") for text in TEXTS],
    }


@pytest.mark.parametrize(
    ("protocol", "tables"), [("udp", {"raw", "nat"}), ("tcp", {"nat", "filter"})]
)
def test_one_protocol_takes_what_it_needs(protocol: str, tables: set[str]) -> None:
    found = [one for one in compiled(protocol=protocol) if isinstance(one, Chain)]
    assert {chain.table for chain in found} == tables
    hits = [rule for chain in found for rule in chain.rules if rule.match_set]
    assert {rule.protocol for rule in hits} == {protocol}


def test_a_stub_on_the_node_is_stood_in_for_and_not_cut_off() -> None:
    def spares_loopback(found: tuple[Any, ...]) -> set[bool]:
        chains = [one for one in found if isinstance(one, Chain)]
        return {any(rule.out_device == "lo" for rule in chain.rules) for chain in chains}

    assert spares_loopback(compiled()) == {False}
    assert spares_loopback(compiled(answer="timeout")) == {True}


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"answer": "refused"}, "answer"),
        ({"answer": "address"}, "address: goes with answer=address"),
        ({"address": "10.0.0.7"}, "address: goes with answer=address"),
        ({"answer": "address", "address": "db.example.com"}, "address"),
        ({"answer": "address", "address": "10.0.0.0/8"}, "address"),
        ({"answer": "address", "address": ",".join(f"10.0.0.{n}" for n in range(9))}, "more than"),
        ({"ports": "800-900"}, "ports: what goes to 853 is encrypted"),
    ],
)
def test_what_contradicts_is_refused(params: dict[str, str], says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        compiled(**params)
    assert says in str(caught.value)


def test_a_kernel_that_cannot_keep_them_apart_is_told_of_before_anything_is_done() -> None:
    fault = faults.parse("network.dns", {"names": "db", "answer": "servfail"})
    assert "ct-zone" in fault.asks().abilities
    unable = replace(NODE, unable={"ct-zone": "ct-zone: not supported"})
    with pytest.raises(Unsupported, match="answer: ct-zone: not supported"):
        fault.compile(unable, ID)
    silent = faults.parse("network.dns", {"names": "db"})
    assert not silent.asks().abilities
    assert silent.compile(unable, ID)


# ── what is answered ──────────────────────────────────────────────────────────────────────

ANSWER = Answer.read(
    {"names": ["db.example.com"], "subdomains": False, "answer": "nxdomain", "address": []}
)


def asked(name: str, kind: str = "A", **more: Any) -> dns.message.QueryMessage:
    return dns.message.make_query(name, kind, **more)


@pytest.mark.parametrize("edns", [False, True])
def test_an_answer_is_to_its_query(edns: bool) -> None:
    query = asked("DB.example.COM", use_edns=edns)
    data = ANSWER.to(query.to_wire())
    assert data is not None
    answer = dns.message.from_wire(data)
    assert query.is_response(answer)
    assert answer.question[0].name.to_text() == "DB.example.COM."  # as some clients check
    assert answer.rcode() == dns.rcode.NXDOMAIN
    assert not answer.authority  # without a SOA nobody keeps it, RFC 2308 section 5


def test_addresses_are_not_to_be_kept() -> None:
    told = replace(ANSWER, rcode=dns.rcode.NOERROR, addresses=("10.0.0.7", "fd00::7"))
    for kind, wanted in (("A", ["10.0.0.7"]), ("AAAA", ["fd00::7"]), ("MX", [])):
        data = told.to(asked("db.example.com", kind).to_wire())
        assert data is not None
        answer = dns.message.from_wire(data)
        assert answer.rcode() == dns.rcode.NOERROR
        assert [one.to_text() for found in answer.answer for one in found] == wanted
        assert all(found.ttl == 0 for found in answer.answer)


@pytest.mark.parametrize("name", ["example.com", "a.db.example.com", "xdb.example.com", "com"])
def test_other_names_are_not_answered(name: str) -> None:
    assert ANSWER.to(asked(name).to_wire()) is None


def test_with_subdomains_all_below_is_answered() -> None:
    below = replace(ANSWER, subdomains=True)
    assert below.to(asked("a.b.db.example.com").to_wire())
    assert below.to(asked("xdb.example.com").to_wire()) is None


def test_what_is_no_query_is_not_answered() -> None:
    """An answer to one would go back and forth."""
    query = asked("db.example.com")
    told = ANSWER.to(query.to_wire())
    assert told is not None
    query.set_opcode(dns.opcode.STATUS)
    update = dns.update.UpdateMessage("db.example.com").to_wire()
    for data in (told, query.to_wire(), update, asked("db.example.com").to_wire()[:-1], b""):
        assert ANSWER.to(data) is None


@given(data=st.binary(max_size=80), head=st.booleans())
def test_nothing_that_is_sent_breaks_it(data: bytes, head: bool) -> None:
    wire = asked("db.example.com").to_wire()
    told = ANSWER.to((wire[:12] if head else wire) + data)
    assert told is None or len(told) >= 12
