"""What a fault may know of this node's devices and routes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chaos_agent.linux.host import Host
from chaos_agent.linux.routes import Route


def test_devices_are_listed_with_addresses_and_prefs_in_use(
    host: Host, net: Any, users: Any, sh: Callable[..., str]
) -> None:
    users.add_clsact()
    sh("ip", "link", "add", "chs-0000000a-0", "type", "ifb")
    devices = {device.name: device for device in host.routes.devices()}
    assert devices.keys() == {"lo", "v0", "mine0"}
    assert devices["lo"].loopback
    assert not devices["v0"].loopback
    assert devices["v0"].up
    assert not devices["mine0"].up
    assert (devices["v0"].kind, devices["mine0"].kind) == ("veth", "ifb")
    assert {net.near[4], net.near[6]} <= set(devices["v0"].addresses)
    assert devices["v0"].prefs == {7}
    assert devices["mine0"].prefs == frozenset()


def test_routes_of_the_main_table_are_listed(host: Host, net: Any, sh: Callable[..., str]) -> None:
    near = net.peer[4]
    sh("ip", "route", "add", "default", "via", near, "metric", "50")
    sh("ip", "route", "add", "198.51.100.0/24", "nexthop", "via", near, "nexthop", "dev", "v0")
    sh("ip", "route", "add", "blackhole", "203.0.113.0/24")
    sh("ip", "route", "add", "192.0.2.0/24", "via", near, "table", "100")
    sh("ip", "-6", "route", "add", "default", "via", net.peer[6], "metric", "70")
    routes = host.routes.routes()
    assert Route(4, "0.0.0.0/0", "v0", 50) in routes
    assert Route(6, "::/0", "v0", 70) in routes
    assert Route(4, "10.9.0.0/24", "v0", 0) in routes
    assert routes.count(Route(4, "198.51.100.0/24", "v0", 0)) == 2
    assert not {route.destination for route in routes} & {"203.0.113.0/24", "192.0.2.0/24"}
