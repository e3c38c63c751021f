"""One fleet of VMs for the whole session, apart from the one that `chaosctl lab` manages."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import Any, Final

import pytest

from chaos_core.errors import LabError, MissingPrerequisite
from chaos_lab import provision
from chaos_lab.drill.context import Drill
from chaos_lab.fleet import Fleet
from chaos_lab.layout import LabDir

_OPERATOR: Final = pytest.StashKey[Drill]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The lab's own tests come first: they want a fleet on which nothing is enabled yet."""
    items.sort(key=lambda item: item.path.name != "test_lab.py")


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    """A controller and three nodes with chaosctl installed and nothing of it enabled."""
    fleet = Fleet(LabDir.find().beside("test"))
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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, Any]:
    """A test that fails after its abort leaves a latch: those after it are not to fail for that."""
    report = yield
    drill = item.session.stash.get(_OPERATOR, None)
    if call.excinfo is not None and drill is not None:
        with suppress(LabError):
            drill.resume()
    return report
