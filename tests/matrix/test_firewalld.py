"""firewalld: faults work beside it, also while it is reloaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.matrix import firewalls
from tests.matrix.containers import wait_until


@pytest.fixture
def firewall(outside: Any, sh: Callable[..., str]) -> Iterator[None]:  # noqa: ARG001
    """It runs, and lets the page's port through."""
    sh("systemctl", "start", "firewalld")
    wait_until(lambda: "firewalld" in sh("nft", "list", "tables"), "firewalld makes no table")
    for now_or_later in ((), ("--permanent",)):  # as it runs, and after a reload
        sh("firewall-cmd", *now_or_later, f"--add-port={firewalls.PORT}/tcp")
    try:
        yield
    finally:
        sh("systemctl", "stop", "firewalld")
        sh("nft", "flush", "ruleset")


@pytest.mark.usefixtures("firewall")
@pytest.mark.parametrize("fault", [*firewalls.FAULTS])
def test_faults_work_beside_it(
    outside: Any,
    real_node: Callable[[], Any],
    sh: Callable[..., str],
    ends: Callable[[Any, str], None],
    fault: str,
) -> None:
    firewalls.works_beside(sh, outside, real_node(), ends, fault)


@pytest.mark.usefixtures("firewall")
def test_a_reload_in_mid_fault_takes_nothing_of_it_away(
    outside: Any,
    real_node: Callable[[], Any],
    sh: Callable[..., str],
    ends: Callable[[Any, str], None],
) -> None:
    def reload() -> None:  # which takes longer here than a lease lasts
        sh("systemctl", "reload", "--no-block", "firewalld")

    firewalls.works_beside(sh, outside, real_node(), ends, "loss in", meanwhile=reload)
