"""Docker: what a container is asked, and what it asks, is hit like the host's own traffic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.matrix import containers


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, shell: Callable[..., str]) -> Iterator[None]:
    """A container of a local image, run by Docker."""
    shell("systemctl", "start", "docker")
    containers.image(shell, "docker", Path(tmp_path_factory.mktemp("image")))
    containers.serve(shell, "docker")
    try:
        yield
    finally:
        shell("docker", "rm", "-f", "web", check=False)
        shell("systemctl", "stop", "docker.socket", "docker", "containerd")
        shell("nft", "flush", "ruleset")  # Docker leaves its rules behind


@pytest.mark.usefixtures("web")
@pytest.mark.parametrize(("fault", "call"), containers.CASES)
def test_a_container_is_hit_or_the_fault_is_refused(
    outside: Any,
    real_node: Callable[[], Any],
    sh: Callable[..., str],
    ends: Callable[[Any, str], None],
    refusal: Callable[[Any, str], bool],
    fault: str,
    call: str,
) -> None:
    containers.is_hit_or_refused(sh, "docker", outside, real_node(), ends, refusal, fault, call)
