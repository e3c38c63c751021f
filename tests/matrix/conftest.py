"""Tests for the nodes of `make matrix`: kernels of Debian's that have nftables and netem.

Their fixtures are the kernel tests' own. Outside such a node each fails with one line, because
they start Docker and firewalls in the node's own network namespace.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from chaos_agent.linux.host import Host
from chaos_core.messages import Revert


def _load(name: str) -> ModuleType:
    path = Path(__file__).parents[1] / "kernel" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"kernel_{name}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_kernel = _load("conftest")
run = _kernel.run
pytest_configure = _kernel.pytest_configure
_prerequisites, net, wait_for, sh = (
    _kernel._prerequisites,
    _kernel.net,
    _kernel.wait_for,
    _kernel.sh,
)
services, host, new_node, node = (
    _kernel.services,
    _kernel.host,
    _kernel.new_node,
    _kernel.node,
)


@pytest.fixture(scope="session", autouse=True)
def _only_in_a_node() -> None:
    if os.environ.get("CHAOS_GUEST") != "matrix":
        pytest.fail("these tests run in the nodes of `make matrix`", pytrace=False)


@pytest.fixture(scope="session")
def shell() -> Callable[..., str]:
    """``sh``, for what is set up once."""
    run: Callable[..., str] = _kernel.run
    return run


@pytest.fixture(scope="session")
def coexistence() -> ModuleType:
    """What shows of each fault that it bites: ``tests/kernel/test_coexistence.py``."""
    return _load("test_coexistence")


@pytest.fixture
def listing(net: Any) -> Callable[[], list[str]]:  # noqa: ARG001
    """What the tools list of this namespace, less what is ours while a fault is in force.

    It opens no legacy table, since one that is open makes xtables the firewall in use.
    """
    # The end of a table is a line of its own in what nft lists, whoever's the table is.
    return lambda: [block for block in _kernel._without_ours(_kernel._blocks()) if block != "}"]


OUTSIDE, INSIDE = "10.66.0.2", "10.66.0.1"


class Outside:
    """A host beside this node, wired to the node's own network namespace."""

    address, node = OUTSIDE, INSIDE

    def __init__(self) -> None:
        run("ip", "netns", "add", "outside")
        run("ip", "link", "add", "out0", "type", "veth", "peer", "name", "o1", "netns", "outside")
        run("ip", "addr", "add", f"{INSIDE}/24", "dev", "out0")
        run("ip", "link", "set", "out0", "up")
        for words in (
            ("addr", "add", f"{OUTSIDE}/24", "dev", "o1"),
            ("addr", "add", "10.66.0.3/24", "dev", "o1"),  # the bystander
            ("link", "set", "o1", "up"),
            ("link", "set", "lo", "up"),
            ("route", "add", "default", "via", INSIDE),
        ):
            run("ip", "-n", "outside", *words)

    def does(self, *words: str) -> bool:
        """Whether a command there succeeds."""
        done = _kernel.subprocess.run(
            ["ip", "netns", "exec", "outside", *words], capture_output=True, check=False
        )
        return bool(done.returncode == 0)

    def fetches(self, port: int, source: str = OUTSIDE) -> bool:
        """Whether the node's page at ``port`` is got from there."""
        code = (
            "import socket,sys\n"
            f"s = socket.create_connection(('{INSIDE}', {port}), 1, ('{source}', 0))\n"
            "s.settimeout(1); s.send(b'GET / HTTP/1.0\\r\\n\\r\\n')\n"
            "sys.exit(not s.recv(99).startswith(b'HTTP/'))\n"
        )
        return self.does(sys.executable, "-S", "-c", code)

    def gone(self) -> None:
        """Take it away."""
        run("ip", "netns", "del", "outside", check=False)
        run("ip", "link", "del", "out0", check=False)


@pytest.fixture
def outside() -> Iterator[Outside]:
    there = Outside()
    try:
        yield there
    finally:
        there.gone()


@pytest.fixture
def real_node(outside: Outside, tmp_path: Path) -> Iterator[Callable[[], Any]]:  # noqa: ARG001
    """Makes the product's node in the machine's own network namespace, once all is set up."""
    opened: list[Host] = []

    def make() -> Any:
        opened.append(Host({}))
        made = _kernel.Node(opened[-1], tmp_path / "state", "lab", {})
        made.backend = opened[-1].backend
        return made

    try:
        yield make
    finally:
        for one in opened:
            one.close()


@pytest.fixture
def ends() -> Callable[[Any, str], None]:
    """Reverts a fault and holds that nothing is left."""

    def end(made: Any, fault: str) -> None:
        made.supervisor.obey(Revert(fault=fault), _kernel.now_us())
        status = made.status(fault)
        assert (status.state, status.clean) == ("ended", True), status.detail
        assert made.engine.residue() == []
        assert made.supervisor.quarantine == []

    return end


@pytest.fixture
def refusal(record_property: Callable[[str, object], None]) -> Callable[[Any, str], bool]:
    """Whether a fault was refused, which must be clean and say why; the report shows it."""

    def refused(made: Any, fault: str) -> bool:
        status = made.status(fault)
        if status.state != "refused":
            assert status.state == "in_force", status.detail
            return False
        assert status.code in ("refused", "unsupported"), status.detail
        assert status.clean
        record_property("refused", status.detail)
        return True

    return refused
