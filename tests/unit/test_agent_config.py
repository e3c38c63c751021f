"""agent.toml: what is refused says file, line and field; nobody but root may write it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from chaos_agent import allowed, config
from chaos_agent.services import ADDRESS, PASSWORD_FILE
from chaos_core.errors import InvalidInput, Refused
from chaos_core.node import DEFAULT_MARK_MASK
from chaos_core.units import Duration, Percent
from chaos_experiment import probes
from chaos_experiment.probes import Place


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
        ('[probes]\nhosts = "localhost"\n', "agent.toml:2", "a list"),
        ('[probes]\nhosts = ["10.0.0.1/8"]\n', "agent.toml:2", "host bits"),
        ('[probes]\nhosts = ["a b"]\n', "agent.toml:2", "no host, address or CIDR"),
        ('[probes]\nfiles = ["heartbeat"]\n', "agent.toml:2", "not an absolute path"),
        ('[probes]\nkinds = ["redis"]\n', "agent.toml:2", "'redis' is not one of host, process"),
        ('[probes]\ncommands = ["x"]\n', "agent.toml:2", "a table"),
        ('[probes.commands]\nx = "ls"\n', "agent.toml:2", "a list of words"),
        ('[probes.commands]\n\nx = ["ls"]\n', "agent.toml:3", "not the absolute path"),
        ('[probes.commands]\n"X y" = ["/bin/ls"]\n', "agent.toml:2", "its name is"),
        ("[probes]\nhost = []\n", "agent.toml:2", "unknown key 'host'"),
    ],
)
def test_a_mistake_is_told_with_file_line_and_field(text: str, where: str, what: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        config.parse(text, "agent.toml")
    assert caught.value.where == where
    assert what in caught.value.what


def test_what_probes_may_touch_is_nothing_unless_it_is_listed() -> None:
    assert config.parse("", "agent.toml").probes.kinds == ("host", "process")
    text = """
        [probes]
        hosts = ["10.77.0.0/24", "LocalHost", "fd00::1"]
        files = ["/srv/heartbeat"]
        [probes.commands]
        depth = ["/usr/bin/depth", "--orders"]
        """
    read = config.parse(text, "agent.toml").probes
    assert read.hosts == ("10.77.0.0/24", "localhost", "fd00::1")
    assert read.commands == {"depth": ("/usr/bin/depth", "--orders")}
    assert read.kinds == ("host", "process", "http", "tcp", "dns", "grpc", "command", "file")
    fewer = config.parse('[probes]\nkinds = ["host", "http"]\n', "agent.toml").probes
    assert fewer.kinds == ("host",)


def test_the_kinds_that_a_node_offers_are_those_that_can_look_from_one() -> None:
    able = {name for name, kind in probes.kinds().items() if kind.place is not Place.CONTROLLER}
    assert set(allowed.KINDS) == able
    assert set(allowed.MACHINE) == {n for n in able if probes.kinds()[n].place is Place.NODE}


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


def test_every_key_is_in_the_table_of_the_docs_and_no_other() -> None:
    page = Path(__file__).parents[2].joinpath("docs/hardening.md").read_text(encoding="utf-8")
    section = page.partition("\n## agent.toml\n")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `([a-zA-Z_.]+)` \|", section, re.MULTILINE)
    services = {
        f"{kind}.NAME.{key}"
        for kind, (where, *_) in ADDRESS.items()
        for key in ((where,) if kind == "memcached" else (where, PASSWORD_FILE))
    }
    wanted = {f"{part}.{key}" for part, keys in config._KEYS.items() for key in keys}
    wanted |= {f"hooks.NAME.{key}" for key in config._HOOK_KEYS} | services
    assert sorted(listed) == sorted(wanted)
    assert f"`{DEFAULT_MARK_MASK:#010x}`" in section
