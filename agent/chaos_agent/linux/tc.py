"""Links and traffic control over rtnetlink: what a Pipe is made of.

Root qdiscs of devices are read, never written: only links of our own get one.

Two tags make our objects recognisable without a journal, whatever crashed when:

- a link's alias ``chaos clsact=<ifindex>`` says that the clsact qdisc on that
  device was added by us. It is written before the clsact is added and goes with
  the link, which is removed last, so it is never missing while it is needed;
- the redirect action's index is ``ACTION_TAG | link's ifindex``. The kernel
  counts its own indices up from 1, so a filter is known as ours even when the
  link it redirects to has been deleted by somebody. With ``CLAIM_TAG`` it repeats
  the link's claim of the clsact.
"""

from __future__ import annotations

import errno
import ipaddress
import re
import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from chaos_agent.linux.catching import SetMatch
from chaos_agent.linux.distribution import module_hint
from chaos_agent.linux.netlink import Connection, attributes, decoded, kernel_call, packed, text
from chaos_agent.linux.shaping import in_ticks, read_netem
from chaos_agent.linux.tcvalues import (
    CLAIM,
    EGRESS,
    INGRESS,
    U32,
    Link,
    Redirect,
    Verdict,
    action_index,
    read_link,
    read_redirect,
    verdict,
)
from chaos_core.addresses import Network
from chaos_core.effects import Family, Netem, Tbf
from chaos_core.errors import ChaosError, Unsupported

_ETH_P_ALL = 3
_ETH_P: dict[Family, int] = {4: 0x0800, 6: 0x86DD}
_NETEM = 0x10000  # the handle of our netem qdiscs; their one class is 1:1
_ANY = {4: ipaddress.IPv4Address(0), 6: ipaddress.IPv6Address(0)}
_NUD_INCOMPLETE = 0x01
_NUD_FAILED = 0x20

# linux/rtnetlink.h, linux/if_link.h, linux/neighbour.h
_GET_LINK, _GET_NEIGHBOUR, _GET_QDISC, _GET_FILTER = 18, 30, 38, 46
_IFINFO = struct.Struct("=BxHiII")
_TCMSG = struct.Struct("=BxxxiIII")
_NDMSG = struct.Struct("=BxxxiHBB")
_IFLA_IFNAME, _TCA_KIND, _NDA_DST = 3, 1, 1
_TC_AT = Connection.HEADER + _TCMSG.size

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Tc:
    """Two rtnetlink sockets: what changes anything goes by pyroute2's. Not thread-safe."""

    def __init__(self) -> None:
        self._netlink = Connection()

    @cached_property
    def _ip(self) -> IPRoute:
        return IPRoute(groups=0)  # it would be told of every change on this host, and read none

    def close(self) -> None:
        self._netlink.close()
        if ip := self.__dict__.pop("_ip", None):
            ip.close()

    # ── links ─────────────────────────────────────────────────────────────────────────

    @kernel_call
    def links(self) -> list[Link]:
        return list(map(read_link, self._netlink.dump(_GET_LINK, _IFINFO.pack(0, 0, 0, 0, 0))))

    @kernel_call
    def link(self, name: str) -> Link | None:
        """The link of that name; one of which it is but an alternative name does not count."""
        asked = _IFINFO.pack(0, 0, 0, 0, 0) + packed([(_IFLA_IFNAME, name.encode() + b"\0")])
        try:
            found = read_link(self._netlink.ask(_GET_LINK, asked))
            return found if found.name == name else None
        except NetlinkError as error:
            if error.code in (errno.ENODEV, errno.ENOENT, errno.ERANGE):  # or no name of a link
                return None
            raise

    @kernel_call
    def add_link(self, name: str, kind: Literal["ifb", "dummy"]) -> Link:
        """Create a link of ours, down. Raises Unsupported when the kernel has no such kind.

        The first of its kind makes the kernel load the module, which may add links of
        its own (``ifb0``, ``ifb1``, ``dummy0``); those are taken away again.
        """
        loads_module = not Path(f"/sys/module/{kind}").exists()
        before = {link.name for link in self.links()} if loads_module else set()
        with _needs(f"the link kind {kind}", name):
            self._ip.link("add", ifname=name, kind=kind)
        if loads_module:
            for link in self.links():
                if link.name not in before and re.fullmatch(rf"{kind}\d+", link.name):
                    self.delete_link(link)
        added = self.link(name)
        if added is None:
            raise ChaosError("the link is gone right after it was added", where=name)
        return added

    @kernel_call
    def raise_link(self, link: Link, clsact_of: int) -> None:
        """Bring a link of ours up; ``clsact_of`` claims that device's clsact (0: claims none)."""
        alias = f"{CLAIM}{clsact_of}" if clsact_of else ""
        self._ip.link("set", index=link.index, state="up", ifalias=alias)

    @kernel_call
    def delete_link(self, link: Link) -> None:
        with _unless_gone():
            self._ip.link("del", index=link.index)

    # ── qdiscs ────────────────────────────────────────────────────────────────────────

    @kernel_call
    def add_netem(self, link: Link, netem: Netem) -> None:
        """Put netem at the root of a link of ours, replacing one that was there."""
        with _needs("the qdisc netem", link.name):
            self._ip.tc(
                "replace", "netem", link.index, handle=_NETEM,
                values=in_ticks(netem), distribution=netem.distribution,
            )  # fmt: skip

    @kernel_call
    def add_tbf(self, link: Link, tbf: Tbf, *, behind_netem: bool = False) -> None:
        """Put a token bucket at the root of one of our links, or behind its netem.

        Its handle is not netem's: the kernel does not replace one kind by another.
        """
        with _needs("the qdisc tbf", link.name):
            self._ip.tc(
                "replace", "tbf", link.index, handle=0x20000,
                parent=_NETEM | 1 if behind_netem else U32,
                rate=tbf.rate, burst=tbf.burst, limit=tbf.limit,
            )  # fmt: skip

    @kernel_call
    def netem(self, link: Link) -> dict[str, int] | None:
        """The root netem's parameters in the kernel's units, as ``in_ticks`` has them."""
        options = self._qdisc(link, "netem", U32)
        return read_netem(options) if options else None

    @kernel_call
    def tbf(self, link: Link, *, behind_netem: bool = False) -> dict[str, int] | None:
        """The tbf's parameters in the kernel's units, as ``tbf_in_ticks`` has them."""
        options = self._qdisc(link, "tbf", _NETEM | 1 if behind_netem else U32)
        parms = options.get_attr("TCA_TBF_PARMS") if options else None
        return {key: int(parms[key]) for key in ("rate", "limit", "buffer")} if parms else None

    @kernel_call
    def queued(self, link: Link) -> int:
        """How many packets wait in the link's root qdisc, with what is behind that."""
        for message in self.dump_qdiscs({link.index}):
            if message["parent"] == U32:
                stats = message.get_attr("TCA_STATS2")
                queue = stats.get_attr("TCA_STATS_QUEUE") if stats else None
                return int(queue["qlen"]) if queue else 0
        return 0

    def _qdisc(self, link: Link, kind: str, parent: int) -> Any:
        """The options of the qdisc below that parent (U32: at the root), if it is of that kind."""
        for message in self.dump_qdiscs({link.index}):
            if message.get_attr("TCA_KIND") == kind and message["parent"] == parent:
                return message.get_attr("TCA_OPTIONS")
        return None

    @kernel_call
    def clsact_devices(self) -> set[int]:
        """The ifindexes of all devices that have a clsact qdisc, ours or not."""
        return {index for index, kind in self.hook_qdiscs().items() if kind == "clsact"}

    @kernel_call
    def hook_qdiscs(self) -> dict[int, str]:
        """``clsact`` or ``ingress``, which exclude each other, by ifindex."""
        found = (
            (_index(one), text(attributes(one, _TC_AT)[_TCA_KIND])) for one in self._list_qdiscs()
        )
        return {index: kind for index, kind in found if kind in ("clsact", "ingress")}

    @kernel_call
    def add_clsact(self, index: int) -> None:
        with _needs("the qdisc clsact", f"ifindex {index}"):
            self._ip.tc("add", "clsact", index)

    @kernel_call
    def delete_clsact(self, index: int) -> None:
        with _unless_gone():
            self._ip.tc("del", "clsact", index)

    # ── filters ───────────────────────────────────────────────────────────────────────

    @kernel_call
    def add_redirect(
        self, device: int, pref: int, mark: int, mask: int, link: Link, *, claim: bool
    ) -> None:
        """Redirect packets marked ``mark``/``mask`` that leave ``device``, all protocols.

        Our bits of the mark have done their work then and are taken off, so that the
        device's own qdiscs classify the packet by the user's bits, as ever.
        """
        unmark = {"kind": "skbedit", "mark": 0, "mask": mask}
        redirect = {
            "kind": "mirred",
            "direction": "egress",
            "action": "redirect",
            "ifindex": link.index,
            "index": action_index(link.index, claim=claim),
        }
        with _needs("the tc classifier fw or the actions skbedit and mirred", link.name):
            self._ip.tc(
                "add-filter", "fw", device, handle=mark, mask=mask, parent=EGRESS, prio=pref,
                protocol=_ETH_P_ALL, action=[unmark, redirect],
            )  # fmt: skip

    @kernel_call
    def add_catch(
        self, device: int, family: Family, asked: Sequence[SetMatch], link: Link, *, claim: bool
    ) -> None:
        """Redirect what enters ``device`` and is as all of ``asked`` say.

        The kernel chooses the preference: there is nobody else's filter beside ours. The
        redirects of both families are one action.
        """
        redirect = {
            "kind": "mirred",
            "direction": "egress",
            "action": "redirect",
            "ifindex": link.index,
            "index": action_index(link.index, claim=claim),
        }
        with _needs("the tc classifier basic or its match ipset", link.name):
            self._ip.tc(
                "add-filter", "basic", device, parent=INGRESS, protocol=_ETH_P[family],
                match=asked, action=[redirect],
            )  # fmt: skip

    @kernel_call
    def redirects(self, device: int) -> list[Redirect]:
        """All filters with a redirect on the device's clsact, foreign ones too."""
        messages = [*self._filters(device, EGRESS), *self._filters(device, INGRESS)]
        return [redirect for redirect in map(read_redirect, messages) if redirect]

    @kernel_call
    def foreign_filters(self, device: int, parent: int = EGRESS) -> list[tuple[int, str, Verdict]]:
        """What others have on that side of the clsact: preference, kind, what it may do."""
        messages = self._filters(device, parent)
        redirects = filter(None, map(read_redirect, messages))
        ours = {redirect.pref for redirect in redirects if redirect.ours}
        found = [
            (message["info"] >> 16, message.get_attr("TCA_KIND"), verdict(message))
            for message in messages
        ]
        return [each for each in found if each[0] not in ours and each[2] != "none"]

    @kernel_call
    def has_filters(self, device: int) -> bool:
        """Whether anything hangs on the device's clsact, on either side."""
        return bool(self._filters(device, EGRESS) or self._filters(device, INGRESS))

    @kernel_call
    def delete_redirect(self, redirect: Redirect) -> None:
        with _unless_gone():
            self._ip.tc(
                "del-filter", index=redirect.device, handle=redirect.handle, parent=redirect.parent,
                info=redirect.pref << 16 | redirect.protocol,
            )  # fmt: skip

    def _filters(self, device: int, parent: int) -> list[Any]:
        try:
            found = self._netlink.dump(_GET_FILTER, _TCMSG.pack(0, device, 0, parent, 0))
        except NetlinkError as error:
            if error.code in (errno.EINVAL, errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
                return []  # no clsact, no device: nothing hangs there
            raise
        return decoded(tcmsg, found)

    @kernel_call
    def unresolved(self, device: int) -> set[Address]:
        """The neighbours there whose link address is sought, or could not be found."""
        found = set()
        for message in self._netlink.dump(_GET_NEIGHBOUR, _NDMSG.pack(0, 0, 0, 0, 0)):
            _, index, state, _, _ = _NDMSG.unpack_from(message, Connection.HEADER)
            if index == device and state & (_NUD_INCOMPLETE | _NUD_FAILED):
                given = attributes(message, Connection.HEADER + _NDMSG.size)
                if _NDA_DST in given:
                    found.add(ipaddress.ip_address(given[_NDA_DST]))
        return found

    @kernel_call
    def next_hops(
        self, device: int, peers: Sequence[Network], among: Iterable[Address]
    ) -> set[Address]:
        """To whom packets to the peers go by that device: those of ``among``, and gateways.

        For one address the kernel is asked; for a net all routes that lead into it count.
        """
        found = {one for one in among if any(one in net for net in peers)}
        for net in peers:
            if net.num_addresses == 1:
                found |= self._gateways(self._route_to(str(net.network_address), device))
                continue
            for route in self._ip.get_routes(family=2 if net.version == 4 else 10):
                start = route.get_attr("RTA_DST") or _ANY[net.version]
                whole = ipaddress.ip_network(f"{start}/{route['dst_len']}", strict=False)
                if route.get_attr("RTA_OIF") == device and net.overlaps(whole):
                    found |= self._gateways([route])
        return found

    def _route_to(self, address: str, device: int) -> list[Any]:
        try:
            return list(self._ip.route("get", dst=address, oif=device))
        except NetlinkError:
            return []  # no way there

    @staticmethod
    def _gateways(routes: Iterable[Any]) -> set[Address]:
        found = [route.get_attr("RTA_GATEWAY") for route in routes]
        found += [(route.get_attr("RTA_VIA") or {}).get("addr") for route in routes]
        return {ipaddress.ip_address(text) for text in found if text}

    # ── raw dumps, for devices and snapshots ───────────────────────────────────────────

    @kernel_call
    def dump_qdiscs(self, devices: Collection[int]) -> list[Any]:
        """Every qdisc of these devices (by ifindex)."""
        return decoded(tcmsg, (one for one in self._list_qdiscs() if _index(one) in devices))

    def _list_qdiscs(self) -> list[bytes]:
        return self._netlink.dump(_GET_QDISC, _TCMSG.pack(0, 0, 0, 0, 0))

    @kernel_call
    def dump_filters(self, device: int) -> list[tuple[str, Any]]:
        """Every filter of the device as (hook, message)."""
        hooks = (("root", 0), ("ingress", INGRESS), ("egress", EGRESS))
        return [(hook, msg) for hook, parent in hooks for msg in self._filters(device, parent)]


def _index(message: bytes) -> int:
    """The ifindex that a message about qdiscs or filters is about."""
    return int(_TCMSG.unpack_from(message, Connection.HEADER)[1])


@contextmanager
def _needs(what: str, where: str) -> Iterator[None]:
    """Turn the kernel's ways of saying "I have no such thing" into Unsupported."""
    try:
        yield
    except NetlinkError as error:
        if error.code in (errno.ENOENT, errno.EOPNOTSUPP):
            raise Unsupported(
                f"this kernel lacks {what} ({error.args[1]})",
                where=where,
                hint=f"{module_hint()}; or use another fault",
            ) from None
        raise


@contextmanager
def _unless_gone() -> Iterator[None]:
    """Deleting what is no longer there is a success."""
    try:
        yield
    except NetlinkError as error:
        if error.code not in (errno.ENOENT, errno.ENODEV, errno.EINVAL):
            raise
