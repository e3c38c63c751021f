"""What a burner got of the CPU that it asked for, and when that is told."""

from __future__ import annotations

import os

import pytest

from chaos_agent.effects.holder import burnt
from chaos_core.effects import Holder
from chaos_core.hits import Hits

SECOND = 1_000_000
CPUS = os.cpu_count() or 1
HALF = Holder("chs-0123abcd", "burn", workers=CPUS, cpu_quota=50_000 * CPUS)


@pytest.mark.parametrize("share", [0.8, 0.95, 1.0, 1.02])
def test_who_gets_nearly_all_says_nothing_more(share: float) -> None:
    asked = 5 * SECOND * CPUS
    got = int(asked * share)
    assert burnt(HALF, got, 10 * SECOND) == Hits(count=got, unit="cpu_us", asked=asked)


@pytest.mark.parametrize(("share", "text"), [(0.79, "39.5%"), (0.226, "11.3%"), (0, "0%")])
def test_who_gets_clearly_less_says_how_much(share: float, text: str) -> None:
    found = burnt(HALF, int(5 * SECOND * CPUS * share), 10 * SECOND)
    assert found.note == f"asked 50% of the CPU, got {text}"
    assert found.missed == (share == 0)


def test_nothing_is_said_before_it_can_be_told() -> None:
    assert burnt(HALF, 0, 2 * SECOND).note == ""


def test_a_ramp_asks_for_half_of_it_on_the_way() -> None:
    ramp = Holder("chs-0123abcd", "burn", cpu_quota=100_000, ramp=10 * SECOND)
    assert burnt(ramp, 0, 10 * SECOND).asked == 5 * SECOND
    assert burnt(ramp, 0, 5 * SECOND).asked == 1_250_000
    assert burnt(ramp, 0, 20 * SECOND).asked == 15 * SECOND
