"""Probes that look from nodes: what a scenario may ask of one, and what a node lets be asked."""

from __future__ import annotations

from typing import Any

import pytest

from chaos_core.errors import InvalidInput
from chaos_experiment.load import Loaded, load
from chaos_experiment.offer import Offer
from chaos_experiment.probes import Probe, kinds

SHOP = """\
title: The shop as its clients see it
targets:
  web: {{names: [n1]}}
  clients: {{labels: [role=client]}}
probes:
  shop:
    {probe}
  other: {{tcp: {{address: "10.0.0.1:80", from: clients}}}}
steady_state: ["shop.error_rate < 1%", "other.error_rate < 1%"]
timeline:
  - {{for: 10s, fault: cpu.stress, on: web, with: {{percent: 10%}}}}
"""


def loaded(probe: str) -> Loaded:
    return load(SHOP.format(probe=probe), "shop.yaml")


def made(kind: str, **fields: Any) -> Probe:
    return kinds()[kind].model_validate({"from": "web", **fields})


def test_a_target_may_be_there_for_looking_only() -> None:
    shop = loaded("host: {metric: cpu, from: web}")
    assert (shop.probes["shop"].look_from, shop.probes["other"].look_from) == ("web", "clients")
    assert shop.probes["shop"].unit == "percent"


@pytest.mark.parametrize(
    ("probe", "place", "says"),
    [
        ("host: {metric: cpu}", "host.from", "is required"),
        ("process: {unit: nginx}", "process.from", "is required"),
        ("host: {metric: cpu, from: we}", "host.from", "no target 'we' (did you mean 'web'"),
        ("host: {metric: cpus, from: web}", "host.metric", "'cpu'"),
        ("host: {metric: disk_used, from: web}", "host", "path: disk_used takes one"),
        ("host: {metric: cpu, path: /, from: web}", "host", "path: cpu takes none"),
        ("process: {from: web}", "process", "give unit, name or cmdline"),
        ("process: {unit: x, from: web, interval: 500ms}", "process", "at least 1s"),
        ("process: {unit: a/b, from: web}", "process.unit", "not a service's name"),
        ("etcd: {url: 'http://x', from: web}", "etcd.from", "from the controller"),
        ("http: {url: 'http://x', rate: 101, from: web}", "http.rate", "more than 100"),
        ("http: {url: 'http://x', rate: 50, timeout: 5s, from: web}", "http.timeout", "than 200"),
        ("http: {url: 'http://x', method: POST, from: web}", "http.method", "only reads"),
        ("http: {url: 'http://x', body_matches: a, from: web}", "http.body_matches", "controller"),
        ("command: {command: x, interval: 500ms, from: web}", "command.interval", "more than 1"),
        ("command: {command: x, timeout: 30s, from: web}", "command.timeout", "more than 10"),
        ("tcp: {address: 'x:1', retries: 10, from: web}", "tcp.retries", "more than 10"),
    ],
)
def test_what_no_node_is_asked_is_refused_with_its_place(probe: str, place: str, says: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        loaded(probe)
    assert refused.value.where == f"shop.yaml:7:probes.shop.{place}"
    assert says in f"{refused.value.what} ({refused.value.hint})"


def test_the_probe_of_a_where_looks_from_the_controller() -> None:
    text = SHOP.format(probe="host: {metric: cpu, from: clients}").replace(
        "web: {names: [n1]}", "web: {names: [n1], where: 'shop.value > 80'}"
    )
    with pytest.raises(InvalidInput, match="looks from the controller"):
        load(text.replace('"shop.error_rate < 1%", ', ""), "shop.yaml")


OFFER = Offer(
    kinds=("host", "process", "http", "tcp", "dns", "grpc", "command", "file"),
    hosts=("10.77.0.0/24", "shop.example", "fd00::1", "169.254.9.9"),
    commands=("depth",),
    files=("/srv/heartbeat",),
)


@pytest.mark.parametrize(
    "probe",
    [
        made("host", metric="cpu"),
        made("host", metric="disk_used", path="/srv"),
        made("process", unit="nginx"),
        made("http", url="http://10.77.0.9:81/"),
        made("http", url="http://SHOP.example/"),
        made("tcp", address="[fd00::1]:5432"),
        made("tcp", address="169.254.9.9:80"),
        made("dns", name="x.example"),
        made("grpc", address="shop.example:1"),
        made("command", command="depth"),
        made("file", path="/srv/heartbeat"),
    ],
)
def test_what_a_node_allows(probe: Probe) -> None:
    OFFER.check(probe)


@pytest.mark.parametrize(
    ("probe", "field"),
    [
        (made("http", url="http://10.78.0.9/"), "url"),
        (made("http", url="http://10.77.0.9.example/"), "url"),
        (made("http", url="http://www.shop.example/"), "url"),
        (made("http", url="https://shop.example/", ca_file="/etc/shadow"), "ca_file"),
        (made("tcp", address="169.254.169.254:80"), "address"),
        (made("tcp", address="[fd00::2]:1"), "address"),
        (made("tcp", address="localhost:22"), "address"),
        (made("tcp", address="167772161:22"), "address"),
        (made("dns", name="x", server="10.1.1.1"), "server"),
        (made("grpc", address="10.0.0.1:1"), "address"),
        (made("command", command="rm"), "command"),
        (made("file", path="/etc/passwd"), "path"),
        (made("file", path="/srv/../srv/heartbeat"), "path"),
    ],
)
def test_what_a_node_does_not_allow(probe: Probe, field: str) -> None:
    with pytest.raises(InvalidInput, match=r"the node's agent\.toml does not allow it") as refused:
        OFFER.check(probe)
    assert refused.value.where == field


def test_metadata_is_not_reached_by_allowing_everything() -> None:
    everything = Offer(("tcp",), ("0.0.0.0/0", "::/0"))
    everything.check(made("tcp", address="10.0.0.1:1"))
    for address in ("169.254.169.254:80", "[fe80::1]:80", "[fd00:ec2::254]:80"):
        with pytest.raises(InvalidInput):
            everything.check(made("tcp", address=address))


def test_a_kind_that_is_not_offered() -> None:
    with pytest.raises(InvalidInput, match="no probe of kind host"):
        Offer(kinds=("process",)).check(made("host", metric="cpu"))
