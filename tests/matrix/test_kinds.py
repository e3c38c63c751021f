"""Every kind of network fault with its rules in either firewall: it bites, and leaves nothing."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

TOOLS = ("iptables-legacy", "ip6tables-legacy")
TABLES = ("mangle", "filter", "security", "raw", "nat")
BACKENDS = {
    "xtables": (
        "iptables-legacy -w -A INPUT -s 192.0.2.1 -j ACCEPT",
        # A table that nobody has opened is not listed; one that we have opened stays, empty.
        *(f"{tool} -w -t {table} -S" for tool in TOOLS for table in TABLES),
    ),
    "nft": (
        "nft add table inet users",
        "nft add chain inet users input { type filter hook input priority 0; }",
        "nft add rule inet users input counter accept",
    ),
}
FAULTS = (
    *("latency", "loss out", "loss in", "partition drop", "partition in", "partition reject"),
    *("flap", "down", "dns", "corrupt", "reorder", "rate", "latency in", "duplicate", "reject"),
    *("limit", "blackhole", "tamper", "http", "dns answered"),
)
NOT_IN_NFT = ("dns", "tamper", "dns answered")


@pytest.mark.parametrize("backend", [*BACKENDS])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_kind_bites_and_leaves_nothing(
    node: Any,
    net: Any,
    host: Any,
    sh: Callable[..., str],
    listing: Callable[[], list[str]],
    coexistence: ModuleType,
    refusal: Callable[[Any, str], bool],
    record_property: Callable[[str, object], None],
    fault: str,
    backend: str,
) -> None:
    for command in BACKENDS[backend]:
        sh(*command.split())
    assert host.backend == backend
    before = listing()
    if backend == "nft" and fault in NOT_IN_NFT:
        kind, params, _ = coexistence.FAULTS[fault]
        made = node.apply(kind, peers=net.peer[4], **params)
        assert refusal(node, made), "it was not refused"
    else:
        coexistence.works_beside(node, net, coexistence.Thing(()), [fault], sh, listing)
        (hits,) = {one.hits for one in node.supervisor.heartbeat(0).faults}
        assert hits, "it is not counted"
        assert hits.count, "nothing was hit"
        record_property("hits", str(hits))
    assert listing() == before
    assert node.supervisor.quarantine == []


def test_no_kind_is_forgotten(coexistence: ModuleType) -> None:
    assert set(FAULTS) == set(coexistence.FAULTS)
