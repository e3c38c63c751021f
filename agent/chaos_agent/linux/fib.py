"""The kernel's routing tables over a netlink socket: questions, rules and dumps.

A fault asks for up to 64 peers once a second, and a node may have thousands of routes. So
the messages are made and read here by ``struct``, a route in 4 µs, which takes pyroute2 130.
Only what the callers need is read.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pyroute2.netlink.exceptions import NetlinkError

from chaos_agent.linux.netlink import Connection, attributes, packed, text
from chaos_agent.linux.refusal import refusal
from chaos_core.effects import Family

_AF: dict[Family, int] = {4: socket.AF_INET, 6: socket.AF_INET6}

# linux/netlink.h, linux/rtnetlink.h, linux/fib_rules.h, linux/nexthop.h, linux/if_link.h
_GET_LINK, _GET_ADDR, _GET_ROUTE, _GET_RULE, _GET_NEXTHOP = 18, 22, 26, 34, 106
_RTMSG = struct.Struct("=BBBBBBBBI")
_FIB_MATCH, _CLONED = 0x2000, 0x200
_RTA_DST, _RTA_SRC, _RTA_IIF, _RTA_OIF, _RTA_PRIORITY, _RTA_MULTIPATH = 1, 2, 3, 4, 6, 9
_RTA_TABLE, _RTA_MARK, _RTA_UID, _RTA_PROTOCOL, _RTA_SPORT, _RTA_DPORT = 15, 16, 25, 27, 28, 29
_RTA_NH_ID = 30
_FRA_DST, _FRA_SRC, _FRA_IIF, _FRA_MARK, _FRA_TABLE = 1, 2, 3, 10, 15
_FRA_OIF, _FRA_L3MDEV, _FRA_UIDS, _FRA_PROTOCOL, _FRA_SPORTS, _FRA_DPORTS = 17, 19, 20, 22, 23, 24
_NHA_ID, _NHA_GROUP, _NHA_BLACKHOLE, _NHA_OIF = 1, 2, 4, 5
_IFLA_NAME, _IFLA_MASTER, _IFLA_LINKINFO = 3, 10, 18
_INFO_KIND, _INFO_DATA, _VRF_TABLE = 1, 2, 1  # a number of other kinds' as well
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFF_UP, _IFF_LOOPBACK = 1, 8
_INVERT = 2
_DEAD = 1  # RTNH_F_DEAD: its device is down
_TO_TABLE = 1
_UNICAST = 1
UNICAST = "unicast"
_TYPES = {
    _UNICAST: UNICAST, 2: "local", 3: "broadcast", 4: "anycast", 5: "multicast",
    6: "blackhole", 7: "unreachable", 8: "prohibit",
}  # fmt: skip
_LISTED = (_UNICAST, 6, 7, 8)
# What the kernel says instead of a route that carries nothing.
_ERRORS = {
    errno.EINVAL: "blackhole", errno.EHOSTUNREACH: "unreachable", errno.EACCES: "prohibit",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Packet:
    """What rules look at besides the destination. ``iif`` and ``oif`` are ifindexes."""

    mark: int = 0
    source: str = ""
    iif: int = 0
    oif: int = 0
    uid: int | None = None
    protocol: int = 0
    sport: int = 0
    dport: int = 0
    tos: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """A route: its kind, and the ifindexes of all its next hops that are alive."""

    kind: str
    hops: tuple[int, ...] = ()
    table: int = 0


class Listed(NamedTuple):
    """A route of a dump: what it leads to as an integer with a prefix length.

    A tuple, since there may be tens of thousands.
    """

    kind: str
    table: int
    network: int
    length: int
    metric: int
    hops: tuple[int, ...] = ()

    def rank(self) -> tuple[int, int]:
        """The smallest of those that hold an address is taken."""
        return -self.length, self.metric


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that looks a table up. ``iif`` and ``oif`` are names."""

    table: int
    to: str = ""
    source: str = ""
    iif: str = ""
    oif: str = ""
    mark: int = 0
    uid: int | None = None
    protocol: int = 0
    sport: int = 0
    dport: int = 0
    tos: int = 0
    inverted: bool = False
    vrfs: bool = False  # the table of the VRF that the packet belongs to

    def packet(self) -> Packet:
        """One that it matches, or does not when it is inverted; but for iif, oif and source."""
        return Packet(
            mark=self.mark, uid=self.uid, protocol=self.protocol, sport=self.sport,
            dport=self.dport, tos=self.tos,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Port:
    """A network device: its kind (empty for hardware), the ifindex of the device that it

    belongs to, and the table of a VRF.
    """

    index: int
    name: str
    kind: str
    up: bool
    loopback: bool
    master: int
    table: int = 0


class Fib:
    """One netlink socket. Not thread-safe."""

    def __init__(self) -> None:
        self._netlink = Connection()

    def close(self) -> None:
        self._netlink.close()

    def ask(self, family: Family, destination: str, packet: Packet) -> Found:
        """The route that the kernel takes for such a packet; kind ``none`` without one."""
        question = _question(family, destination, packet)
        try:
            return self._route(self._netlink.ask(_GET_ROUTE, question)[Connection.HEADER :])
        except NetlinkError as error:
            return Found(_ERRORS.get(error.code, "none"))

    def _route(self, data: bytes) -> Found:
        *_, table, _, _, kind, flags = _RTMSG.unpack_from(data)
        given = attributes(data, _RTMSG.size)
        hops = _hops(given, flags)
        if not hops and _RTA_NH_ID in given:  # all there is with net.ipv4.nexthop_compat_mode=0
            hops = self._nexthop(_number(given, _RTA_NH_ID))
        return Found(_TYPES.get(kind, "none"), hops, _number(given, _RTA_TABLE) or table)

    def _nexthop(self, number: int, depth: int = 0) -> tuple[int, ...]:
        """The ifindexes of a next hop object, or of all of a group."""
        body = struct.pack("=BBBBI", 0, 0, 0, 0, 0) + packed([(_NHA_ID, struct.pack("=I", number))])
        try:
            data = self._netlink.ask(_GET_NEXTHOP, body)[Connection.HEADER :]
        except NetlinkError:
            return ()
        given = attributes(data, 8)
        if _NHA_OIF in given:
            dead = struct.unpack_from("=I", data, 4)[0] & _DEAD
            return () if dead else (_number(given, _NHA_OIF),)
        group = given.get(_NHA_GROUP, b"") if depth == 0 else b""
        members = [struct.unpack_from("=I", group, at)[0] for at in range(0, len(group), 8)]
        return tuple(hop for one in members for hop in self._nexthop(one, depth + 1))

    def routes(self, family: Family) -> list[Listed]:
        """The routes of all tables that lead somewhere, or expressly nowhere.

        Raises Unsupported when they are too many.
        """
        head = _RTMSG.pack(_AF[family], 0, 0, 0, 0, 0, 0, 0, 0)
        found: list[Listed] = []
        objects: list[tuple[Listed, int]] = []  # of which the dump tells a number alone
        for data in self._dump(_GET_ROUTE, head):
            _, length, _, _, table, _, _, kind, flags = _RTMSG.unpack_from(data)
            if kind not in _LISTED or flags & _CLONED:
                continue
            given = attributes(data, _RTMSG.size)
            to = int.from_bytes(given.get(_RTA_DST, b""), "big")
            table = _number(given, _RTA_TABLE) or table
            metric = _number(given, _RTA_PRIORITY)
            hops = _hops(given, flags) if kind == _UNICAST else ()
            route = Listed(_TYPES[kind], table, to, length, metric, hops)
            if hops or kind != _UNICAST or _RTA_NH_ID not in given:
                found.append(route)
            else:
                objects.append((route, _number(given, _RTA_NH_ID)))
        known = {number: self._nexthop(number) for number in {number for _, number in objects}}
        return [*found, *(route._replace(hops=known[number]) for route, number in objects)]

    def rules(self, family: Family) -> list[Rule]:
        """The rules that look a table up, in the order in which the kernel asks them."""
        head = _RTMSG.pack(_AF[family], 0, 0, 0, 0, 0, 0, 0, 0)
        return [rule for data in self._dump(_GET_RULE, head) if (rule := _rule(data)) is not None]

    def ports(self, kind: str = "") -> list[Port]:
        """All network devices, or those of a kind, such as ``vrf``."""
        head = struct.pack("=BxHiII", 0, 0, 0, 0, 0)
        asked = packed([(_INFO_KIND, kind.encode() + b"\0")])
        body = head + packed([(_IFLA_LINKINFO, asked)]) if kind else head
        found = []
        for data in self._dump(_GET_LINK, body):
            given = attributes(data, 16)
            index, flags = struct.unpack_from("=iI", data, 4)
            about = attributes(given.get(_IFLA_LINKINFO, b""), 0)
            found.append(
                Port(
                    index,
                    text(given.get(_IFLA_NAME, b"")),
                    text(about.get(_INFO_KIND, b"")),
                    bool(flags & _IFF_UP),
                    bool(flags & _IFF_LOOPBACK),
                    _number(given, _IFLA_MASTER),
                    _number(attributes(about.get(_INFO_DATA, b""), 0), _VRF_TABLE),
                )
            )
        return [one for one in found if kind in ("", one.kind)]

    def addresses(self, family: Family) -> list[tuple[int, str]]:
        """This node's own: ifindex and address."""
        head = struct.pack("=BBBBI", _AF[family], 0, 0, 0, 0)
        found = []
        for data in self._dump(_GET_ADDR, head):
            given = attributes(data, 8)
            address = given.get(_IFA_LOCAL) or given.get(_IFA_ADDRESS)
            if address:
                index = struct.unpack_from("=I", data, 4)[0]
                found.append((index, socket.inet_ntop(_AF[family], address)))
        return found

    def _dump(self, kind: int, body: bytes) -> Iterator[bytes]:
        """The payload of each message of a listing."""
        try:
            messages = self._netlink.dump(kind, body)
        except NetlinkError as error:
            raise refusal("list routing", error.code) from error
        for message in messages:
            yield message[Connection.HEADER :]


def _question(family: Family, destination: str, packet: Packet) -> bytes:
    pack = struct.Struct("=I").pack
    wanted = [(_RTA_DST, socket.inet_pton(_AF[family], destination))]
    if packet.source:
        wanted.append((_RTA_SRC, socket.inet_pton(_AF[family], packet.source)))
    for kind, number in (
        (_RTA_MARK, packet.mark),
        (_RTA_IIF, packet.iif),
        (_RTA_OIF, packet.oif),
    ):
        if number:
            wanted.append((kind, pack(number)))
    if packet.uid is not None:
        wanted.append((_RTA_UID, pack(packet.uid)))
    if packet.protocol:
        wanted.append((_RTA_PROTOCOL, bytes([packet.protocol])))
    wanted += [
        (kind, struct.pack("!H", port))
        for kind, port in ((_RTA_SPORT, packet.sport), (_RTA_DPORT, packet.dport))
        if port
    ]
    bits = 32 if family == 4 else 128
    head = _RTMSG.pack(
        _AF[family], bits, bits if packet.source else 0, packet.tos, 0, 0, 0, 0, _FIB_MATCH
    )
    return head + packed(wanted)


def _hops(given: dict[int, bytes], flags: int) -> tuple[int, ...]:
    """The ifindexes of the next hops that are alive."""
    if _RTA_MULTIPATH in given:
        return tuple(_multipath(given[_RTA_MULTIPATH]))
    if _RTA_OIF in given and not flags & _DEAD:
        return (_number(given, _RTA_OIF),)
    return ()


def _multipath(data: bytes) -> Iterator[int]:
    at = 0
    while at + 8 <= len(data):
        size, flags, _, index = struct.unpack_from("=HBBi", data, at)
        if not flags & _DEAD:
            yield index
        at += max((size + 3) & ~3, 8)


def _number(given: dict[int, bytes], kind: int) -> int:
    """An attribute of 4 bytes; 0 when it is not there."""
    return int.from_bytes(given.get(kind, b""), sys.byteorder)


def _rule(data: bytes) -> Rule | None:
    _, to_length, from_length, tos, table, _, _, action, flags = _RTMSG.unpack_from(data)
    if action != _TO_TABLE:
        return None
    given = attributes(data, _RTMSG.size)

    def network(kind: int, length: int) -> str:
        address = given.get(kind)
        return f"{ipaddress.ip_address(address)}/{length}" if address else ""

    def first(kind: int, form: str) -> int:
        return int(struct.unpack_from(form, given[kind])[0]) if kind in given else 0

    mark = _number(given, _FRA_MARK)
    return Rule(
        table=_number(given, _FRA_TABLE) or table,
        to=network(_FRA_DST, to_length),
        source=network(_FRA_SRC, from_length),
        iif=text(given.get(_FRA_IIF, b"")),
        oif=text(given.get(_FRA_OIF, b"")),
        mark=mark,
        uid=first(_FRA_UIDS, "=I") if _FRA_UIDS in given else None,
        protocol=first(_FRA_PROTOCOL, "=B"),
        sport=first(_FRA_SPORTS, "=H"),
        dport=first(_FRA_DPORTS, "=H"),
        tos=tos,
        inverted=bool(flags & _INVERT),
        vrfs=bool(given.get(_FRA_L3MDEV, b"\0")[0]),
    )
