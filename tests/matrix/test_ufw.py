"""ufw: faults work beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.matrix import firewalls


@pytest.fixture
def firewall(outside: Any, sh: Callable[..., str]) -> Iterator[None]:  # noqa: ARG001
    """It is on, and lets the page's port through."""
    sh("ufw", "allow", f"{firewalls.PORT}/tcp")
    sh("ufw", "--force", "enable")
    try:
        yield
    finally:
        sh("ufw", "--force", "reset")
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
