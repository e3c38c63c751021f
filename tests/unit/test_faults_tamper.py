"""tamper.payload: what may be asked, what it compiles to, and what becomes of a packet."""

from __future__ import annotations

import ipaddress
import json
import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos_agent.workers.tamper import checksum, tampered
from chaos_core import envelope, faults
from chaos_core.effects import Chain, LeasedSet, Rule, Worker, describe
from chaos_core.errors import EnvelopeExceeded, InvalidInput, Refused
from chaos_core.node import NodeView, Protected
from chaos_core.units import SECOND

quick = settings(derandomize=True, deadline=None, database=None, max_examples=200)
ID = "0a1b2c3d"
NODE = replace(NodeView.example(), protected=Protected(controllers=("10.0.0.9",)))


def parse(**given: Any) -> Any:
    words = {"peers": ["10.0.0.2", "fd00::2"], "find": "balance", "replace": "bananas"}
    return faults.parse("tamper.payload", {**words, **given})


# ── the fault ─────────────────────────────────────────────────────────────────────────────


def test_the_worker_comes_first_and_what_feeds_it_hangs_on_the_lease() -> None:
    fault = parse(share="10%", ports="5432", protocol="tcp", direction="both")
    own = [one for one in fault.compile(NODE, ID) if getattr(one, "hook", "") != "FORWARD"]
    worker, *sets, out4, out6, in4, in6 = sorted(
        own, key=lambda effect: getattr(effect, "hook", "") == "INPUT"
    )
    assert isinstance(worker, Worker)
    assert (worker.name, worker.program) == (f"chs-{ID}-w", "tamper")
    arguments = json.loads(worker.arguments)
    assert (arguments["find"], arguments["replace"]) == (b"balance".hex(), b"bananas".hex())
    assert all(isinstance(one, LeasedSet) for one in sets)
    for chain, family, side in (
        (out4, 4, "dst"),
        (out6, 6, "dst"),
        (in4, 4, "src"),
        (in6, 6, "src"),
    ):
        assert isinstance(chain, Chain)
        assert (chain.table, chain.family) == ("security", family)
        (last,) = [rule for rule in chain.rules if rule.target == "NFQUEUE"]
        assert last == Rule(
            "NFQUEUE",
            protocol="tcp",
            destination_ports=("5432",) if side == "dst" else (),
            source_ports=() if side == "dst" else ("5432",),
            match_set=f"chs-{ID}-{family}",
            set_side=side,  # type: ignore[arg-type]
            probability=100_000,
            text=b"balance".hex(),
            queue=arguments["queue"],
        )
        assert Rule("RETURN", protocol="tcp", destination_ports=("22",)) in chain.rules
        assert f"→ NFQUEUE {arguments['queue']} --queue-bypass" in describe(chain)


def test_it_is_for_staging_and_the_lab_only() -> None:
    draw = parse().draw()
    with pytest.raises(EnvelopeExceeded, match="production"):
        envelope.check(envelope.PROFILES["production"], draw, SECOND)
    for profile in ("staging", "lab"):
        envelope.check(envelope.PROFILES[profile], draw, SECOND)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"find": ""}, "at least one byte"),
        ({"find": "hex:"}, "at least one byte"),
        ({"find": "hex:0"}, "not like hex:00ff"),
        ({"find": "x" * 129, "replace": "y" * 129}, "more than 128"),
        ({"find": "x" * 500}, "find"),
        ({"replace": "balance"}, "same bytes"),
        ({"replace": "hex:" + b"balance".hex()}, "same bytes"),
        ({"replace": "short"}, "TCP counts bytes, so it takes 7 of them, not 5"),
        ({"replace": "short", "protocol": "tcp"}, "or protocol=udp"),
        ({"find": "größe", "replace": "grober"}, "takes 7 of them, not 6"),
        ({"protocol": "icmp"}, "protocol"),
        ({"share": "0%"}, "above 0%"),
        ({"uid": 5, "direction": "in"}, "not known on arrival"),
        ({"peers": []}, "at least one peer"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        parse(**given)


def test_bytes_are_text_or_hexadecimal_and_udp_takes_any_number() -> None:
    for find, replace_, protocol in (("hex:00ff", "ab", "tcp"), ("x" * 128, "", "udp")):
        parse(find=find, replace=replace_, protocol=protocol).compile(NODE, ID)


def test_the_controller_is_not_lied_to() -> None:
    with pytest.raises(Refused, match="protected"):
        parse(peers="10.0.0.9").compile(NODE, ID)


# ── a packet ──────────────────────────────────────────────────────────────────────────────


def summed(data: bytes) -> int:
    """RFC 1071, word by word: 0xffff over what has a right checksum in it."""
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return total


def packet(
    family: int, protocol: int, payload: bytes, *, fragment: int = 0, check: bool = True,
    options: bool = False,
) -> bytes:  # fmt: skip
    """A sound one, with options in every header that may have some if ``options``."""
    if protocol == 6:
        words = 7 if options else 5
        head = (
            struct.pack("!HHIIBBHHH", 1, 2, 3, 4, words << 4, 24, 9, 0, 0) + b"\1" * (words - 5) * 4
        )
        at = 16
    else:
        head, at = struct.pack("!HHHH", 1, 2, 8 + len(payload), 0), 6
    addresses = (ipaddress.ip_address(n).packed for n in
                 (("10.0.0.1", "10.0.0.2") if family == 4 else ("fd00::1", "fd00::2")))  # fmt: skip
    pair = b"".join(addresses)
    segment = bytearray(head + payload)
    if check:
        found = ~summed(pair + struct.pack("!II", len(segment), protocol) + segment) & 0xFFFF
        struct.pack_into("!H", segment, at, found or 0xFFFF)
    if family == 6:
        extra = bytes([60, 0, 1, 4, 0, 0, 0, 0, protocol, 0, 1, 4, 0, 0, 0, 0]) * options
        first = 0 if options else protocol
        plain = struct.pack("!IHBB", 6 << 28, len(extra) + len(segment), first, 64) + pair
        return plain + extra + segment
    more = b"\1" * 8 * options
    size = 20 + len(more) + len(segment)
    ip = bytearray(struct.pack("!BBHHHBBH", 0x40 | (20 + len(more)) // 4, 0, size, 7, fragment, 64,
                               protocol, 0) + pair + more)  # fmt: skip
    struct.pack_into("!H", ip, 10, ~summed(bytes(ip)) & 0xFFFF)
    return bytes(ip + segment)


@pytest.mark.parametrize("options", [False, True])
@pytest.mark.parametrize("protocol", [6, 17])
@pytest.mark.parametrize("family", [4, 6])
@quick
@given(before=st.binary(max_size=9), after=st.binary(max_size=9), new=st.binary(max_size=9))
def test_a_packet_equals_one_that_was_sent_with_the_other_bytes(
    family: int, protocol: int, options: bool, before: bytes, after: bytes, new: bytes
) -> None:
    """Every field of it, and so every checksum, as somebody else computes them."""
    new = new.ljust(5, b"z")[:5] if protocol == 6 else new
    old = packet(family, protocol, before + b"bytes" + after, options=options)
    wanted = (before + b"bytes" + after).replace(b"bytes", new)
    found = tampered(old, b"bytes", new)
    assert found == packet(family, protocol, wanted, options=options)


def test_what_must_not_be_touched_is_let_be() -> None:
    sound = packet(4, 17, b"find me")
    for odd in (
        packet(4, 17, b"nothing"),
        packet(4, 17, b"find me", fragment=0x2000),
        packet(4, 17, b"find me", fragment=5),
        packet(4, 1, b"find me"),
        packet(6, 58, b"find me"),
        packet(6, 44, b"find me"),
        sound[:-1],
        sound + b"more",
        b"\x45",
        b"\x60",
        packet(6, 0, b""),
    ):
        assert tampered(odd, b"find", b"lose") is None
    assert tampered(sound, b"find", b"lose") == packet(4, 17, b"lose me")
    assert tampered(packet(4, 17, b"a" * 1250), b"a" * 5, b"b" * 6) is None


def test_headers_are_not_payload() -> None:
    """The same bytes stand in the addresses."""
    assert tampered(packet(6, 17, b"x"), bytes.fromhex("fd00"), b"zz") is None


def test_udp_may_do_without_a_checksum() -> None:
    found = tampered(packet(4, 17, b"find me", check=False), b"find", b"lose")
    assert found == packet(4, 17, b"lose me", check=False)


@quick
@given(st.binary(max_size=80))
def test_any_bytes_are_survived(data: bytes) -> None:
    tampered(data, b"\0", b"\1")
    assert summed(data + bytes(len(data) % 2) + struct.pack("!H", checksum(data))) in (0, 0xFFFF)
