"""What the kernel says about links and filters, as values."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Literal

from chaos_agent.linux.catching import SetMatch, matched_sets
from chaos_agent.linux.netlink import Connection, attributes, text

EGRESS = 0xFFFFFFF3  # clsact's egress hook as a filter's parent
INGRESS = 0xFFFFFFF2
ACTION_TAG = 0x63680000  # "ch" in the upper half of the action's index
CLAIM_TAG = 0x63690000  # the same, of a filter that claims the clsact it hangs on
CLAIM = "chaos clsact="  # a link's alias, before the ifindex
U32 = 2**32 - 1
_INDEX_MASK = 0xFFFF
# struct ifinfomsg and linux/if_link.h
_LINK_AT, _ATTRIBUTES_AT = Connection.HEADER + 4, Connection.HEADER + 16
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_IFALIAS, _INFO_KIND = 3, 18, 20, 1
_IFF_UP = 1
_IFF_LOOPBACK = 8
_CONTINUE = -1  # gact's verdicts, TC_ACT_*
_LETS_THROUGH = (0, 3)  # ok and pipe

Verdict = Literal["none", "goes on", "lets through", "unknown"]


@dataclass(frozen=True, slots=True)
class Link:
    """A network device. ``clsact_of`` is the ifindex whose clsact this link claims, or 0."""

    index: int
    name: str
    kind: str
    up: bool
    loopback: bool
    clsact_of: int = 0


@dataclass(frozen=True, slots=True)
class Redirect:
    """A filter on clsact that redirects to ``target`` (an ifindex, 0 if it is gone).

    At egress one by mark (fw), of which ``cleared`` are the bits that it takes off the
    packet first; at ingress one by ``sets`` (basic). ``packets`` is how many it has
    redirected, ``refused`` how many of them the target's qdisc was too full for: the kernel's
    overlimits of the action. What netem loses on purpose counts as taken.
    """

    device: int
    parent: int
    handle: int
    pref: int
    mark: int
    mask: int
    target: int
    action: int
    protocol: int
    cleared: int
    packets: int
    sets: tuple[SetMatch, ...] = ()
    refused: int = 0

    @property
    def ours(self) -> bool:
        return self.action & ~_INDEX_MASK in (ACTION_TAG, CLAIM_TAG)

    @property
    def claims(self) -> bool:
        """Whether the clsact it hangs on was added by us."""
        return self.action & ~_INDEX_MASK == CLAIM_TAG

    def leads_to(self, link: Link) -> bool:
        """Whether this is the redirect to that link of ours."""
        return self.ours and self.action & _INDEX_MASK == link.index & _INDEX_MASK


def action_index(link_index: int, *, claim: bool) -> int:
    """The index that tags the redirect to one of our links."""
    return (CLAIM_TAG if claim else ACTION_TAG) | link_index & _INDEX_MASK


def read_link(message: bytes) -> Link:
    """A netlink message about a link, with its header."""
    index, flags = struct.unpack_from("=iI", message, _LINK_AT)
    given = attributes(message, _ATTRIBUTES_AT)
    about = attributes(given.get(_IFLA_LINKINFO, b""), 0)
    alias = text(given.get(_IFLA_IFALIAS, b""))
    claimed = alias.removeprefix(CLAIM) if alias.startswith(CLAIM) else ""
    return Link(
        index=index,
        name=text(given.get(_IFLA_IFNAME, b"")),
        kind=text(about.get(_INFO_KIND, b"")),
        up=bool(flags & _IFF_UP),
        loopback=bool(flags & _IFF_LOOPBACK),
        clsact_of=int(claimed) if claimed.isdigit() else 0,
    )


def read_redirect(message: Any) -> Redirect | None:
    """The message as a Redirect; None for filters of any other make."""
    options = message.get_attr("TCA_OPTIONS")
    kind = message.get_attr("TCA_KIND")
    if kind not in ("fw", "basic") or not hasattr(options, "get") or not message["handle"]:
        return None
    by_kind = {action.get_attr("TCA_ACT_KIND"): action for action in _actions(options)}
    action = by_kind.get("mirred")
    if action is None:
        return None
    parms = action.get_attr("TCA_ACT_OPTIONS").get_attr("TCA_MIRRED_PARMS")
    if parms["eaction"] != 1:  # egress redirect
        return None
    edit = by_kind.get("skbedit")
    cleared = edit.get_attr("TCA_ACT_OPTIONS").get_attr("TCA_SKBEDIT_MASK") if edit else 0
    stats = action.get_attr("TCA_ACT_STATS")
    counted, queue = stats.get_attr("TCA_STATS_BASIC"), stats.get_attr("TCA_STATS_QUEUE")
    by_mark = kind == "fw"
    mask = options.get_attr("TCA_FW_MASK") if by_mark else 0
    return Redirect(
        device=message["index"],
        parent=message["parent"],
        handle=message["handle"],
        pref=message["info"] >> 16,
        mark=message["handle"] if by_mark else 0,
        mask=U32 if mask is None else mask,
        target=parms["ifindex"],
        action=parms["index"],
        protocol=message["info"] & 0xFFFF,
        cleared=cleared or 0,
        packets=counted["packets"],
        sets=() if by_mark else matched_sets(options),
        refused=queue["overlimits"] if queue else 0,
    )


def verdict(message: Any) -> Verdict:
    """What a foreign filter can do to a packet that it matches, as far as can be told."""
    options = message.get_attr("TCA_OPTIONS")
    if not hasattr(options, "get"):
        return "unknown" if options else "none"  # "none": not a filter, but the head of several
    if options.get_attr("TCA_U32_DIVISOR"):
        return "none"
    if message.get_attr("TCA_KIND") not in ("u32", "fw", "matchall", "basic", "flow"):
        return "unknown"  # a bpf program, say
    actions = _actions(options)
    if any(action.get_attr("TCA_ACT_KIND") != "gact" for action in actions):
        return "unknown"
    ends = {
        action.get_attr("TCA_ACT_OPTIONS").get_attr("TCA_GACT_PARMS")["action"]
        for action in actions
    }
    if actions and ends == {_CONTINUE}:
        return "goes on"
    return "lets through" if ends <= {_CONTINUE, *_LETS_THROUGH} else "unknown"


def _actions(options: Any) -> list[Any]:
    """The actions of a filter, in order."""
    listed = next((value for name, value in options["attrs"] if name.endswith("_ACT")), None)
    return [action for _, action in listed["attrs"]] if listed else []
