"""http.fault: what may be asked, and what it compiles to."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from chaos_core import faults
from chaos_core.effects import Chain, LeasedSet, Rule, Worker
from chaos_core.errors import InvalidInput, Refused
from chaos_core.node import NO_WAY, Device, NodeView, Protected, Way

ID = "0a1b2c3d"
NODE = NodeView(
    "n1",
    cpus=1,
    memory_total=2**30,
    devices=(Device("eth0", ("10.0.0.1",)),),
    elsewhere=Way(("eth0",)),
    protected=Protected(controllers=("10.0.0.9",)),
)


def compiled(node: NodeView = NODE, **given: Any) -> tuple[Any, ...]:
    return faults.parse("http.fault", {"port": 8080, "status": 503, **given}).compile(node, ID)


def test_the_proxy_comes_first_and_what_leads_to_it_hangs_on_the_lease() -> None:
    worker, *sets, four, six = compiled(peers=["10.0.0.2", "fd00::2"], share="10%", path="/api/*")
    assert isinstance(worker, Worker)
    assert worker.name == f"chs-{ID}-w"
    arguments = json.loads(worker.arguments)
    assert arguments["harm"] == {
        "path": "/api/*",
        "method": "*",
        "share": 0.1,
        "status": 503,
        "delay": 0.0,
        "truncate": -1,
        "limit": 0,
        "period": 1.0,
    }
    assert all(isinstance(one, LeasedSet) for one in sets)
    for chain, family in ((four, 4), (six, 6)):
        assert isinstance(chain, Chain)
        assert (chain.table, chain.hook, chain.family) == ("nat", "PREROUTING", family)
        (last,) = [rule for rule in chain.rules if rule.target == "REDIRECT"]
        assert last == Rule(
            "REDIRECT",
            protocol="tcp",
            destination_ports=("8080",),
            match_set=f"chs-{ID}-{family}",
            set_side="src",
            to_port=arguments["port"],
        )
        assert Rule("RETURN", protocol="tcp", destination_ports=("22",)) in chain.rules
    assert Rule("RETURN", source="10.0.0.9/32") in four.rules


def test_by_default_it_is_everybody_in_every_family_that_the_node_speaks() -> None:
    assert [one.entries for one in compiled() if isinstance(one, LeasedSet)] == [
        ("0.0.0.0/1", "128.0.0.0/1"),
        ("::/1", "8000::/1"),
    ]
    only_four = replace(NODE, ways={"0.0.0.0/0": Way(("eth0",))}, elsewhere=NO_WAY)
    assert [one.family for one in compiled(only_four) if isinstance(one, Chain)] == [4]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"status": 0}, "what shall happen"),
        ({"status": 302}, "400 to 599"),
        ({"status": 600}, "status"),
        ({"limit": 5}, "without limit"),
        ({"truncate": 5}, "without limit and truncate"),
        ({"port": 0}, "port"),
        ({"port": 70000}, "port"),
        ({"delay": "61s"}, "at most"),
        ({"period": "0s"}, "at most"),
        ({"method": "get"}, "method"),
        ({"share": "0%"}, "above 0%"),
        ({"local_ports": "80"}, "only one that counts"),
        ({"protocol": "udp"}, "only protocol"),
        ({"uid": 5}, "not known on arrival"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        compiled(**given)


def test_ssh_and_the_controller_are_not_proxied() -> None:
    with pytest.raises(Refused, match="SSH"):
        compiled(port=22)
    with pytest.raises(Refused, match="controller"):
        compiled(replace(NODE, protected=Protected(controllers=("10.0.0.1",))))
