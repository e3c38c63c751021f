"""agent.toml: what is refused says file, line and field; nobody but root may write it."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos_agent import config
from chaos_core.errors import InvalidInput, Refused
from chaos_core.units import Duration, Percent


def test_an_empty_file_is_a_production_node_without_a_controller() -> None:
    read = config.parse("", "agent.toml")
    assert read.envelope.profile == "production"
    assert read.controller == ""
    assert read.protected.ssh_ports == (22,)


def test_a_full_file_is_read() -> None:
    read = config.parse(
        """
        [node]
        name = "db-1"
        [controller]
        address = "127.0.0.1:7400"
        [envelope]
        profile = "staging"
        latency = "100ms"
        cpu = "20%"
        [network]
        mark_mask = 0x00f00000
        ssh_ports = [22, 2222]
        protected = ["192.0.2.0/24", "2001:db8::1"]
        """,
        "agent.toml",
    )
    assert read.node == "db-1"
    assert read.envelope.latency == Duration.parse("100ms")
    assert read.envelope.cpu == Percent.parse("20%")
    assert read.protected.controllers == ("127.0.0.1",)
    assert read.protected.peers == ("192.0.2.0/24", "2001:db8::1/128")
    assert read.mark_mask == 0x00F00000


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ('[envelope]\nlatency = "51ms"\n', "agent.toml:2", "above the production profile's 50ms"),
        ('[envelope]\nloss = "2%"\n', "agent.toml:2", "above"),
        ('[envelope]\nlatency = "50"\n', "agent.toml:2", "has no unit"),
        ("[envelope]\nruns = true\n", "agent.toml:2", "runs"),
        ('[envelope]\nnodes = "all"\n', "agent.toml:2", "unknown key 'nodes'"),
        ('[envelope]\nprofile = "prod"\n', "agent.toml:2", "unknown profile 'prod'"),
        ("[envelop]\n", "agent.toml:1", "unknown key 'envelop'"),
        ('[node]\n\nnmae = "x"\n', "agent.toml:3", "unknown key 'nmae'"),
        ('[node]\nname = "Bad Name"\n', "agent.toml:2", "node.name"),
        ("[node\n", "agent.toml:1", "Expected"),
        ('[controller]\naddress = "nowhere"\n', "agent.toml:2", "not host:port"),
        ('[controller]\naddress = "no.such.host.invalid:1"\n', "agent.toml:2", "does not resolve"),
        ("[network]\nmark_mask = 1\n", "agent.toml:2", "mask"),
        ("[network]\nssh_ports = []\n", "agent.toml:2", "1 to 15"),
        ('[network]\nprotected = ["10.0.0.1/8"]\n', "agent.toml:2", "host bits"),
    ],
)
def test_a_mistake_is_told_with_file_line_and_field(text: str, where: str, what: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        config.parse(text, "agent.toml")
    assert caught.value.where == where
    assert what in caught.value.what


def test_a_file_that_others_can_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text("")
    path.chmod(0o644)
    tmp_path.chmod(0o755)
    config.load(path)
    path.chmod(0o664)
    with pytest.raises(Refused, match="writable by others"):
        config.load(path)
    path.chmod(0o644)
    tmp_path.chmod(0o777)
    with pytest.raises(Refused, match="writable by others"):
        config.load(path)


def test_a_file_that_is_named_and_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no such file"):
        config.load(tmp_path / "other.toml")
