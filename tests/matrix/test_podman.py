"""podman: what a container is asked, and what it asks, is hit like the host's own traffic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.matrix import containers


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, shell: Callable[..., str]) -> Iterator[None]:
    """A container of a local image, run by podman."""
    Path("/etc/containers/policy.json").write_text(
        '{"default": [{"type": "insecureAcceptAnything"}]}'
    )
    containers.image(shell, "podman", Path(tmp_path_factory.mktemp("image")))
    containers.serve(shell, "podman")
    # Docker is on the image as well, and has forwarding dropped but for its own containers.
    shell("iptables", "-P", "FORWARD", "ACCEPT")
    try:
        yield
    finally:
        shell("podman", "rm", "-f", "web", check=False)
        shell("nft", "flush", "ruleset")


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
    containers.is_hit_or_refused(sh, "podman", outside, real_node(), ends, refusal, fault, call)
