"""A scenario of the library tells a service that holds from one that does not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos_lab import library, shop
from chaos_lab.drill.context import Drill
from chaos_lab.library.cases import Case

SCENARIO = Path("scenarios/application/service_circuit_breaker.yaml")


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library's own, with shorter times."""
    text, count = re.subn("(baseline: |for: )[0-9]+s", r"\g<1>8s", SCENARIO.read_text())
    assert count == 2
    file = tmp_path_factory.mktemp("library") / SCENARIO.name
    file.write_text(text.replace("stable: 5s", "stable: 2s"))
    return file


@pytest.fixture(scope="module")
def street(system: Drill) -> Iterator[Drill]:
    """Where the shop is; afterwards the nodes are as they were."""
    yield system
    system.fleet.exec(shop.FRONT, ["systemctl", "disable", "--now", "nginx"])
    for node in shop.APPS:
        system.fleet.exec(node, ["systemctl", "disable", "--now", "shop"])
    system.set_profile("staging", *shop.LABELS)


@pytest.mark.parametrize("manner", ["sturdy", "fragile"])
def test_half_of_the_answers_of_one_server_are_503(
    street: Drill, scenario: Path, tmp_path: Path, manner: shop.Manner
) -> None:
    case = Case(scenario, "", manner, "staging")
    found: list[library.Played] = []
    library.play(street.fleet, [case], tmp_path, say=print, tell=found.append)
    (played,) = found
    assert played.held, played.line
    if manner == "fragile":
        # A quarter of the requests, of few: half of those that one of two servers gets.
        fault = next(span for span in played.record.spans if span.phase == "fault")
        assert 0.02 < fault.failed / fault.count < 0.5
        assert "shop.error_rate" in played.record.reason
        (seen,) = played.record.probes
        assert "status 503" in {point.text for point in seen.points}
