"""Kernel sets (ipset) over nfnetlink: of peers, whose entries time out; of what is protected.

A timeout of 0 means "for ever" to ipset, so it is refused here. The kernel
counts an entry's timeout on a clock that stops in suspend: after a resume an
entry lives on for what was left of its few seconds, unless the keeper is quicker.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import tenacity
from pyroute2 import IPSet
from pyroute2.ipset import AlreadyExists, NoSuchObject, PortEntry
from pyroute2.netlink import NETLINK_NETFILTER
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink.ipset import ipset_msg

from chaos_agent.linux.distribution import module_hint
from chaos_agent.linux.netlink import Connection, decoded, kernel_call, packed
from chaos_core.effects import Family, is_ours
from chaos_core.errors import ChaosError, Unsupported

SET_TYPE = "hash:net"
_AF: dict[Family, socket.AddressFamily] = {4: socket.AF_INET, 6: socket.AF_INET6}
_ADDRESS = ("IPSET_ATTR_IPADDR_IPV4", "IPSET_ATTR_IPADDR_IPV6")
_PROTOCOLS = {"tcp": 6, "udp": 17, "icmpv6": 58}
# linux/netfilter/ipset/ip_set.h: the oldest version of the protocol is the one all kernels speak.
_LIST = 6 << 8 | 7  # NFNL_SUBSYS_IPSET, IPSET_CMD_LIST
_PROTOCOL = (1, b"\x06")
_SETNAME, _FLAGS = 2, 6
_HEADERS_ONLY = (_FLAGS | 0x4000, struct.pack("!I", 1 << 2))  # IPSET_FLAG_LIST_HEADER
_NESTED, _BIG_ENDIAN = 0x8000, 0x4000
_ADD = 6 << 8 | 9  # IPSET_CMD_ADD; without NLM_F_EXCL an entry that is there is moved
_DATA, _ADT, _LINE = 7 | _NESTED, 8 | _NESTED, (9 | _BIG_ENDIAN, bytes(4))
_IP, _CIDR, _TIMEOUT = 1 | _NESTED, 3, 6 | _BIG_ENDIAN  # inside of _DATA
_AT_ONCE = 1_000  # entries in a message: their attribute has room for 64 KiB
_ERR_BUSY = 4100  # IPSET_ERR_BUSY: something refers to the set
_ERR_FIND_TYPE = 4098  # IPSET_ERR_FIND_TYPE: the kernel knows no such set type


@dataclass(frozen=True, slots=True)
class SetHead:
    """A set without its entries. ``default_timeout`` is None when entries never time out."""

    name: str
    kind: str
    family: int
    default_timeout: int | None


class IpSets:
    """Two nfnetlink sockets for ipset: what changes anything goes by pyroute2's. Not thread-safe.

    Raises Unsupported without ipset.
    """

    kind = SET_TYPE

    def __init__(self) -> None:
        try:
            self._ipset = IPSet()
        except NetlinkError as error:
            raise Unsupported(
                f"this kernel has no ipset ({error})",
                hint=f"ip_set and ip_set_hash_net: {module_hint()}",
            ) from None

        self._netlink = Connection(NETLINK_NETFILTER)

    def close(self) -> None:
        self._netlink.close()
        self._ipset.close()

    @kernel_call
    def create(
        self, name: str, family: Family, kind: str = SET_TYPE, timeout: int | None = 1
    ) -> None:
        """Create the set unless it exists. An entry added without a timeout lives 1 s.

        With ``timeout=None`` none of its entries ever times out.
        """
        try:
            self._ipset.create(name, stype=kind, family=_AF[family], timeout=timeout)
        except AlreadyExists:
            return
        except NetlinkError as error:
            if error.code == _ERR_FIND_TYPE:
                raise Unsupported(
                    f"this kernel has no set type {kind} for IPv{family}",
                    where=name,
                    hint=f"its module is one of ip_set_hash_*: {module_hint()}",
                ) from None
            raise

    @kernel_call
    def put(self, name: str, family: Family, cidrs: Iterable[str], timeout: int) -> None:
        """Add entries or move their timeouts, in whole seconds from now, at least 1."""
        if timeout < 1:
            raise ChaosError("a timeout of 0 would be for ever", where=name)
        lifetime = _TIMEOUT, struct.pack("!I", timeout)
        entries = [(_DATA, packed([*_network(cidr), lifetime])) for cidr in cidrs]
        head = struct.pack("=BBH", _AF[family], 0, 0)
        called = _SETNAME, name.encode() + b"\0"
        for at in range(0, len(entries), _AT_ONCE):
            some = _ADT, packed(entries[at : at + _AT_ONCE])
            self._netlink.tell(_ADD, head + packed([_PROTOCOL, called, _LINE, some]))

    move = put

    @kernel_call
    def empty(self, name: str, family: Family) -> None:  # noqa: ARG002
        """Take all entries out of one of our sets. Idempotent, also without the set."""
        if not is_ours(name):
            raise ChaosError("not a set of ours", where=name)
        with suppress(NoSuchObject):
            self._ipset.flush(name)

    @kernel_call
    def keep(self, name: str, family: Family, entries: Iterable[str]) -> None:
        """Add entries that stay to a set without timeouts, written as FixedSet has them."""
        for entry in entries:
            cidr, _, ending = entry.partition(",")
            protocol, _, port = ending.partition(":")
            if ending:
                parts: Any = (cidr, PortEntry(int(port), _PROTOCOLS[protocol]))
            else:
                parts = (cidr,)
            etype = "net,port" if ending else "net"
            self._ipset.add(name, parts, family=_AF[family], exclusive=False, etype=etype)

    @kernel_call
    def kept(self, name: str) -> set[str]:
        """The entries of such a set, in the same form. Empty without the set."""
        return {_cidr(entry) + _ending(entry) for entry in self._entries(name)}

    @kernel_call
    def index(self, name: str) -> int:
        """The number by which a tc filter refers to the set; -1 without it."""
        try:
            message = next(iter(self._ipset.get_set_byname(name)))
        except (NoSuchObject, StopIteration):
            return -1
        return int(message.get_attr("IPSET_ATTR_INDEX"))

    @kernel_call
    def head(self, name: str) -> SetHead | None:
        """The set called ``name``, or None. Raises nothing for one that does not exist."""
        return next(filter(None, map(_head, self._list(name, headers=True))), None)

    @kernel_call
    def heads(self) -> list[SetHead]:
        return list(
            {head.name: head for head in map(_head, self._list(headers=True)) if head}.values()
        )

    @kernel_call
    def entries(self, name: str) -> dict[str, int]:
        """Live entries of a ``hash:net`` set as CIDR → seconds left. Empty without the set."""
        return {
            _cidr(entry): int(entry.get_attr("IPSET_ATTR_TIMEOUT") or 0)
            for entry in self._entries(name)
        }

    @kernel_call
    def destroy(self, name: str) -> None:
        """Remove the set if it is there. Raises while a rule still refers to it.

        A tc filter that was deleted lets go of it a moment later, when the kernel's queue
        of work gets there.
        """
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_busy),
            wait=tenacity.wait_fixed(0.005),
            stop=tenacity.stop_after_delay(0.3),
            reraise=True,
        )
        with suppress(NoSuchObject):
            retrying(self._ipset.destroy, name)

    def _entries(self, name: str) -> list[Any]:
        found = []
        for message in self._list(name):
            adt = message.get_attr("IPSET_ATTR_ADT")
            if adt is not None:
                found.extend(adt.get_attrs("IPSET_ATTR_DATA"))
        return found

    def _list(self, name: str = "", *, headers: bool = False) -> list[Any]:
        """The set of that name, or all; only their headers, or their entries as well."""
        asked = [_PROTOCOL]
        if name:
            asked.append((_SETNAME, name.encode() + b"\0"))
        if headers:
            asked.append(_HEADERS_ONLY)
        try:
            found = self._netlink.dump(
                _LIST, struct.pack("=BBH", socket.AF_INET, 0, 0) + packed(asked)
            )
        except NetlinkError as error:
            if error.code == errno.ENOENT:
                return []
            raise
        return decoded(ipset_msg, found)


def _busy(error: BaseException) -> bool:
    return isinstance(error, NetlinkError) and error.code == _ERR_BUSY


def canonical(cidr: str) -> str:
    """A CIDR as ``entries`` writes it: ``10.0.0.1`` is ``10.0.0.1/32``, host bits are cut."""
    return str(ipaddress.ip_network(cidr, strict=False))


def _network(cidr: str) -> list[tuple[int, bytes]]:
    """An entry of ``hash:net`` as attributes."""
    network = ipaddress.ip_network(cidr, strict=False)
    address = (1 if network.version == 4 else 2) | _BIG_ENDIAN, network.network_address.packed
    return [(_IP, packed([address])), (_CIDR, bytes([network.prefixlen]))]


def _head(message: Any) -> SetHead | None:
    kind = message.get_attr("IPSET_ATTR_TYPENAME")
    if kind is None:  # the later parts of a long listing have no header
        return None
    data = message.get_attr("IPSET_ATTR_DATA")
    return SetHead(
        name=message.get_attr("IPSET_ATTR_SETNAME"),
        kind=kind,
        family={socket.AF_INET: 4, socket.AF_INET6: 6}.get(
            message.get_attr("IPSET_ATTR_FAMILY"), 0
        ),
        default_timeout=data.get_attr("IPSET_ATTR_TIMEOUT") if data else None,
    )


def _ending(entry: Any) -> str:
    number = entry.get_attr("IPSET_ATTR_PROTO")
    if number is None:
        return ""
    protocol = next((name for name, known in _PROTOCOLS.items() if known == number), number)
    port = entry.get_attr("IPSET_ATTR_PORT") or entry.get_attr("IPSET_ATTR_PORT_FROM")
    return f",{protocol}:{port}"


def _cidr(entry: Any) -> str:
    address = entry.get_attr("IPSET_ATTR_IP_FROM") or entry.get_attr("IPSET_ATTR_IP")
    text = next(filter(None, map(address.get_attr, _ADDRESS)))
    prefix = entry.get_attr("IPSET_ATTR_CIDR")
    return str(ipaddress.ip_network(f"{text}/{prefix}" if prefix else text))
