"""Effects survive the journal, and an operator can read them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chaos_core import effects
from chaos_core.effects import Chain, Effect, Holder, LeasedSet, Netem, Pipe, Rule
from chaos_core.errors import InvalidInput

ALL: list[Effect] = [
    LeasedSet("chs-0-4", 4, ("10.0.0.2/32",)),
    Pipe("eth0", "chs-0-0", 0x1000000, 0xF000000, 1, Netem(delay=50_000, jitter=5, loss=10_000)),
    Pipe("eth0", "chs-0-0", 0x1000000, 0xF000000, 1, None),
    Chain(
        *("CHAOS-0-out", 6, "mangle", "POSTROUTING"),
        (
            Rule("RETURN", protocol="icmpv6", icmpv6_type="133"),
            Rule("MARK", match_set="chs-0-6", set_side="dst", mark=0x1000000, mask=0xF000000),
            Rule("DROP", source_ports=("80", "8000:8010"), probability=10_000, in_device="eth0"),
            Rule("REJECT", reject_with="icmp6-port-unreachable"),
        ),
    ),
    Holder("chs-0", "burn", workers=2, cpu_quota=60_000),
    Holder("chs-0", "hold", memory=2**20, memory_max=2**21, ramp=2_500_000),
    Holder("chs-0", "fill", directory="/srv", device=2049, size=4096, reserve=2**28),
    Holder("chs-0", "io", directory="/srv", device=2049, size=4096, rate=2**20, mode="read"),
    Holder("chs-0", "files", count=7, reserve=1024),
]


@pytest.mark.parametrize("effect", ALL)
def test_json_round_trip(effect: Effect) -> None:
    assert effects.from_json(json.loads(json.dumps(effects.to_json(effect)))) == effect


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"effect": "Shell", "command": "id"},
        {"effect": "LeasedSet"},
        {"effect": "LeasedSet", "name": "x", "family": 4, "entries": 5},
        {"effect": "LeasedSet", "name": "x", "family": 4, "entries": [], "more": 1},
        {**effects.to_json(ALL[1]), "netem": 5},
        {**effects.to_json(ALL[3]), "rules": [5]},
    ],
)
def test_what_is_not_an_effect_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        effects.from_json(data)


@pytest.mark.parametrize(
    ("effect", "text"),
    [
        (ALL[0], "set    chs-0-4 (IPv4, entries time out with the lease): 10.0.0.2/32"),
        (ALL[1], "delay 50ms ±0.005ms, loss 1%"),
        (ALL[2], "dummy: swallowed"),
        (ALL[3], "--match-set chs-0-6 dst → MARK 0x1000000/0x1000000"),
        (ALL[3], "-i eth0 --sports 80,8000:8010 --probability 1% → DROP"),
        (ALL[3], "→ REJECT icmp6-port-unreachable"),
        (ALL[4], "2 burner(s), cgroup quota 60000 of 100000 µs"),
        (ALL[5], "1048576 bytes, cgroup cap 2097152 bytes, over 2.5 s"),
        (ALL[6], "an unlinked file of 4096 bytes in /srv"),
        (ALL[7], "reads 1048576 bytes a second in /srv"),
        (ALL[8], "7 open files"),
    ],
)
def test_an_operator_can_read_it(effect: Effect, text: str) -> None:
    assert text in effects.describe(effect)


def test_a_timer_of_the_300th_renewal_is_still_ours() -> None:
    assert all(effects.is_ours(f"chs-0a1b2c3d-{number}") for number in (1, 99, 100, 300))
    assert not any(map(effects.is_ours, ("chs-lan", "chs-0a1b2c3d-x", "CHAOS-MONKEY", "chs-")))
