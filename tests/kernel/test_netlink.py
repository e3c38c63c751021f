"""Links, neighbours and errors read over the netlink socket, compared with iproute2."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pyroute2.netlink.rtnl import RTM_GETLINK

from chaos_agent.linux import netlink
from chaos_agent.linux.host import Host
from chaos_agent.linux.netlink import Connection, NetlinkError
from chaos_core.errors import ChaosError, Unsupported

pytestmark = pytest.mark.usefixtures("net")
_ALL_LINKS = struct.pack("=BxHiII", 0, 0, 0, 0, 0)


@pytest.fixture
def connection() -> Iterator[Connection]:
    made = Connection()
    yield made
    made.close()


def test_links_are_what_ip_lists(host: Host, sh: Callable[..., str]) -> None:
    for number in range(300):  # more than one message of the kernel's holds
        sh("ip", "link", "add", f"many{number}", "type", "veth", "peer", "name", f"other{number}")
    sh("ip", "link", "set", "many7", "alias", "chaos clsact=5")
    sh("ip", "link", "set", "many8", "alias", "a user's")
    sh("ip", "link", "set", "many9", "up")
    listed = json.loads(sh("ip", "-json", "-details", "link", "show"))
    wanted = {
        (
            one["ifindex"],
            one["ifname"],
            one.get("linkinfo", {}).get("info_kind", ""),
            "UP" in one["flags"],
            "LOOPBACK" in one["flags"],
        )
        for one in listed
    }
    found = host.tc.links()
    assert len(found) > 600
    assert {(one.index, one.name, one.kind, one.up, one.loopback) for one in found} == wanted
    assert [one.name for one in found if one.clsact_of] == ["many7"]
    for one in found:
        assert host.tc.link(one.name) == one
    assert host.tc.link("none") is None
    assert host.tc.link("longer-than-any-name-can-be") is None


def test_an_alternative_name_is_no_link(host: Host, sh: Callable[..., str]) -> None:
    sh("ip", "link", "property", "add", "dev", "v0", "altname", "other-name")
    assert host.tc.link("other-name") is None


def test_neighbours_that_are_sought_in_vain_are_seen(
    host: Host, net: Any, wait_for: Callable[..., None]
) -> None:
    device = host.tc.link("v0")
    assert device is not None
    assert not net.ping("10.9.0.99")
    wait_for(lambda: "10.9.0.99" in map(str, host.tc.unresolved(device.index)))
    net.ping(net.peer[4])
    assert net.peer[4] not in map(str, host.tc.unresolved(device.index))


def test_what_the_kernel_refuses_is_raised_and_the_next_answer_is_the_next(
    connection: Connection,
) -> None:
    with pytest.raises(NetlinkError) as caught:
        connection.ask(RTM_GETLINK, _named("none"))
    assert caught.value.code == 19  # ENODEV
    with pytest.raises(NetlinkError):
        connection.dump(9999, b"")
    assert len(connection.dump(RTM_GETLINK, _ALL_LINKS)) >= 2


def test_an_answer_that_nobody_waited_for_is_not_taken_for_the_next(
    connection: Connection,
) -> None:
    connection._send(RTM_GETLINK, netlink.REQUEST | netlink.DUMP, _ALL_LINKS)
    (index,) = struct.unpack_from("=i", connection.ask(RTM_GETLINK, _named("lo")), 20)
    assert socket.if_indextoname(index) == "lo"


def test_too_many_are_refused_and_the_next_answer_is_whole(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netlink, "MAX_MESSAGES", 1)
    with pytest.raises(Unsupported, match="more than 1 "):
        connection.dump(RTM_GETLINK, _ALL_LINKS)
    monkeypatch.undo()
    assert len(connection.dump(RTM_GETLINK, _ALL_LINKS)) >= 2


@pytest.mark.parametrize("changes", [1, 100])
def test_a_list_that_changes_while_it_is_read_is_read_again_and_never_used_in_part(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, changes: int
) -> None:
    """A link that is missing from it would be taken for one that is gone."""
    receive, left = connection._receive, [changes]

    def interrupted() -> Iterator[tuple[int, bytes]]:
        left[0] -= 1
        for kind, message in receive():
            flags = 0x10 if left[0] >= 0 else 0  # NLM_F_DUMP_INTR
            yield kind, message[:6] + struct.pack("=H", flags) + message[8:]

    monkeypatch.setattr(connection, "_receive", interrupted)
    if changes > 1:
        with pytest.raises(ChaosError, match="kept changing"):
            connection.dump(RTM_GETLINK, _ALL_LINKS)
    else:
        assert len(connection.dump(RTM_GETLINK, _ALL_LINKS)) >= 2


def test_a_kernel_that_does_not_answer_is_not_waited_for(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_send", lambda *_: None)
    connection._socket.settimeout(0.05)
    with pytest.raises(ChaosError, match="does not answer"):
        connection.dump(RTM_GETLINK, _ALL_LINKS)


def _named(name: str) -> bytes:
    return _ALL_LINKS + netlink.packed([(3, name.encode() + b"\0")])
