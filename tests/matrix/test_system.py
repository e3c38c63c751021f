"""The drill's checks of one node, with the product installed from its .deb and run by systemd.

Left to the lab's VMs: a reboot, and one percent of 20,000 packets, which take minutes here; and
memory, since here the controller and chaosctl take theirs from the same node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from chaos_lab import provision
from chaos_lab.drill import limits, network, residue, resources, safety
from chaos_lab.drill.context import Drill
from chaos_lab.fleet import Fleet
from chaos_lab.layout import project_root
from chaos_lab.matrix import hosts

PRODUCTION = (
    network.latency,
    network.duration,
    resources.cpu,
    limits.limits_of_the_node,
)
LAB = (
    safety.abort_reachable,
    safety.abort_unreachable,
    safety.controller_lost,
    safety.agent_gone,
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drill]:
    """This host with the product on it as a user would have it, and things of the user's own."""
    (deb,) = (project_root() / "dist").glob("*.deb")
    places = hosts.Hosts(Path(tmp_path_factory.mktemp("operator")))
    hosts.install(deb)
    places.wire()
    fleet = cast(Fleet, places)
    provision.provision(fleet, profile="production", say=print)
    drill = Drill(fleet, print)
    residue.give(drill, "n1")
    yield drill
    places.gone()


@pytest.fixture(scope="module")
def before(installed: Drill) -> list[str]:
    """What the node has before anything is done to it."""
    return residue.listing(installed, "n1")


def holds(drill: Drill, step: Callable[[Drill], None]) -> None:
    drill.checks.clear()
    step(drill)
    assert drill.checks
    wrong = [f"{one.id}: {one.expected}: {one.shown}" for one in drill.checks if not one.passed]
    assert not wrong
    node = drill.node("n1")
    assert not node["quarantine"]


@pytest.mark.usefixtures("before")
@pytest.mark.parametrize("step", PRODUCTION, ids=lambda step: step.__name__)
def test_what_is_promised_in_production(installed: Drill, step: Callable[[Drill], None]) -> None:
    if installed.node("n1")["profile"] != "production":
        installed.set_profile("production", "n1")
    holds(installed, step)


@pytest.mark.usefixtures("before")
@pytest.mark.parametrize("step", LAB, ids=lambda step: step.__name__)
def test_whatever_dies_the_node_is_clean_in_time(
    installed: Drill, step: Callable[[Drill], None]
) -> None:
    if installed.node("n1")["profile"] != "lab":
        installed.set_profile("lab", "n1")
    holds(installed, step)


def test_nothing_is_left(installed: Drill, before: list[str]) -> None:
    installed.set_profile("production", "n1")
    assert residue.difference(before, residue.listing(installed, "n1")) == []
