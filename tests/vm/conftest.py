"""One fleet of VMs for the whole session, apart from the one that `chaosctl lab` manages."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import Any, Final

import pytest

from chaos_core.errors import LabError, MissingPrerequisite
from chaos_lab import provision
from chaos_lab.catalogue import services
from chaos_lab.drill.context import Drill
from chaos_lab.fleet import Fleet
from chaos_lab.layout import LabDir

_OPERATOR: Final = pytest.StashKey[Drill]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The lab's own tests come first: they want a fleet on which nothing is enabled yet.

    Then what takes longest, so that both fleets are done at the same time.
    """
    tests = Counter(item.path.name for item in items)
    items.sort(
        key=lambda item: (
            item.path.name != "test_lab.py",
            -tests[item.path.name],
        )
    )


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    """A controller and three nodes with chaosctl installed and nothing of it enabled."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")  # each has a fleet of its own
    fleet = Fleet(LabDir.find().beside(f"test{worker}"))
    try:
        fleet.up(nodes=3)
    except MissingPrerequisite as missing:
        pytest.fail(str(missing), pytrace=False)
    except BaseException:
        fleet.down()
        raise
    yield fleet
    fleet.down()


@pytest.fixture(scope="session")
def system(fleet: Fleet, request: pytest.FixtureRequest) -> Drill:
    """The fleet, provisioned in profile staging, and the operator's hand."""
    provision.provision(fleet, profile="staging", say=print)
    drill = request.session.stash[_OPERATOR] = Drill(fleet, print)
    return drill


@pytest.fixture(scope="module")
def app(system: Drill) -> Iterator[Drill]:
    """``app.service``, also called ``front.service``, answers on n1."""
    services.give(system)
    yield system
    services.take(system)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, Any]:
    """A test that fails leaves what it did in the middle: those after it are not to fail for that.

    They would: a latched controller or a quarantined node takes no fault, as it should.
    """
    report = yield
    drill = item.session.stash.get(_OPERATOR, None)
    if call.excinfo is not None and drill is not None:
        _start_afresh(drill)
    return report


def _start_afresh(drill: Drill) -> None:
    """No run, no latch and no quarantine, as far as that can be."""
    for step in (drill.abort, drill.resume):
        with suppress(LabError):
            step()
    for name in drill.fleet.nodes:
        with suppress(LabError):
            if drill.node(name)["quarantine"]:
                for words in (["systemctl", "reset-failed", "chs-*"], ["chaos-agent", "recover"]):
                    drill.fleet.exec(name, words, check=False)
                reason = f"the test failed: {drill.node(name)['quarantine'][0]}"
                provision.operate(drill.fleet, ["node", "release", name, "--reason", reason])
